"""Training by batch size, against a perceptron, its gradient and Adam in NumPy, in float64."""

import jax
import numpy as np
import pytest

from lnjax.analysis import (
    Examples,
    Perceptron,
    PerceptronCurves,
    Split,
    example_order,
    init_perceptron,
    split_examples,
    train_perceptron,
)
from tests.norm_oracles import batch_norm, batch_statistics, standardize

D, H, K = 3, 4, 10
EPSILON = 1e-5


def digits(rng, **sizes):
    """Sets of examples whose label the first coordinate decides."""
    parts = []
    for number in sizes.values():
        images = rng.normal(size=(number, D))
        parts.append(Examples(images, (images[:, 0] > 0).astype(np.int32)))
    return Split(*parts)


def forward(params, images, norm, statistics=None):
    """Logits (B, K), and mean and variance of each hidden layer; running ones may be given."""
    x, seen = images, []
    for i in range(2):
        layer = params[f"hidden_{i}"]
        summed = x @ layer["kernel"]
        gain_and_bias = layer.get("scale"), layer["bias"]
        if norm == "batch":
            mean, variance = batch_statistics(summed, unbiased=True)
            seen.append((mean, variance))
            used = (mean, variance) if statistics is None else statistics[i]
            y = batch_norm(summed, *gain_and_bias, epsilon=EPSILON, statistics=used)
        elif norm == "layer":
            y = np.array([standardize(row, EPSILON) for row in summed])
            y = y * gain_and_bias[0] + gain_and_bias[1]
        else:
            y = summed + gain_and_bias[1]
        # At exactly 0, where a layer stands whose inputs are all off, its slope counts as 0
        x = np.where(y > 1e-5, y, 0)
    return x @ params["logits"]["kernel"] + params["logits"]["bias"], seen


def nll(logits, labels):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    return log_sum - shifted[np.arange(len(labels)), labels]


def numeric_gradient(value, params, h=1e-6):
    grads = jax.tree.map(np.zeros_like, params)
    for leaf, grad in zip(jax.tree.leaves(params), jax.tree.leaves(grads), strict=True):
        for i in np.ndindex(leaf.shape):
            kept = leaf[i]
            leaf[i] = kept + h
            above = value()
            leaf[i] = kept - h
            grad[i] = (above - value()) / (2 * h)
            leaf[i] = kept
    return grads


def trained_by_hand(data, norm, batch_size, rate, seed, num_epochs, memory, features):
    """NLL (P, 3, 2), with derivatives by differences, Adam from its paper, momentum as a loop."""
    network = Perceptron(norm, features=features, param_dtype=np.float64)
    params = init_perceptron(network, D, seed=seed)["params"]
    running = [(np.zeros(features), np.ones(features)) for _ in range(2)]
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    keep, step, curve = 1 - batch_size / memory, 0, []
    order = example_order(len(data.train.labels), seed + 1, num_epochs)[seed]
    for epoch in range(num_epochs + 1):
        scores = []
        for images, labels in data:
            batches = np.split(np.arange(len(labels)), len(labels) // batch_size)
            own = [nll(forward(params, images[b], norm)[0], labels[b]).mean() for b in batches]
            used = nll(forward(params, images, norm, running)[0], labels).mean()
            scores.append((np.mean(own), used))
        curve.append(scores)
        if epoch == num_epochs:
            break
        for places in order[epoch].reshape(-1, batch_size):
            images, labels = data.train.images[places], data.train.labels[places]

            def loss(images=images, labels=labels):
                return nll(forward(params, images, norm)[0], labels).mean()

            seen = forward(params, images, norm)[1]
            grads = numeric_gradient(loss, params)
            running = [
                tuple(keep * old + (1 - keep) * new for old, new in zip(pair, now, strict=True))
                for pair, now in zip(running, seen or running, strict=True)
            ]
            step += 1
            trees = (jax.tree.leaves(tree) for tree in (params, grads, first, second))
            for p, g, m, v in zip(*trees, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g**2 - v)
                p -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return np.array(curve)


@pytest.mark.parametrize("norm", ["layer", "batch", None])
def test_training_is_that_of_a_loop(norm, rng, x64):
    data = digits(rng, train=8, held_out=4, test=4)
    options = {"num_epochs": 3, "memory": 16, "features": H}
    curves = train_perceptron(
        data, norm=norm, batch_size=4, learning_rates=[1e-2, 5e-2], num_seeds=2, **options
    )
    assert curves.nll.shape == curves.error.shape == (4, 2, 2, 3, 2)
    for (rate, seed) in ((0, 1), (1, 0)):  # fmt: skip
        expected = trained_by_hand(data, norm, 4, curves.learning_rates[rate], seed, **options)
        np.testing.assert_allclose(curves.nll[:, rate, seed], expected, rtol=1e-5, atol=1e-6)
    # The modes part with batch norm and with no other
    assert np.array_equal(curves.nll[..., 0], curves.nll[..., 1]) == (norm != "batch")
    assert np.all(curves.epochs == np.arange(4))


def test_in_a_batch_of_one_batch_norm_learns_the_frequencies_alone(rng):
    data = digits(rng, train=64, held_out=16, test=16)
    data = Split(*(Examples(p.images.astype(np.float32), p.labels) for p in data))
    options = {"batch_size": 1, "learning_rates": [1e-2], "num_seeds": 2, "num_epochs": 4}
    batch = train_perceptron(data, norm="batch", features=8, memory=32, **options)
    layer = train_perceptron(data, norm="layer", features=8, **options)
    share = np.array([(p.labels == 0).mean() for p in data])
    final = batch.nll[-1, 0, :, :, 0]  # (S, 3)
    # A constant guess can be no better than the frequencies of the classes ...
    floor = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert np.all(final > floor - 1e-4) and np.all(final[:, 0] < floor[0] + 0.3)
    # ... and errs on a whole class,
    wrong = batch.error[-1, 0, :, :, 0]
    np.testing.assert_allclose(np.minimum(abs(wrong - share), abs(wrong - 1 + share)), 0, atol=1e-6)
    # where layer norm tells the two apart.
    assert np.all(layer.nll[-1, 0, :, 0] < 0.5 * final[:, 0])


def test_all_runs_of_a_seed_begin_alike(rng, x64):
    data = digits(rng, train=8, held_out=4, test=4)
    runs = [
        train_perceptron(
            data, norm="layer", batch_size=size, learning_rates=[1e-3], num_epochs=0, features=H
        )
        for size in (1, 4)
    ]
    np.testing.assert_array_equal(runs[0].nll, runs[1].nll)
    assert len(np.unique(runs[0].nll[0, 0, :, 0, 0])) == 3


def test_kernels_have_the_variance_of_he():
    network = Perceptron("batch", features=200)
    for seed in range(2):
        variables = init_perceptron(network, 50, seed=seed)
        shapes = jax.eval_shape(
            lambda images: network.init(jax.random.key(0), images, train=True), np.ones((1, 50))
        )
        assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)
        for layer, inputs in (("hidden_0", 50), ("hidden_1", 200), ("logits", 200)):
            params = variables["params"][layer]
            np.testing.assert_allclose(params["kernel"].std(), (2 / inputs) ** 0.5, rtol=0.1)
            assert not params["bias"].any() and np.all(params.get("scale", 1) == 1)
        assert np.all(variables["batch_stats"]["hidden_1"]["var"] == 1)
        assert not variables["batch_stats"]["hidden_1"]["mean"].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 2, 3)])
def test_the_order_of_examples(shape):
    examples, seeds, epochs = shape
    order = example_order(examples, seeds, epochs)
    assert order.shape == (seeds, epochs, examples)
    assert np.array_equal(np.sort(order), np.broadcast_to(np.arange(examples), order.shape))
    # A seed's order does not depend on how many seeds or epochs there are
    assert np.array_equal(example_order(examples, seeds + 1, epochs + 1)[:seeds, :epochs], order)
    assert examples == 1 or len(np.unique(order.reshape(-1, examples), axis=0)) > 1


def test_the_chosen_rate_is_that_of_the_held_out_set():
    nll = np.ones((2, 4, 3, 3, 2))
    nll[-1, 2, :, 1, 1] = 0.5
    nll[-1, 1, :, [0, 2], :] = 0.1  # other sets,
    nll[-1, 0, :, 1, 0] = 0.1  # the other mode,
    nll[0, 3, :, 1, 1] = 0.1  # the beginning,
    curves = PerceptronCurves("batch", 4, np.arange(4.0), np.arange(2), nll, nll)
    assert curves.chosen == 2
    nll[-1, 1, 0, 1, 1] = np.nan  # and what diverged do not count
    nll[-1, 3, 0, 1, 1] = -np.inf
    assert curves.chosen == 2


@pytest.mark.parametrize("sizes", [(3, 2, 1), (4, 4, 2), (1, 0, 0)])
def test_a_split_deals_each_example_once(sizes, rng):
    images = rng.normal(size=(10, D))
    train, held_out, test = sizes
    parts = split_examples(images, np.arange(10), train=train, held_out=held_out, test=test)
    assert tuple(len(part.labels) for part in parts) == sizes
    labels = np.concatenate([part.labels for part in parts])
    assert len(set(labels)) == sum(sizes)
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), images[labels])
    other = split_examples(images, np.arange(10), train=10, held_out=0, test=0, seed=1)
    assert not np.array_equal(other.train.labels[: len(labels)], labels) or sum(sizes) == 1


def test_what_cannot_be_trained_is_refused(rng):
    data = digits(rng, train=8, held_out=6, test=4)
    with pytest.raises(ValueError, match="6 examples of 'held_out' make no whole number"):
        train_perceptron(data, norm="layer", batch_size=4, learning_rates=[1e-3])
    with pytest.raises(ValueError, match="memory=1 examples is less than a batch of 2"):
        train_perceptron(data, norm="batch", batch_size=2, learning_rates=[1e-3], memory=1)
    with pytest.raises(ValueError, match="10 images and 10 labels cannot be dealt into 8"):
        split_examples(np.ones((10, 2)), np.ones(10), train=8, held_out=2, test=1)

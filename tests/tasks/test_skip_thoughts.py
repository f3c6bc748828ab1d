"""Skip-thoughts: network and loss against a loop in NumPy, the softmax in pieces, the metrics."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import skip_thoughts as config_file
from lnjax.data.vocabulary import Vocabulary
from tasks import skip_thoughts
from tasks.skip_thoughts import SkipThoughtsTask, softmax
from tests import oracles

WORDS = tuple("abcdefg")
V, H, E, T = len(WORDS) + 2, 5, 3, 6
TASK = SkipThoughtsTask(
    vocabulary=Vocabulary(WORDS),
    embedding_features=E,
    features=H,
    conditioned=False,
    objective="word",
    probability_floor=0.0,
    softmax_rows=4,
    init_scale=0.1,
    norm="layer",
    dtype="float32",
)
TASKS = {
    "layer": TASK,
    "rms": dataclasses.replace(TASK, norm="rms"),
    "conditioned": dataclasses.replace(TASK, norm=None, conditioned=True),
}
LENGTHS = {
    "previous": [1, 6, 3, 0],
    "centre": [4, 1, 6, 0],
    "next": [5, 2, 6, 0],
    "other": [1, 6, 4, 0],
}


@pytest.fixture
def batch(rng):
    """Three rows and one of padding; behind an end stands no 0, to be seen if it is used."""
    ids = {
        part: rng.integers(2, V, (4, T)).astype(np.int32) * (np.arange(T)[None] != length - 1)
        for part, length in ((p, np.array(n)[:, None]) for p, n in LENGTHS.items())
    }
    lengths = {f"{part}_length": np.array(n, np.int32) for part, n in LENGTHS.items()}
    return ids | lengths | {"mask": np.array([True, True, True, False])}


@cache
def shapes(task):
    return jax.eval_shape(task.init, jax.random.key(0), {})["params"]


def random_params(task, rng):
    return jax.tree.map(
        lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(np.float32), shapes(task)
    )


def expected_nats(task, params, batch, centre):
    """Nats of every neighbour of every row, word by word in float64: (rows, 2)."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    table = p["embedding"]
    out = np.zeros((len(batch["mask"]), 2))
    for row in range(len(out)):
        s = np.zeros(H)
        for t in range(batch[f"{centre}_length"][row]):
            x = table[batch[centre][row, t]]
            s = oracles.gru_step(p["encoder"]["cell"], s, x, norm=task.norm)
        for side, name in enumerate(("previous", "next")):
            h, x = s, np.zeros(E)
            for t in range(batch[f"{name}_length"][row]):
                inputs = np.concatenate([x, s]) if task.conditioned else x
                h = oracles.gru_step(p[name]["cell"], h, inputs, norm=task.norm)
                logits = h @ p["kernel"] + p["bias"]
                target = batch[name][row, t]
                out[row, side] += np.log(np.exp(logits).sum()) - logits[target]
                x = table[target]
    return out


def loss_of(task, params, batch, train=True):
    return task.loss(params, {}, batch, {}, train=train)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.some(2)
def test_loss_is_that_of_a_loop(rng, batch, name):
    task = TASKS[name]
    params = random_params(task, rng)
    right = expected_nats(task, params, batch, "centre")
    wrong = expected_nats(task, params, batch, "other")
    words = sum(LENGTHS["previous"]) + sum(LENGTHS["next"])

    loss, aux = jax.jit(partial(loss_of, task))(params, batch)
    assert loss == pytest.approx(right.sum() / words, rel=1e-5)
    assert [float(x) for x in aux.sums["loss"]] == pytest.approx([right.sum(), words])

    loss, aux = jax.jit(partial(loss_of, task, train=False))(params, batch)
    assert loss == pytest.approx(right.sum() / words, rel=1e-5)
    found = task.metrics({name: tuple(map(float, pair)) for name, pair in aux.sums.items()})
    assert set(found) == {
        *("loss", "nats_per_word", "nats_per_word_wrong_centre"),
        *("centre_gain", "centre_gain_standard_error"),
    }
    assert found["nats_per_word"] == pytest.approx(right.sum() / words, rel=1e-5)
    assert found["nats_per_word_wrong_centre"] == pytest.approx(wrong.sum() / words, rel=1e-5)
    # The standard error of a ratio of means, from its definition.
    gain = (wrong - right).sum(axis=1)[:3]
    lengths = np.add(LENGTHS["previous"], LENGTHS["next"])[:3]
    ratio = gain.sum() / lengths.sum()
    residual = gain - ratio * lengths
    error = np.sqrt(3 / 2 * (residual**2).sum()) / lengths.sum()
    assert found["centre_gain"] == pytest.approx(ratio, rel=1e-3)
    assert found["centre_gain_standard_error"] == pytest.approx(error, rel=1e-3)


def test_gradient_is_that_of_the_plain_softmax(rng, batch):
    """Through the whole network, with the logits of all words there at once."""
    params = random_params(TASK, rng)

    def plain(params):
        vectors = TASK._apply(params, batch["centre"], batch["centre_length"], method="encode")
        readout, states, targets, mask = TASK._predictions(params, vectors, batch)
        log_p = jax.nn.log_softmax(states @ readout.kernel + readout.bias[None])
        log_p = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
        return -jnp.sum(log_p * mask) / jnp.sum(mask)

    value, expected = jax.jit(jax.value_and_grad(plain))(params)
    found = jax.jit(jax.value_and_grad(lambda p: loss_of(TASK, p, batch)[0]))(params)
    assert float(found[0]) == pytest.approx(float(value), rel=1e-6)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


@partial(jax.jit, static_argnames="task")
def nats_of_words(task, params, batch):
    """Nats of every word of the neighbours, and which of them are real."""
    vectors = task._apply(params, batch["centre"], batch["centre_length"], method="encode")
    arguments = task._predictions(params, vectors, batch)
    return softmax.nats(*arguments, rows=4), arguments[-1]


def test_objective_of_the_authors(rng, batch):
    """The sum over the batch, of -log(p + 1e-8): with a large floor the difference is seen."""
    task = dataclasses.replace(TASK, objective="batch", probability_floor=0.05)
    params = random_params(task, rng)
    lost, real = map(np.asarray, nats_of_words(task, params, batch))
    assert np.count_nonzero(lost) == np.sum(real)
    expected = -(np.log(np.exp(-np.float64(lost)) + 0.05) * real).sum()
    loss, aux = loss_of(task, params, batch)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert float(aux.sums["loss"][0]) == pytest.approx(expected, rel=1e-5)
    assert float(aux.sums["loss"][1]) == real.sum()


def test_padding_reaches_nothing(rng, batch):
    """Other ids behind the ends and in the row of padding: the same loss and gradients."""
    params = random_params(TASK, rng)
    function = jax.jit(jax.value_and_grad(lambda p, b: loss_of(TASK, p, b)[0]))
    changed = dict(batch)
    for part, lengths in LENGTHS.items():
        behind = np.arange(T)[None] >= np.array(lengths)[:, None]
        changed[part] = np.where(behind, (batch[part] + 3) % V, batch[part]).astype(np.int32)
        assert (changed[part] != batch[part]).any()
    for a, b in zip(
        jax.tree.leaves(function(params, batch)),
        jax.tree.leaves(function(params, changed)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_nan_in_the_padding_reaches_nothing(rng, batch):
    """Behind the ends, and in the row of padding, stands a word whose vector is NaN."""
    params = random_params(TASK, rng)
    function = jax.jit(jax.value_and_grad(lambda p, b: loss_of(TASK, p, b)[0]))
    clean, dirty = dict(batch), dict(batch)
    for part, lengths in LENGTHS.items():
        behind = np.arange(T)[None] >= np.array(lengths)[:, None]
        behind |= ~batch["mask"][:, None]
        clean[part] = np.where(batch[part] == V - 1, 2, batch[part])
        dirty[part] = np.where(behind, V - 1, clean[part])
        assert (dirty[part] == V - 1).any()
    poured = jax.tree.map(np.copy, params)
    (table,) = (
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(poured)
        if leaf.shape == (V, E) and "embedding" in jax.tree_util.keystr(path)
    )
    table[V - 1] = np.nan
    jax.tree.map(np.testing.assert_array_equal, function(poured, dirty), function(params, clean))


@pytest.fixture(scope="module")
def words():
    rng = np.random.default_rng(1)
    readout = softmax.Readout(rng.normal(size=(H, V)), rng.normal(size=V))
    return readout, rng.normal(size=(11, H)), rng.integers(0, V, 11)


@partial(jax.jit, static_argnames="rows")
def three_totals(readout, hidden, targets, mask, rows):
    """Three times the sum of the nats, and its gradients to the readout and the states."""
    return jax.value_and_grad(
        lambda *args: 3 * softmax.total(*args, targets, mask, rows), argnums=(0, 1)
    )(readout, hidden)


@pytest.mark.parametrize("rows", [1, 4, 11, 16])
@pytest.mark.parametrize("real", [[], [3], [0, 1, 5, 6, 10], range(11)])
@pytest.mark.some(6)
def test_softmax_in_pieces(x64, words, rows, real):
    readout, hidden, targets = words
    mask = np.isin(np.arange(11), list(real))
    hidden = np.where(mask[:, None], hidden, np.nan)
    logits = hidden @ readout.kernel + readout.bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.where(mask, -np.log(p[np.arange(11), targets]), 0)
    found = softmax.nats(readout, hidden, targets, mask, rows=rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)

    d_logits = np.where(mask[:, None], p - np.eye(V)[targets], 0)
    value, (d_readout, d_hidden) = three_totals(readout, hidden, targets, mask, rows)
    assert value == pytest.approx(3 * expected.sum(), rel=1e-6)
    states = np.where(mask[:, None], hidden, 0)
    for a, b in (
        (d_readout.kernel, 3 * states.T @ d_logits),
        (d_readout.bias, 3 * d_logits.sum(axis=0)),
        (d_hidden, 3 * d_logits @ readout.kernel.T),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_softmax_makes_no_more_logits_than_it_is_told(words):
    """No array of the program, forward or backward, has as many rows as words and a vocabulary."""
    readout, hidden, targets = jax.tree.map(jnp.asarray, words)
    many = 64
    hidden, targets = jnp.tile(hidden, (many, 1)), jnp.tile(targets, many)
    mask = jnp.ones(len(targets), bool)
    lowered = jax.jit(
        jax.grad(lambda r, h: softmax.total(r, h, targets, mask, 16), argnums=(0, 1))
    ).lower(readout, hidden)
    text = lowered.as_text()
    assert f"tensor<16x{V}xf32>" in text
    assert f"tensor<{len(targets)}x{V}xf32>" not in text


def test_floor_has_its_own_gradient(x64, words):
    readout, hidden, targets = words
    mask = np.arange(11) != 3

    def plain(readout, hidden):
        p = jax.nn.softmax(hidden @ readout.kernel + readout.bias[None])[np.arange(11), targets]
        return -jnp.sum(jnp.where(mask, jnp.log(p + 0.2), 0))

    def pieces(readout, hidden):
        return softmax.total(readout, hidden, targets, mask, 4, 0.2)

    expected, found = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(readout, hidden) for f in (plain, pieces)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_number_of_parameters_at_the_papers_size():
    """125.7M, and 86,400 more with layer norm, in the paper's way of counting.

    The paper's cells have a bias each for gates and candidate, 3H, and with the norm four pairs of
    gain and bias, 12H. Here what is added to one sum is one bias, and the bias that the reset gate
    scales is there without a norm too (H): 4H biases in both cases, and 6H gains with the norm.
    """
    config = config_file.get_config("paper")
    spec = {"vocabulary": [str(i) for i in range(config.vocabulary_size - 2)]}

    def count(norm):
        config.norm = norm
        task = skip_thoughts.make_task(config, spec)
        params = jax.eval_shape(task.init, jax.random.key(0), {})["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    width, embedding, size = 2400, 620, 20_000
    gru = (embedding + width) * 3 * width + 3 * width
    papers = size * embedding + 3 * gru + width * size + size
    assert round(papers / 1e6, 1) == 125.7 and round(gru / 1e6, 2) == 21.75
    assert count("none") == papers + 3 * width
    assert 3 * 12 * width == 86_400
    assert count("layer") - count("none") == 3 * 6 * width
    assert count("layer") == papers + 86_400 - 3 * 5 * width


def test_initial_values():
    task = dataclasses.replace(TASK, features=64, embedding_features=32, init_scale=0.2)
    params = jax.jit(task.init)(jax.random.key(0), {})["params"]
    for kernel in (params["embedding"], params["kernel"], params["next"]["cell"]["kernel"]):
        assert 0.19 < np.abs(kernel).max() <= 0.2
        assert np.std(kernel) == pytest.approx(0.2 / np.sqrt(3), rel=0.1)
    for name in ("encoder", "previous", "next"):
        for gate in np.split(np.asarray(params[name]["cell"]["recurrent_kernel"]), 3, axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(64), atol=1e-5)
    assert not np.any(params["bias"])


def make_config(**changes):
    config = ConfigDict(config_file.get_config("smoke").to_dict())
    config.update(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "norm='batch' is not known; skip_thoughts has 'layer', 'rms', 'none'"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"objective": "sentence"}, "objective='sentence'"),
        ({"features": 1}, "features=1 must be at least 2"),
        ({"softmax_rows": 0}, "softmax_rows=0 must be at least 1"),
        ({"vocabulary_size": 2}, "vocabulary_size=2 must be at least 3"),
        ({"init_scale": 0.0}, "init_scale=0.0 must be positive"),
        ({"probability_floor": 1.0}, "probability_floor=1.0"),
    ],
)
def test_configs_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        skip_thoughts.make_task(make_config(**changes), {"vocabulary": ["a"]})


def test_the_papers_numbers():
    config = config_file.get_config("paper")
    paper = {
        "features": 2400,
        "embedding_features": 620,
        "vocabulary_size": 20_000,
        "learning_rate": 2e-4,
        "batch_size": 64,
        "clip_norm": 5.0,
        "clip": "global",
        "adam": "authors",
        "objective": "batch",
        "probability_floor": 1e-8,
        "num_steps": 1_000_000,
        "eval_steps": 50_000,
        "max_words": 29,
        "length_step": 1,
        "conditioned": False,
        "init_scale": 0.1,
    }
    assert {key: config[key] for key in paper} == paper

"""Order embeddings: encoders, order, loss, evaluation and the batches, against loops in NumPy."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import order_embeddings as config_file
from lnjax.data import DataError
from lnjax.data.vocabulary import Vocabulary
from lnjax.training.optimizer import make_optimizer
from tasks import order_embeddings
from tasks.order_embeddings import OrderTask, order
from tests import oracles, trees
from tests.data.coco_folder import CocoFolder
from tests.jaxprs import equations

F, W, H, B, K, T = 5, 3, 4, 4, 2, 6
SPEC = {"words": [*"abcdef"], "num_features": F}
TASK = OrderTask(
    vocabulary=Vocabulary(tuple("abcdef")),
    num_features=F,
    features=H,
    word_features=W,
    norm="layer",
    similarity="order",
    margin=0.5,
    dtype="float32",
    fold_images=2,
)
CASES = [
    TASK,
    dataclasses.replace(TASK, norm="rms"),
    dataclasses.replace(TASK, norm=None, similarity="cosine"),
]
every_case = pytest.mark.parametrize("task", CASES, ids=["layer", "rms", "none-cosine"])


def make_batch(rng, rows=B, padding=1, dtype=np.float32):
    """Random images and captions of which the last `padding` rows are none, as a pipeline pads."""
    lengths = rng.integers(1, T + 1, (rows, K)).astype(np.int32)
    tokens = rng.integers(2, 8, (rows, K, T)).astype(np.int32)
    tokens[np.arange(T) >= lengths[..., None] - 1] = 0
    batch = {
        "features": rng.random((rows, F)).astype(dtype),
        "tokens": tokens,
        "lengths": lengths,
        "image": np.arange(rows, dtype=np.int32),
        "mask": np.ones(rows, bool),
    }
    for leaf in batch.values():
        leaf[rows - padding :] = 0
    return batch


@cache
def shapes(task):
    return jax.eval_shape(task.init, jax.random.key(0), {})["params"]


def random_params(task, rng, dtype=np.float32):
    """Parameters none of which has a value (0 or 1) that could hide its absence."""
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(dtype), shapes(task))


@partial(jax.jit, static_argnames=("task",))
def loss(task, params, batch):
    value, aux = task.loss(params, {}, batch, {}, train=True)
    return value, aux.sums


@partial(jax.jit, static_argnames=("task",))
def outputs(task, params, batch):
    return task.outputs(params, {}, batch, {})


# ---------------------------------------------------------------------------------- the oracle


def embed(task, x):
    length = sum(value**2 for value in x) ** 0.5
    x = x / length if length > 0 else x
    return np.abs(x) if task.similarity == "order" else x


def caption(task, params, tokens, length):
    cell = params["sentence"]["cell"]
    h = np.zeros(H)
    for token in tokens[:length]:
        x = np.asarray(params["words"]["embedding"], np.float64)[token]
        h = oracles.gru_step(cell, h, x, task.norm)
    return embed(task, h)


def image(task, params, features):
    kernel, bias = (np.asarray(params["image"][name], np.float64) for name in ("kernel", "bias"))
    return embed(task, np.asarray(features, np.float64) @ kernel + bias)


def distance(task, c, i):
    if task.similarity == "cosine":
        return -sum(a * b for a, b in zip(c, i, strict=True))
    return sum(max(0.0, a - b) ** 2 for a, b in zip(c, i, strict=True))


def hinges(task, batch, captions, images):
    """Every term of the loss, one by one."""
    rows = [row for row in range(len(batch["mask"])) if batch["mask"][row]]
    for j in rows:
        for k in rows:
            if batch["image"][j] != batch["image"][k]:
                e = distance(task, captions[j], images[k])
                yield max(0.0, task.margin - e + distance(task, captions[k], images[k]))
                yield max(0.0, task.margin - e + distance(task, captions[j], images[j]))


def oracle(task, params, batch):
    """The loss, and how many of its terms are positive."""
    rows = range(len(batch["mask"]))
    captions = [caption(task, params, batch["tokens"][r, 0], batch["lengths"][r, 0]) for r in rows]
    images = [image(task, params, batch["features"][r]) for r in rows]
    terms = list(hinges(task, batch, captions, images))
    return sum(terms), sum(term > 0 for term in terms), len(terms)


# ------------------------------------------------------------------------------------ the model


@every_case
def test_loss_is_the_papers_sum(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params, batch = random_params(task, rng, np.float64), make_batch(rng, dtype=np.float64)
    value, sums = loss(task, params, batch)
    expected, positive, number = oracle(task, params, batch)
    assert expected > 0 and 0 < positive and number == 2 * 3 * 2
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(sums["loss"], (expected, 3), rtol=1e-10)
    np.testing.assert_allclose(sums["violations"], (positive, number))


@every_case
def test_embeddings(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params, batch = random_params(task, rng, np.float64), make_batch(rng, dtype=np.float64)
    got = outputs(task, params, batch)
    for row in range(B - 1):
        expected = image(task, params, batch["features"][row])
        np.testing.assert_allclose(got["images"][row], expected, rtol=1e-10)
        for k in range(K):
            expected = caption(task, params, batch["tokens"][row, k], batch["lengths"][row, k])
            np.testing.assert_allclose(got["captions"][row, k], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(got["captions"][B - 1], np.zeros((K, H)))
    assert (got["images"].min() >= 0) == (task.similarity == "order")


@every_case
@pytest.mark.some(2)
def test_gradients_are_the_derivatives(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params, batch = random_params(task, rng, np.float64), make_batch(rng, dtype=np.float64)
    leaves, structure = jax.tree.flatten(params)
    named = {str(number): leaf for number, leaf in enumerate(leaves)}

    def function(**values):
        return oracle(task, structure.unflatten(values.values()), batch)[0]

    gradient = jax.jit(jax.grad(lambda params: loss(task, params, batch)[0]))(params)
    expected = oracles.numerical_gradients(function, named)
    for got, name in zip(jax.tree.leaves(gradient), named, strict=True):
        np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-7)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradient))


def test_float32_is_near(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    np.testing.assert_allclose(
        loss(TASK, params, batch)[0], oracle(TASK, params, batch)[0], rtol=1e-5
    )
    half = dataclasses.replace(TASK, dtype="bfloat16")
    value, _ = loss(half, params, batch)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, oracle(TASK, params, batch)[0], rtol=0.1)
    assert value != loss(TASK, params, batch)[0]


def test_what_stands_in_the_padding_reaches_nothing(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    fewer = {name: leaf[: B - 1].copy() for name, leaf in batch.items()}
    gradient = jax.jit(jax.grad(lambda params, batch: loss(TASK, params, batch)[0]))
    expected = (loss(TASK, params, fewer), gradient(params, fewer))
    trees.assert_close((loss(TASK, params, batch), gradient(params, batch)), expected)
    batch["image"][B - 1], batch["tokens"][B - 1] = 77, 3
    batch["features"][B - 1] = 5.0
    trees.assert_close((loss(TASK, params, batch), gradient(params, batch)), expected)
    # NaN: the image, and behind every end, and in the row of padding, a word with such a vector.
    batch["features"][B - 1] = np.nan
    behind = np.arange(T) >= batch["lengths"][..., None]
    batch["tokens"][behind] = 1
    batch["tokens"][B - 1] = 1
    assert behind[: B - 1].any() and not (fewer["tokens"] == 1).any()
    params["words"]["embedding"] = np.array(params["words"]["embedding"])
    params["words"]["embedding"][1] = np.nan
    trees.assert_close((loss(TASK, params, batch), gradient(params, batch)), expected)


def test_an_image_is_no_contrast_of_itself(rng):
    params, batch = random_params(TASK, rng), make_batch(rng, padding=0)
    batch["image"][2] = batch["image"][0]
    value, sums = loss(TASK, params, batch)
    np.testing.assert_allclose(value, oracle(TASK, params, batch)[0], rtol=1e-5)
    assert sums["violations"][1] == 2 * (12 - 2)


def test_a_caption_alone_in_its_batch_has_no_loss(rng):
    params, batch = random_params(TASK, rng), make_batch(rng, rows=2, padding=1)
    value, sums = loss(TASK, params, batch)
    assert value == 0 and sums["violations"][1] == 0


# ------------------------------------------------------------------------------------ the order


def test_unit_is_exact_and_finite_everywhere(rng):
    x = rng.normal(size=(6, 5)).astype(np.float32)
    x[1:5] *= np.array([1e-30, 1e30, 0, 1e-19], np.float32)[:, None]
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    y, back = jax.vjp(jax.jit(order.unit), x)
    (dx,) = back(cotangent)
    wide, dy = x.astype(np.float64), cotangent.astype(np.float64)
    for row in range(6):
        if row == 3:
            assert not y[row].any() and not dx[row].any()
            continue
        length = np.linalg.norm(wide[row])
        expected = wide[row] / length
        np.testing.assert_allclose(y[row], expected, rtol=1e-6)
        # (I - y y^T) dy / |x|
        slope = (dy[row] - expected * (expected @ dy[row])) / length
        np.testing.assert_allclose(dx[row] * length, slope * length, atol=2e-6)


def test_violations_and_their_derivative(rng, x64):
    captions, images = rng.random((11, 6)), rng.random((19, 6))  # no multiple of a block
    images[3, :2] = captions[4, :2]  # no violation and no slope where they meet
    cotangent = rng.normal(size=(11, 19))
    got, back = jax.vjp(jax.jit(order.violations), captions, images)
    positive = np.maximum(captions[:, None] - images, 0)
    np.testing.assert_allclose(got, np.sum(positive**2, axis=2), rtol=1e-12)
    slope = 2 * cotangent[..., None] * positive
    expected = (slope.sum(axis=1), -slope.sum(axis=0))
    trees.assert_close(back(cotangent), expected, 1e-12)


def test_not_all_differences_are_there_at_once():
    captions, images = jnp.ones((32, 50)), jnp.zeros((64, 50))
    jaxpr = jax.make_jaxpr(jax.grad(lambda *of: jnp.sum(order.violations(*of)), (0, 1)))
    sizes = [
        variable.aval.size
        for equation in equations(jaxpr(captions, images).jaxpr)
        for variable in equation.outvars
    ]
    assert max(sizes) == 32 * order.BLOCK * 50


def test_minus_cosine(rng):
    captions, images = (np.asarray(order.unit(rng.normal(size=(n, 5)))) for n in (3, 4))
    expected = [[-np.dot(c, i) for i in images] for c in captions]
    np.testing.assert_allclose(order.minus_cosine(captions, images), expected, rtol=1e-5)


# ------------------------------------------------------------------------------------ the paper


def paper_task(**changes):
    config = config_file.get_config("paper")
    for key, value in changes.items():
        config[key] = value
    return order_embeddings.make_task(config, {"words": ["a", "b"], "num_features": 4096})


def test_number_of_parameters_is_the_papers():
    """4,070,400 in the GRU, 12,288 more with layer norm, 4,195,328 in the image map.

    The paper counts the authors' arrays. Of their biases, `lnjax.GRUCell` has one where several are
    added: with layer norm b and bx inside the norms (3H), and the betas b1 to b4 (6H) as `bias`
    (3H) and `bias_h` (H); and without a norm it has `bias_h` (H), which they have not.
    """
    h = 1024
    for norm, expected in (
        ("none", 4_070_400 + h),
        ("layer", 4_070_400 + 12_288 - 3 * h - 6 * h + 4 * h),
    ):
        shapes = jax.eval_shape(paper_task(norm=norm).init, jax.random.key(0), {})["params"]
        sizes = {name: sum(x.size for x in jax.tree.leaves(of)) for name, of in shapes.items()}
        assert sizes == {"words": 300 * (2 + 2), "sentence": expected, "image": 4_195_328}
        cell = shapes["sentence"]["cell"]
        kernels = cell["kernel"].size + cell["recurrent_kernel"].size
        assert kernels + cell["bias"].size == 4_070_400  # b and bx
        if norm == "layer":
            gains = cell["scale_x"].size + cell["scale_h"].size
            assert 2 * gains == 12_288  # each with a beta


def test_parameters_start_as_the_papers():
    task = dataclasses.replace(TASK, features=40, word_features=60, num_features=80)
    params = jax.tree.map(np.asarray, jax.jit(task.init)(jax.random.key(0), {})["params"])
    cell = params["sentence"]["cell"]
    for uniform, limit in (
        (params["words"]["embedding"], 0.1),
        (cell["kernel"], 0.1),
        (params["image"]["kernel"], (6 / (80 + 40)) ** 0.5),
    ):
        assert -limit <= uniform.min() < -0.97 * limit and 0.97 * limit < uniform.max() <= limit
        assert abs(uniform.std() - limit / 3**0.5) < 0.04 * limit
    for gate in np.split(cell["recurrent_kernel"], 3, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(40), atol=1e-5)
    for gain in (cell["scale_x"], cell["scale_h"]):
        assert (gain == 1).all()
    assert not any(b.any() for b in (cell["bias"], cell["bias_h"], params["image"]["bias"]))


def test_the_config_has_the_papers_numbers():
    config = config_file.get_config("paper")
    paper = {
        "features": 1024,
        "word_features": 300,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "adam": "authors",
        "clip": "per_tensor",
        "clip_norm": 2.0,
        "eval_steps": 300,
        "fold_images": 1000,
        "test_folds": 5,
        "max_tokens": 0,
        "num_steps": 100 * (113_287 // 128),
    }
    assert {key: config[key] for key in paper} == paper
    make_optimizer(config)
    assert paper_task().margin == 0.05 and paper_task(similarity="cosine").margin == 0.2
    assert paper_task(margin=0.1).margin == 0.1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("norm", "batch", "norm='batch' is not known; there are 'layer', 'rms', 'none'"),
        ("similarity", "l2", "similarity='l2' is not known; there are 'order', 'cosine'"),
        ("dtype", "float16", "dtype='float16' is not known"),
        ("features", 1, "features=1 must be at least 2"),
        ("fold_images", 0, "fold_images=0 must be at least 1"),
        ("test_folds", -1, "test_folds=-1 must be at least 0"),
        ("max_tokens", -1, "max_tokens=-1 must be at least 0"),
        ("margin", -0.1, "margin=-0.1 must be positive"),
        ("margin", float("nan"), "margin=nan must be positive"),
    ],
)
def test_values_that_are_refused(key, value, message):
    config = config_file.get_config("smoke")
    config[key] = value
    for make in (order_embeddings.make_data, lambda config: order_embeddings.make_task(config, {})):
        with pytest.raises(ValueError, match=message):
            make(config)


# ----------------------------------------------------------------------------------- evaluation


def test_evaluation_is_the_mean_over_folds(rng):
    """Five images in batches of two and folds of two: the last image is in no whole fold."""
    params = random_params(TASK, rng)
    whole = make_batch(rng, rows=6, padding=1)
    batches = [{name: leaf[i : i + 2] for name, leaf in whole.items()} for i in (0, 2, 4)]
    got = TASK.evaluate((batch, outputs(TASK, params, batch)) for batch in batches)
    recalls = {"image": [], "caption": []}
    ranks = {"image": [], "caption": []}
    for rows in ([0, 1], [2, 3]):
        captions = {
            (r, k): caption(TASK, params, whole["tokens"][r, k], whole["lengths"][r, k])
            for r in rows
            for k in range(K)
        }
        images = {r: image(TASK, params, whole["features"][r]) for r in rows}
        for r, k in captions:
            e = {i: distance(TASK, captions[r, k], images[i]) for i in rows}
            ranks["image"].append(sum(e[i] <= e[r] for i in rows))
        for r in rows:
            e = {key: distance(TASK, c, images[r]) for key, c in captions.items()}
            best = min(e[r, k] for k in range(K))
            # Two captions are the same sentence: what is as near stands before.
            ranks["caption"].append(sum(e[key] <= best for key in e if key[0] != r) + 1)
    for kind, of_kind in ranks.items():
        recalls[kind] = np.mean(np.array(of_kind) <= 1)
        assert got[f"{kind}_recall_at_1"] == pytest.approx(recalls[kind])
        assert got[f"{kind}_mean_rank"] == pytest.approx(np.mean(of_kind))
    expected = sum(got[f"image_recall_at_{k}"] for k in (1, 5, 10))
    assert got["selection"] == pytest.approx(expected)


def test_data_of_a_run_on_coco(tmp_path, monkeypatch):
    monkeypatch.setenv("LNJAX_DATA_DIR", str(tmp_path / "cache"))
    folder = CocoFolder(tmp_path / "coco", each=5)
    config = config_file.get_config("paper")
    config.data_dir = str(folder.base)
    config.fold_images, config.test_folds = 4, 1
    with pytest.raises(DataError, match=r"3 images of the split 'validation'; expected at least 4"):
        order_embeddings.make_data(config)
    config.fold_images, config.test_folds = 2, 3
    with pytest.raises(DataError, match=r"4 images of the split 'test'; expected at least 6"):
        order_embeddings.make_data(config)
    assert not (tmp_path / "cache").exists()
    config.test_folds, config.batch_size, config.eval_batch_size = 2, 3, 3
    data = order_embeddings.make_data(config)
    counts = {}
    for line in folder.captions["train"] + folder.captions["val"]:
        for word in line.split():
            counts[word] = counts.get(word, 0) + 1
    words = data.spec["words"]
    assert sorted(words) == sorted(counts)
    assert [counts[word] for word in words] == sorted(counts.values(), reverse=True)
    assert data.spec["num_features"] == 4096
    longest = max(len(line.split()) for lines in folder.captions.values() for line in lines)
    batch = next(data.train)
    assert batch["tokens"].shape == (3, 1, longest + 1)
    assert batch["features"].shape == (3, 4096)
    assert {name: len(list(batches)) for name, batches in data.evals.items()} == {
        "eval": 1,
        "test": 2,
    }
    assert data.baselines == {"image_recall_at_10 of chance, 2 images": 1.0}
    task = order_embeddings.make_task(config, data.spec)
    assert len(task.vocabulary) == len(words) + 2

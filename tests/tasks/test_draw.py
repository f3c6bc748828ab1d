"""DRAW: the network, the bound, evaluation, drawing, and the batches."""

import dataclasses
import itertools
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import draw as config_file
from tasks import draw
from tasks.draw import DrawTask, bound, pack, unpack
from tests import oracles, trees
from tests.jaxprs import equations
from tests.tasks import draw_oracle

SHAPE = (5, 7)
T, Z, H, B = 2, 3, 4, 4
HELD_OUT = np.random.default_rng(5).integers(0, 2, (3, *SHAPE), np.uint8)
SPEC = {"shape": list(SHAPE), "held_out": [pack(image) for image in HELD_OUT]}
TASK = DrawTask(
    shape=SHAPE,
    held_out=tuple(SPEC["held_out"]),
    features=H,
    latents=Z,
    glimpses=T,
    attention=True,
    read_size=2,
    write_size=3,
    norm="layer",
    init_std=0.5,
    dtype="float32",
    importance_samples=3,
)
PLAIN = dataclasses.replace(TASK, attention=False)
CASES = [
    TASK,
    PLAIN,
    dataclasses.replace(TASK, norm="rms"),
    dataclasses.replace(PLAIN, norm=None),
]
NAMES = ["attention-layer", "plain-layer", "attention-rms", "plain-none"]
every_case = pytest.mark.parametrize("task", CASES, ids=NAMES)
both = pytest.mark.parametrize("task", [TASK, PLAIN], ids=["attention", "plain"])
RNGS = {"latent": jax.random.key(3)}


def make_batch(rng, rows=B, padding=1, first=0):
    """Random images of which the last `padding` rows are none."""
    images = rng.integers(0, 2, (rows, *SHAPE, 1)).astype(np.uint8)
    mask = np.arange(rows) < rows - padding
    images[~mask] = 0
    return {"image": images, "mask": mask, "index": np.arange(first, first + rows, dtype=np.int32)}


@cache
def shapes(task):
    return jax.eval_shape(task.init, jax.random.key(0), {})["params"]


def random_params(task, rng, dtype=np.float32, scale=0.5):
    """Parameters none of which has a value (0 or 1) that could hide its absence."""
    return jax.tree.map(lambda leaf: rng.normal(0.1, scale, leaf.shape).astype(dtype), shapes(task))


@partial(jax.jit, static_argnames=("task", "method"))
def apply(task, params, *arguments, method="__call__"):
    return task.network.apply({"params": params}, *arguments, method=method)


@partial(jax.jit, static_argnames=("task", "train"))
def loss(task, params, batch, rngs=RNGS, train=False):
    return task.loss(params, {}, batch, rngs, train=train)


def oracle(task, params, image, noise):
    return draw_oracle.draw(
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params),
        image,
        noise,
        norm=task.norm,
        attention={"windows": task.attention, "shape": task.shape},
        read_size=task.read_size,
        write_size=task.write_size,
    )


# ---- the network -----------------------------------------------------------------------------


@every_case
@pytest.mark.some(2)
def test_the_bound_is_the_papers_equations(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params = random_params(task, rng, np.float64)
    images = rng.integers(0, 2, (B, *SHAPE)).astype(np.float64)
    noise = rng.normal(size=(T, B, Z))
    got = apply(task, params, images, noise)
    for row in range(B):
        want = oracle(task, params, images[row], noise[:, row])
        near = {"rtol": 1e-11}
        np.testing.assert_allclose(got.reconstruction[row], want.reconstruction, **near)
        np.testing.assert_allclose(got.kl[:, row], want.kl, **near)
        np.testing.assert_allclose(got.log_ratio[:, row], want.log_ratio, rtol=1e-10, atol=1e-11)


@both
def test_the_bound_in_float32(task, rng):
    params = random_params(task, rng)
    images, noise = (
        np.float32(rng.integers(0, 2, (B, *SHAPE))),
        np.float32(rng.normal(0, 1, (T, B, Z))),
    )
    got = apply(task, params, images, noise)
    nats = got.reconstruction + got.kl.sum(axis=0)
    assert nats.dtype == jnp.float32
    for row in range(B):
        want = oracle(task, params, images[row].astype(np.float64), noise[:, row])
        assert float(nats[row]) == pytest.approx(want.reconstruction + want.kl.sum(), rel=1e-6)


@both
def test_what_is_traced_is_what_was_drawn(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params = random_params(task, rng, np.float64)
    images = rng.integers(0, 2, (B, *SHAPE)).astype(np.float64)
    noise = rng.normal(size=(T, B, Z))
    looked = apply(task, params, images, noise, method="reconstruct")
    alone = apply(task, params, noise, method="generate")
    assert alone.read is None
    for row in range(B):
        for traced, image in ((looked, images[row]), (alone, None)):
            want = oracle(task, params, image, noise[:, row])
            np.testing.assert_allclose(traced.canvases[:, row], want.canvases, rtol=1e-10)
            assert (traced.write is None) == (not task.attention)
            if task.attention:
                np.testing.assert_allclose(traced.write[:, row], want.write, rtol=1e-10)
            if task.attention and image is not None:
                np.testing.assert_allclose(traced.read[:, row], want.read, rtol=1e-10)


@both
def test_gradients_are_the_derivatives(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params = random_params(task, rng, np.float64)
    images = rng.integers(0, 2, (B, *SHAPE)).astype(np.float64)
    noise, cotangent = rng.normal(size=(T, B, Z)), rng.normal(size=B)

    @jax.jit
    def value(params):
        got = task.network.apply({"params": params}, images, noise)
        return jnp.dot(got.reconstruction + jnp.sum(got.kl, axis=0), cotangent)

    gradient = jax.jit(jax.grad(value))(params)
    leaves, tree = jax.tree.flatten(params)
    for i in range(len(leaves)):  # along a random direction of each parameter
        direction = [np.zeros_like(leaf) for leaf in leaves]
        direction[i] = rng.normal(size=leaves[i].shape)

        def along(s, direction=direction):
            moved = [leaf + s * d for leaf, d in zip(leaves, direction, strict=True)]
            return float(value(tree.unflatten(moved)))

        want = oracles.numerical_gradients(along, {"s": 0.0}, h=1e-4)["s"]
        got = float(np.vdot(jax.tree.leaves(gradient)[i], direction[i]))
        assert got == pytest.approx(float(want), rel=1e-6, abs=1e-8)
        assert abs(got) > 1e-6  # every parameter matters


@pytest.mark.slow
def test_products_in_half_precision_stay_near(rng):
    half = dataclasses.replace(TASK, dtype="bfloat16")
    params, batch = random_params(TASK, rng), make_batch(rng)
    full, nats = (loss(task, params, batch)[0] for task in (TASK, half))
    assert nats.dtype == jnp.float32 and 0 < abs(nats - full) < 0.05 * abs(full)


def loop_of(task):
    """The jaxpr of a glimpse in the forward pass."""
    arguments = (np.zeros((B, *SHAPE), np.float32), np.zeros((T, B, Z), np.float32))
    params = random_params(task, np.random.default_rng(0))
    jaxpr = jax.make_jaxpr(partial(apply.__wrapped__, task))(params, *arguments)
    (loop,) = [eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "scan"]
    assert loop.params["length"] == T
    return list(equations(loop.params["jaxpr"].jaxpr))


@both
def test_what_depends_on_the_image_alone_is_outside_the_loop(task):
    inside = loop_of(task)
    names = {eqn.primitive.name for eqn in inside}
    assert "dot_general" in names
    assert not names & {"random_bits", "random_split", "threefry2x32", "erf_inv"}
    rows = {
        eqn.invars[1].aval.shape[0]
        for eqn in inside
        if eqn.primitive.name == "dot_general" and eqn.invars[1].aval.shape[-1] == 4 * H
    }
    pixels = math.prod(SHAPE)
    # Into the encoder go h and either the patches or, of x and its error, the error alone.
    assert rows == {H, Z, H + (2 * 2 * 2 if task.attention else pixels)}


# ---- the bound -------------------------------------------------------------------------------


def test_extreme_logits_stay_finite_and_exact():
    images = jnp.float32([[[1, 0, 1, 0]]])
    value, gradient = jax.value_and_grad(lambda c: bound.reconstruction(c, images)[0])(
        jnp.float32([[[1e4, -1e4, -1e4, 1e4]]])
    )
    assert value == 2e4 and gradient.tolist() == [[[0, 0, -1, 1]]]
    # A pixel that is nearly certain costs exp(-20), not 0 or the rounding of a difference.
    sure = bound.reconstruction(jnp.float32([[[20.0]]]), jnp.float32([[[1.0]]]))
    assert float(sure[0]) == pytest.approx(np.log1p(np.exp(-20)), rel=1e-5)


def test_kl_keeps_its_digits_near_the_prior():
    mean, log_deviation = np.float32([0, 0, 1e-3]), np.float32([0, 1e-4, -1e-3])
    got = bound.kl(jnp.array(mean), jnp.array(log_deviation))
    m, s = mean.astype(np.float64), log_deviation.astype(np.float64)
    # exp(2 s) - 2 s - 1 to the fourth order: computed so, nothing cancels
    want = 0.5 * (m**2 + 2 * s**2 + 4 / 3 * s**3 + 2 / 3 * s**4).sum()
    assert float(got) == pytest.approx(want, rel=1e-3)
    assert float(bound.kl(jnp.zeros(3), jnp.zeros(3))) == 0


@pytest.mark.slow
def test_more_samples_tighten_the_bound(rng, x64):
    """L = L_1 > L_2 > -log p(x), in expectation: all by quadrature over a single z."""
    task = dataclasses.replace(TASK, glimpses=1, latents=1, dtype="float64")
    params = random_params(task, rng, np.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    image = np.float64(HELD_OUT[0])
    images, noise = np.broadcast_to(image, (60, *SHAPE)), nodes[None, :, None]

    got = apply(task, params, images, noise)
    got = jax.tree.map(np.asarray, got)
    plain = float(weights @ (got.reconstruction + got.kl[0]))
    log_weights = got.log_ratio[0] - got.reconstruction
    alone = float(weights @ bound.importance_weighted(log_weights[None]))
    pairs = np.stack([np.repeat(log_weights, 60), np.tile(log_weights, 60)])
    two = np.outer(weights, weights).ravel() @ bound.importance_weighted(pairs)

    drawn = apply(task, params, noise, method="generate").canvases[-1]
    evidence = -np.log(weights @ np.exp(-bound.reconstruction(drawn, images)))
    unbiased = -np.log(weights @ np.exp(log_weights))
    assert unbiased == pytest.approx(evidence, rel=1e-6)  # the mean of the weights is p(x)
    assert alone == pytest.approx(plain, rel=1e-9)
    assert plain > two + 1e-3 and two > evidence + 1e-3


# ---- the loss --------------------------------------------------------------------------------


@both
def test_loss_is_the_sum_over_images(task, rng):
    params, batch = random_params(task, rng), make_batch(rng)
    value, aux = loss(task, params, batch)
    assert aux.model_state == {}
    images = batch["image"][..., 0].astype(np.float64)

    def rows(key):
        noise = task._noise(key, batch)
        return [oracle(task, params, images[row], noise[:, row]) for row in range(B - 1)]

    drawn = rows(RNGS["latent"])
    want = {
        "reconstruction": sum(one.reconstruction for one in drawn),
        "kl": sum(one.kl.sum() for one in drawn),
    }
    want["nats"] = want["loss"] = want["reconstruction"] + want["kl"]
    log_weights = [
        [one.log_ratio.sum() - one.reconstruction for one in rows(key)]
        for key in jax.random.split(RNGS["latent"], 3)
    ]
    want["nats_importance_weighted"] = -np.log(np.exp(log_weights).mean(axis=0)).sum()
    assert set(aux.sums) == set(want)
    for name, total in want.items():
        assert float(aux.sums[name][0]) == pytest.approx(total, rel=1e-5)
        assert aux.sums[name][1] == B - 1
    assert float(value) == pytest.approx(want["nats"] / (B - 1), rel=1e-5)


@pytest.mark.parametrize(("num", "train"), [(0, False), (1, False), (3, True)])
def test_importance_weights_are_for_evaluation_and_on_request(rng, num, train):
    task = dataclasses.replace(TASK, importance_samples=num)
    sums = jax.eval_shape(
        partial(task.loss, train=train), random_params(TASK, rng), {}, make_batch(rng), RNGS
    )[1].sums
    assert set(sums) == {"loss", "nats", "reconstruction", "kl"}


def test_many_importance_samples_take_no_more_memory(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    taken = []
    for num in (2, 500):
        task = dataclasses.replace(TASK, importance_samples=num)
        compiled = loss.lower(task, params, batch).compile()
        taken.append(compiled.memory_analysis().temp_size_in_bytes)
    a_weight_each = 4 * 500 * B
    assert taken[1] < taken[0] + 4 * a_weight_each  # and its key


@jax.jit
def value_and_gradients(params, batch):
    def value(params):
        value, aux = TASK.loss(params, {}, batch, RNGS, train=False)
        return value, aux.sums

    return jax.value_and_grad(value, has_aux=True)(params)


def test_what_stands_in_the_padding_reaches_nothing(rng):
    params, batch = random_params(TASK, rng), make_batch(rng, padding=2)
    dirty = {name: leaf.copy() for name, leaf in batch.items()}
    dirty["image"][~batch["mask"]] = 255
    dirty["index"][~batch["mask"]] = 77
    clean = value_and_gradients(params, batch)
    trees.assert_equal(value_and_gradients(params, dirty), clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    nothing = {name: np.zeros_like(leaf) for name, leaf in batch.items()}
    (value, sums), gradients = value_and_gradients(params, nothing)
    assert value == 0 and all(leaf == 0 for leaf in jax.tree.leaves(sums))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_how_a_split_is_cut_into_batches_does_not_matter(rng):
    params, whole = random_params(TASK, rng), make_batch(rng, rows=6, padding=0)
    _, want = loss(TASK, params, whole)
    totals = {}
    for first, last in ((0, 4), (4, 6)):
        part = {name: leaf[first:last] for name, leaf in whole.items()}
        part = {
            name: np.concatenate([leaf, np.zeros((4 - len(leaf), *leaf.shape[1:]), leaf.dtype)])
            for name, leaf in part.items()
        }
        for name, pair in loss(TASK, params, part)[1].sums.items():
            totals[name] = np.add(totals.get(name, 0), pair)
    for name, pair in want.sums.items():
        np.testing.assert_allclose(totals[name], pair, rtol=1e-5)


def test_every_image_and_step_has_noise_of_its_own(rng):
    task = dataclasses.replace(TASK, glimpses=40, latents=25)
    batch = make_batch(rng)
    without = {name: leaf for name, leaf in batch.items() if name != "index"}
    for given in (batch, without):
        noise = np.asarray(task._noise(RNGS["latent"], given))
        assert noise.shape == (40, B, 25)
        assert len(np.unique(noise)) > 0.999 * noise.size
        assert abs(noise.mean()) < 0.08 and abs(noise.std() - 1) < 0.06
        assert not np.array_equal(noise, task._noise(jax.random.key(4), given))
    params = random_params(TASK, rng)
    one, other = (loss(TASK, params, without, {"latent": jax.random.key(n)})[0] for n in (0, 1))
    assert one != other


# ---- drawing ---------------------------------------------------------------------------------


@both
def test_samples_of_a_run(task, rng):
    params = random_params(task, rng)
    drawn = task.sample(params, {}, jax.random.key(0), 2)
    assert len(drawn) == 4
    for one, original in zip(drawn, [None, None, *HELD_OUT[:2]], strict=True):
        assert one.pictures.shape == (T, *SHAPE)
        assert one.pictures.min() >= 0 and one.pictures.max() <= 1
        if original is None:
            assert one.original is None and one.read is None
        else:
            np.testing.assert_array_equal(one.original, original)
        for frames, there in ((one.write, True), (one.read, original is not None)):
            assert (frames is not None) == (task.attention and there)
            assert frames is None or frames.shape == (T, 5)
    assert not np.array_equal(drawn[0].pictures, drawn[1].pictures)
    z = jax.random.normal(jax.random.key(0), (T, 2, Z))
    want = oracle(task, params, None, z[:, 1]).canvases
    np.testing.assert_allclose(drawn[1].pictures, oracles.sigmoid(want), rtol=1e-4, atol=1e-6)
    # More images are asked for than are kept.
    assert len(task.sample(params, {}, jax.random.key(0), 5)) == 5 + 3
    other = task.sample(params, {}, jax.random.key(1), 2)
    for one, two in zip(drawn, other, strict=True):
        assert not np.array_equal(one.pictures, two.pictures)


@pytest.mark.parametrize(
    ("call", "num", "message"),
    [
        ("imagine", 0, "num=0 must be between 1 and 100"),
        ("imagine", 101, "num=101 must be between 1 and 100"),
        ("copy", 4, "num=4: the run keeps 3 held-out images"),
        ("copy", 0, "num=0"),
    ],
)
def test_numbers_of_images_that_cannot_be_drawn(call, num, message):
    with pytest.raises(ValueError, match=message):
        getattr(TASK, call)({}, jax.random.key(0), num)


# ---- config and data -------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "extra"), [("none", 0), ("layer", 1024), ("rms", 1024)])
def test_number_of_parameters_is_the_papers(norm, extra):
    config = config_file.get_config("paper")
    config.norm = norm
    task = draw.make_task(config, {"shape": [28, 28], "held_out": []})
    params = jax.eval_shape(task.init, jax.random.key(0), {})["params"]
    encoder = (2 * 2 * 2 + 256 + 256 + 1) * 1024  # two patches, h_dec, h_enc, bias
    decoder = (100 + 256 + 1) * 1024
    posterior, windows, write = 257 * 2 * 100, 2 * 257 * 5, 257 * 25
    plain = encoder + decoder + posterior + windows + write
    assert plain == 959_467
    assert extra in (0, 2 * 2 * 256)  # in each LSTM a gain and a bias for the cell
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == plain + extra


def test_parameters_start_as_gaussians_of_the_deviation_told():
    config = config_file.get_config("paper")
    task = draw.make_task(config, {"shape": [28, 28], "held_out": []})
    params = jax.jit(task.init)(jax.random.key(0), {})["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if "kernel" in name:
            assert np.std(np.asarray(leaf)) == pytest.approx(0.01, rel=0.1), path
            assert abs(np.mean(np.asarray(leaf))) < 0.001
        else:
            assert np.all(np.asarray(leaf) == (name == "scale_c")), path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("norm", "batch", "norm='batch' is not known; draw has 'layer', 'rms', 'none'"),
        ("dtype", "float16", "dtype='float16' is not known"),
        ("read_size", 1, "read_size=1 must be at least 2"),
        ("write_size", 1, "write_size=1 must be at least 2"),
        ("features", 1, "features=1 must be at least 2"),
        ("glimpses", 0, "glimpses=0 must be at least 1"),
        ("latents", 0, "latents=0 must be at least 1"),
        ("importance_samples", -1, "importance_samples=-1 must be at least 0"),
        ("init_std", 0.0, "init_std=0.0 must be positive"),
    ],
)
def test_values_that_are_refused(key, value, message):
    config = config_file.get_config("smoke")
    config[key] = value
    with pytest.raises(ValueError, match=message):
        draw.make_task(config, SPEC)


def test_packed_images_are_the_images(rng):
    for shape in ((5, 7), (28, 28), (1, 1)):
        image = rng.integers(0, 2, shape).astype(np.uint8)
        np.testing.assert_array_equal(unpack(pack(image), shape), image)
    assert len(pack(np.zeros((28, 28), np.uint8))) == 2 * 98


def test_independent_pixels_is_the_mean_over_images(rng):
    train, held_out = (rng.integers(0, 2, (n, 3, 4, 1)).astype(np.uint8) for n in (5, 7))
    train[:, 0], train[:, 1] = 1, 0  # always and never on
    total = 0.0
    for image in held_out:
        for a, b in itertools.product(range(3), range(4)):
            times = sum(int(other[a, b, 0]) for other in train)
            rate = (times + 1) / (5 + 2)
            total -= math.log(rate if image[a, b, 0] else 1 - rate)
    assert draw.independent_pixels(train, held_out) == pytest.approx(total / 7, rel=1e-12)


def make_config(**changes):
    config = {"data": "embedded", "data_dir": "", "eval_split": "validation", "seed": 0}
    return ConfigDict(
        {**config, "batch_size": 2, "eval_batch_size": 4, "dtype": "float32", **changes}
    )


def test_data_of_a_run(monkeypatch, rng):
    from lnjax.data import preparation

    def examples(num):
        return [{"image": rng.integers(0, 2, (*SHAPE, 1)).astype(np.uint8)} for _ in range(num)]

    splits = {"train": examples(9), "validation": examples(18), "test": examples(3)}
    prepared = preparation.Prepared("binarized_mnist", "embedded", "1", "0", {}, splits)
    monkeypatch.setattr(preparation, "prepare", lambda *_, **__: prepared)
    data = draw.make_data(make_config())
    batch = next(data.train)
    assert batch["image"].shape == (2, *SHAPE, 1) and "index" not in batch
    batches = list(data.evals["eval"])
    assert [batch["mask"].sum() for batch in batches] == [4, 4, 4, 4, 2]
    assert [int(n) for batch in batches for n in batch["index"][batch["mask"]]] == [*range(18)]
    np.testing.assert_array_equal(batches[-1]["image"][1], splits["validation"][17]["image"])
    images = [np.stack([row["image"] for row in splits[name]]) for name in ("train", "validation")]
    assert list(data.baselines.values()) == [draw.independent_pixels(*images)]
    assert data.spec["shape"] == list(SHAPE) and len(data.spec["held_out"]) == 16
    for line, example in zip(data.spec["held_out"], splits["validation"], strict=False):
        np.testing.assert_array_equal(unpack(line, SHAPE), example["image"][..., 0])
    task = draw.make_task(config_file.get_config("smoke"), data.spec)
    again = draw.make_task(config_file.get_config("smoke"), dict(data.spec))
    assert task == again and hash(task) == hash(again)
    assert len(draw.make_data(make_config(eval_split="test")).spec["held_out"]) == 3
    with pytest.raises(ValueError, match=r"eval_split='valid' is not known.*'validation'"):
        draw.make_data(make_config(eval_split="valid"))


def test_draw_has_the_papers_numbers():
    config = config_file.get_config("paper")
    paper = {
        "glimpses": 64,
        "features": 256,
        "latents": 100,
        "attention": True,
        "read_size": 2,
        "write_size": 5,
        "init_std": 0.01,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "clip_norm": 10.0,
        "norm": "layer",
        "data": "real",
        "eval_split": "test",
    }
    assert {key: config[key] for key in paper} == paper
    assert config.num_steps * 128 == 200 * 50_000

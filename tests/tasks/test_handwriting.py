"""Handwriting: Graves' equations, the density, the loss, the batches and the writing."""

import dataclasses
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import handwriting as config_file
from tasks import handwriting
from tasks.handwriting import HandwritingTask, collate_lines, mixture, network, sampling
from tests import oracles

ALPHABET = "ab ."
SPEC = {"alphabet": ALPHABET, "offset_mean": [1.0, -2.0], "offset_std": [3.0, 0.5]}
T, U = 7, 5
TASK = HandwritingTask(
    alphabet=ALPHABET,
    offset_mean=(1.0, -2.0),
    offset_std=(3.0, 0.5),
    features=3,
    num_layers=3,
    window_components=2,
    mixture_components=2,
    points_per_letter=2.0,
    sigma_floor=0.1,
    norm="layer",
    dtype="float32",
)
PLAIN = dataclasses.replace(TASK, norm=None)
TASK64 = dataclasses.replace(TASK, dtype="float64")
both_norms = pytest.mark.parametrize("task", [TASK, PLAIN], ids=["layer", "none"])
LINES = [  # longer than T points and U letters; shorter; one point and one letter
    {"strokes": 9, "text": "ab.a b", "other_text": "b"},
    {"strokes": 4, "text": "b!a", "other_text": "ab.a b"},
    {"strokes": 1, "text": "a", "other_text": "b!a"},
]


def make_lines(rng):
    def strokes(length):
        offsets = rng.normal(SPEC["offset_mean"], SPEC["offset_std"], (length, 2))
        return np.column_stack([offsets, rng.random(length) < 0.3]).astype(np.float32)

    return [{**line, "strokes": strokes(line["strokes"])} for line in LINES]


def make_batch(rng, max_points=T, max_letters=U):
    return collate_lines(make_lines(rng), SPEC, max_points=max_points, max_letters=max_letters)


@cache
def shapes(task):
    batch = make_batch(np.random.default_rng(0))
    return jax.eval_shape(task.init, jax.random.key(0), batch)["params"]


def random_params(task, rng, dtype=np.float32):
    """Parameters none of which has a value (0 or 1) that could hide its absence."""
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(dtype), shapes(task))


@partial(jax.jit, static_argnames=("task", "train"))
def loss(task, params, batch, train=False):
    return task.loss(params, {}, batch, {}, train=train)


# ---- the network -----------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "extra"), [("none", 0), ("layer", 12_000)])
def test_number_of_parameters_is_the_papers(norm, extra):
    config = config_file.get_config("paper")
    config.norm = norm
    letters = "".join(map(chr, range(56)))  # 56 letters and the non-letter symbol
    task = handwriting.make_task(config, {**SPEC, "alphabet": letters})
    batch = {
        "strokes": jnp.zeros((1, 2, 3)),
        "mask": jnp.ones((1, 2), bool),
        "text": jnp.zeros((1, 4), jnp.int32),
        "text_mask": jnp.ones((1, 4), bool),
    }
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    # Graves' Section 5: three LSTMs, the output, the window.
    plain = 737_600 + 2 * 1_377_600 + 145_321 + 12_030
    assert plain == 3_650_151
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == plain + extra
    # A layer has two gains of 4H for the gates, a gain and a bias of H for the cell. The paper
    # counts two more biases of 4H, which are added to the same sum as the b that is there already.
    assert 3 * (2 * 4 * 400 + 2 * 400) == 12_000
    assert 12_000 + 3 * 2 * 4 * 400 == 21_600


def graves(params, strokes, text, num_letters, norm):
    """Graves (2013), Section 5, for one line: strokes (T, 3) -> y^ (T, 6M + 1), phi (T, U + 1)."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    cells = [p["first"]["cell"]] + [p[f"rest_{n}"]["cell"] for n in range(2)]
    features = cells[0]["recurrent_kernel"].shape[0]
    c, h = [np.zeros(features)] * 3, [np.zeros(features)] * 3
    num_components = p["first"]["window_bias"].shape[0] // 3
    kappa, w = np.zeros(num_components), np.zeros(num_letters)
    outputs, phis = [], []
    for x in np.asarray(strokes, np.float64):
        c[0], h[0] = oracles.lstm_step(cells[0], c[0], h[0], np.concatenate([x, w]), norm)
        hats = h[0] @ p["first"]["window_kernel"] + p["first"]["window_bias"]
        alpha, beta = np.exp(hats[:num_components]), np.exp(hats[num_components:-num_components])
        kappa = kappa + np.exp(hats[-num_components:])
        phi = np.zeros(len(text) + 1)
        w = np.zeros(num_letters)
        for u in range(1, len(text) + 2):
            for k in range(num_components):
                phi[u - 1] += alpha[k] * np.exp(-beta[k] * (kappa[k] - u) ** 2)
            if u <= len(text):
                w[text[u - 1]] += phi[u - 1]
        for n in (1, 2):
            inputs = np.concatenate([x, h[n - 1], w])
            c[n], h[n] = oracles.lstm_step(cells[n], c[n], h[n], inputs, norm)
        readout = p["readout"]
        y = readout["bias"].copy()
        for n in range(3):
            y += h[n] @ readout["kernel"][n * features : (n + 1) * features]
        outputs.append(y)
        phis.append(phi)
    return np.array(outputs), np.array(phis)


@partial(jax.jit, static_argnames=("task",))
def apply(task, params, carry, xs, batch, mask=None):
    return task.network.apply(
        {"params": params}, carry, xs, batch["text"], batch["text_mask"], mask
    )


@both_norms
def test_network_is_graves_equations(task, rng):
    params, batch = random_params(task, rng), make_batch(rng)
    xs = np.swapaxes(batch["strokes"], 0, 1)
    carry = task.network.initial_carry(3)
    _, got = apply(task, params, carry, xs, batch, batch["mask"].T)
    for row in range(3):
        length, letters = batch["mask"][row].sum(), batch["text_mask"][row].sum()
        text = batch["text"][row, :letters]
        y, phi = graves(params, xs[:length, row], text, len(ALPHABET) + 1, task.norm)
        np.testing.assert_allclose(got.mixture[:length, row], y, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(got.phi[:length, row, : letters + 1], phi, rtol=2e-4, atol=2e-5)


def test_window_starts_at_the_pace_it_is_told(rng):
    params = jax.jit(TASK.init)(jax.random.key(0), make_batch(rng))["params"]["first"]
    bias = params["window_bias"].tolist()
    assert bias == pytest.approx([0, 0, 0, 0, -math.log(2), -math.log(2)])
    carry = TASK.network.initial_carry(2)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(carry))


@both_norms
def test_pieces_of_a_sequence_equal_the_whole(task, rng):
    params, batch = random_params(task, rng), make_batch(rng)
    xs, mask = np.swapaxes(batch["strokes"], 0, 1), batch["mask"].T
    whole_carry, whole = apply(task, params, task.network.initial_carry(3), xs, batch, mask)
    carry, parts = task.network.initial_carry(3), []
    for begin, end in ((0, 1), (1, 2), (2, 5), (5, T)):
        carry, part = apply(task, params, carry, xs[begin:end], batch, mask[begin:end])
        parts.append(part)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    for got, want in zip(
        jax.tree.leaves((carry, joined)), jax.tree.leaves((whole_carry, whole)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_products_in_half_precision_stay_near(rng):
    half = dataclasses.replace(TASK, dtype="bfloat16")
    params, batch = random_params(TASK, rng), make_batch(rng)
    full, nats = (loss(task, params, batch)[0] for task in (TASK, half))
    assert nats.dtype == jnp.float32 and 0 < abs(nats - full) < 0.05 * abs(full)


# ---- the density -----------------------------------------------------------------------------


@partial(jax.jit, static_argnames="sigma_floor")
def log_density_of(outputs, offsets, lifts, sigma_floor=0.0):
    return mixture.log_density(mixture.from_outputs(outputs, sigma_floor), offsets, lifts)


@partial(jax.jit, static_argnames="sigma_floor")
def sample_of(outputs, key, bias, sigma_floor=0.0):
    return mixture.sample(mixture.from_outputs(outputs, sigma_floor), key, bias)


def random_outputs(rng, *shape, num_components=3):
    return rng.normal(0, 0.7, (*shape, mixture.num_outputs(num_components)))


def density(outputs, offset, lift, sigma_floor=0.0):
    """Graves' Eq. 18-25 for one point, each Gaussian by the inverse of its covariance."""
    num_components = (len(outputs) - 1) // 6
    e = 1 / (1 + np.exp(outputs[0]))
    weights, mu_x, mu_y, s_x, s_y, r = np.split(outputs[1:], 6)
    pi = np.exp(weights) / np.exp(weights).sum()
    total = 0.0
    for j in range(num_components):
        sigma = np.exp([s_x[j], s_y[j]]) + sigma_floor
        covariance = np.diag(sigma**2)
        covariance[0, 1] = covariance[1, 0] = np.tanh(r[j]) * sigma[0] * sigma[1]
        d = offset - np.array([mu_x[j], mu_y[j]])
        z = d @ np.linalg.inv(covariance) @ d
        total += pi[j] * np.exp(-z / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    return total * (e if lift else 1 - e)


@pytest.mark.parametrize("sigma_floor", [0.0, 0.3])
def test_density_is_graves(rng, sigma_floor):
    outputs = random_outputs(rng, 4, 5)
    offsets, lifts = rng.normal(size=(4, 5, 2)), rng.random((4, 5)) < 0.5
    got = log_density_of(
        jnp.float32(outputs), jnp.float32(offsets), jnp.float32(lifts), sigma_floor
    )
    want = [
        [np.log(density(outputs[i, j], offsets[i, j], lifts[i, j], sigma_floor)) for j in range(5)]
        for i in range(4)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_density_integrates_to_one(rng):
    side = np.linspace(-15, 15, 601)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    outputs = jnp.float32(random_outputs(rng, 1, 1))
    total = 0.0
    for lift in (0.0, 1.0):
        lifts = np.full((601, 601), lift, np.float32)
        values = log_density_of(outputs, np.float32(grid), lifts, 0.2)
        total += np.exp(np.asarray(values, np.float64)).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=1e-4)


density_and_gradient = jax.jit(jax.value_and_grad(log_density_of))


@pytest.mark.parametrize("r", [-1e4, -12.0, -9.0, 0.0, 9.0, 12.0, 1e4])
@pytest.mark.parametrize("log_sigma", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("other", [-500.0, 0.0, 500.0])
def test_extreme_outputs_stay_finite(r, log_sigma, other):
    # e, weights, mean x, mean y, log sigma x, log sigma y, r: of two components
    outputs = jnp.float32([other, other, 0, 1, 0, -1, 2, log_sigma, 0, 0, log_sigma, r, -r])
    for offsets in ([0.0, 0.0], [1.0, -1.0], [30.0, 30.0]):
        value, gradient = density_and_gradient(outputs, jnp.float32(offsets), jnp.float32(1))
        assert np.isfinite(value) and np.isfinite(gradient).all(), offsets


def test_strong_correlation_costs_no_precision(x64):
    outputs = np.array([0.0, 0.0, 0.1, 0.2, -0.5, 0.3, 7.0])  # 1 - rho^2 = 3e-6
    rho, sigma = np.tanh(7.0), np.exp([-0.5, 0.3])
    for z1, z2 in ((0.5, 0.5), (2.0, 2.001), (-1.0, -0.999)):
        offset = np.array([0.1, 0.2]) + sigma * [z1, z2]
        got = log_density_of(jnp.float32(outputs), jnp.float32(offset), jnp.float32(0))
        want = log_density_of(jnp.float64(outputs), jnp.float64(offset), jnp.float64(0))
        exact = (
            -(z1**2 + (z2 - rho * z1) ** 2 / (1 - rho**2)) / 2
            - np.log(2 * np.pi * sigma.prod() * np.sqrt(1 - rho**2))
            - np.log(2)
        )
        assert float(want) == pytest.approx(exact, rel=1e-8)
        assert float(got) == pytest.approx(exact, rel=2e-2)  # the offsets themselves are rounded


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_samples_have_the_moments_of_the_density(rng, bias):
    outputs = random_outputs(rng, num_components=3)
    num = 200_000
    many = np.broadcast_to(np.float32(outputs), (num, len(outputs)))
    draws = np.asarray(sample_of(many, jax.random.key(1), bias, 0.2), np.float64)
    weights, mu_x, mu_y, s_x, s_y, r = np.split(outputs[1:], 6)
    pi = np.exp(weights * (1 + bias)) / np.exp(weights * (1 + bias)).sum()
    sigma = (np.exp([s_x, s_y]) + 0.2) * np.exp(-bias)  # (2, M)
    mu = np.array([mu_x, mu_y])
    mean = mu @ pi
    second = np.zeros((2, 2))
    for j in range(3):
        off = np.tanh(r[j]) * sigma[0, j] * sigma[1, j]
        covariance = np.array([[sigma[0, j] ** 2, off], [off, sigma[1, j] ** 2]])
        second += pi[j] * (covariance + np.outer(mu[:, j], mu[:, j]))
    covariance = second - np.outer(mean, mean)
    error = 5 / np.sqrt(num)  # five standard errors, of quantities of the order of 1
    np.testing.assert_allclose(draws[:, :2].mean(axis=0), mean, atol=2 * error)
    np.testing.assert_allclose(np.cov(draws[:, :2].T), covariance, atol=8 * error)
    assert draws[:, 2].mean() == pytest.approx(1 / (1 + np.exp(outputs[0])), abs=error)
    assert set(np.unique(draws[:, 2])) == {0.0, 1.0}


def test_bias_makes_neater():
    outputs = np.tile(np.float32([0, 1, 0, -1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), (5000, 1))
    key = jax.random.key(0)
    drawn = {bias: np.asarray(sample_of(outputs, key, bias)) for bias in (0.0, 1.0, 3.0, 5.0)}
    spreads = [drawn[bias][:, 1].std() for bias in (0, 1, 3)]
    assert spreads == pytest.approx([1, np.exp(-1), np.exp(-3)], rel=0.05)
    wild, neat = drawn[0], drawn[5]
    np.testing.assert_array_equal(wild[:, 2], neat[:, 2])  # the pen lifts as often


# ---- the loss --------------------------------------------------------------------------------


@both_norms
def test_loss_is_the_sum_over_points(task, rng):
    params, batch = random_params(task, rng), make_batch(rng)
    value, aux = loss(task, params, batch)
    assert aux.model_state == {}
    want = {"text": 0.0, "other_text": 0.0}
    for key in want:
        for row in range(3):
            points = batch["strokes"][row][batch["mask"][row]].astype(np.float64)
            text = batch[key][row][batch[f"{key}_mask"][row]]
            seen = np.concatenate([np.zeros((1, 3)), points[:-1]])
            y, _ = graves(params, seen, text, len(ALPHABET) + 1, task.norm)
            for outputs, point in zip(y, points, strict=True):
                want[key] -= np.log(density(outputs, point[:2], point[2], task.sigma_floor))
    num_points, num_lines = T + 4 + 1, 3
    assert set(aux.sums) == {
        *("loss", "nats_per_point", "nats_per_sequence", "nats_per_point_other_text")
    }
    near = {"rel": 1e-4}
    for name in ("loss", "nats_per_point"):
        assert float(aux.sums[name][0]) == pytest.approx(want["text"], **near)
        assert aux.sums[name][1] == num_points
    total, lines = aux.sums["nats_per_sequence"]
    assert float(total) == pytest.approx(want["text"], **near) and lines == num_lines
    total, points = aux.sums["nats_per_point_other_text"]
    assert float(total) == pytest.approx(want["other_text"], **near) and points == num_points
    assert abs(want["other_text"] - want["text"]) > 1e-2
    assert float(value) == pytest.approx(want["text"] / num_points, **near)
    metrics = task.metrics({k: (float(n), float(d)) for k, (n, d) in aux.sums.items()})
    assert metrics["nats_per_sequence"] == pytest.approx(want["text"] / 3, **near)


def test_training_needs_no_other_text(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    without = {name: leaf for name, leaf in batch.items() if not name.startswith("other")}
    value, aux = loss(TASK, params, without, train=True)
    assert set(aux.sums) == {"loss", "nats_per_point", "nats_per_sequence"}
    assert value == loss(TASK, params, batch)[0]


@jax.jit
def value_and_gradients(params, batch):
    def value(params):
        value, aux = TASK.loss(params, {}, batch, {}, train=False)
        return value, aux.sums

    return jax.value_and_grad(value, has_aux=True)(params)


def test_what_stands_in_the_padding_reaches_nothing(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    dirty = {name: leaf.copy() for name, leaf in batch.items()}
    dirty["strokes"][~batch["mask"]] = np.nan
    for name in ("text", "other_text"):
        dirty[name][~batch[f"{name}_mask"]] = 3
    clean = value_and_gradients(params, batch)
    jax.tree.map(np.testing.assert_array_equal, value_and_gradients(params, dirty), clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))


def test_more_padding_changes_nothing(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    longer = {
        name: np.pad(leaf, [(0, 2), (0, 4), (0, 0)][: leaf.ndim]) for name, leaf in batch.items()
    }
    assert longer["strokes"].shape == (5, T + 4, 3) and longer["text"].shape == (5, U + 4)
    for got, want in zip(
        jax.tree.leaves(value_and_gradients(params, longer)),
        jax.tree.leaves(value_and_gradients(params, batch)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_a_batch_of_padding_alone_is_zero_over_zero(rng):
    params, batch = random_params(TASK, rng), make_batch(rng)
    nothing = {name: np.zeros_like(leaf) for name, leaf in batch.items()}
    (value, sums), gradients = value_and_gradients(params, nothing)
    assert value == 0 and all(leaf == 0 for leaf in jax.tree.leaves(sums))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_gradients_are_the_derivatives(x64, rng):
    params, batch = random_params(TASK64, rng, np.float64), make_batch(rng)
    batch["strokes"] = batch["strokes"].astype(np.float64)
    cotangent = rng.normal(size=(T, 3))

    @jax.jit
    def value(params):
        carry = TASK64.network.initial_carry(3)
        nats, _ = TASK64._nats(params, batch, batch["text"], batch["text_mask"], carry)
        assert nats.dtype == jnp.float64
        return jnp.sum(nats * cotangent)

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


# ---- the data --------------------------------------------------------------------------------


def test_collate_cuts_pads_and_normalizes(rng):
    lines = make_lines(rng)
    batch = collate_lines(lines, SPEC, max_points=T, max_letters=U)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        "strokes": ((3, T, 3), np.float32),
        "mask": ((3, T), bool),
        "text": ((3, U), np.int32),
        "text_mask": ((3, U), bool),
        "other_text": ((3, U), np.int32),
        "other_text_mask": ((3, U), bool),
    }
    assert batch["mask"].sum(axis=1).tolist() == [T, 4, 1]
    assert batch["text"].tolist() == [[0, 1, 3, 0, 2], [1, 4, 0, 0, 0], [0] * 5]  # "!" is 4
    assert batch["text_mask"].sum(axis=1).tolist() == [5, 3, 1]
    assert batch["other_text_mask"].sum(axis=1).tolist() == [1, 5, 3]
    for row, line in enumerate(lines):
        points = line["strokes"][:T].astype(np.float64)
        points[:, :2] = (points[:, :2] - [1, -2]) / [3, 0.5]
        length = len(points)
        np.testing.assert_allclose(batch["strokes"][row, :length], points, rtol=1e-5, atol=1e-6)
        assert not batch["strokes"][row, length:].any()
        assert batch["mask"][row, :length].all() and not batch["mask"][row, length:].any()
    without = [{key: line[key] for key in ("strokes", "text")} for line in lines]
    assert "other_text" not in collate_lines(without, SPEC, max_points=T, max_letters=U)


def test_letters_that_the_alphabet_lacks():
    assert TASK.encode("a.?\u00e9 b").tolist() == [0, 3, 4, 4, 2, 1]
    assert TASK.encode("").tolist() == []
    assert TASK.network.num_letters == 5


def test_the_other_text_is_another_lines(rng):
    lines = [{"strokes": np.full((1, 3), i), "text": text} for i, text in enumerate("abc")]
    got = handwriting.with_other_text(lines)
    assert [(line["text"], line["other_text"]) for line in got] == [
        *(("a", "b"), ("b", "c"), ("c", "a"))
    ]
    assert all(line["strokes"] is old["strokes"] for line, old in zip(got, lines, strict=True))
    assert "other_text" not in lines[0]


def test_one_gaussian_is_the_mean_over_points(rng):
    train = [line for _ in range(6) for line in make_lines(rng)]
    held_out = [line for _ in range(4) for line in make_lines(rng)]
    got = handwriting.one_gaussian(train, held_out, SPEC, max_points=10_000)

    points = np.concatenate([line["strokes"] for line in train]).astype(np.float64)
    normalized = (points[:, :2] - [1, -2]) / [3, 0.5]
    mean = normalized.mean(axis=0)
    covariance = (normalized - mean).T @ (normalized - mean) / len(points)
    rate = points[:, 2].mean()
    # The same as one component of the mixture, point by point.
    s = np.sqrt(np.diag(covariance))
    outputs = np.array(
        [np.log(1 / rate - 1), 0, *mean, *np.log(s), np.arctanh(covariance[0, 1] / s.prod())]
    )
    nats = [
        -np.log(density(outputs, (point[:2] - [1, -2]) / [3, 0.5], point[2]))
        for line in held_out
        for point in line["strokes"].astype(np.float64)
    ]
    assert got == pytest.approx(np.mean(nats), rel=1e-8)


def test_one_gaussian_scores_gaussian_points_with_their_entropy():
    rng = np.random.default_rng(3)
    line = {"strokes": np.column_stack([rng.normal(size=(60_000, 2)), rng.random(60_000) < 0.25])}
    spec = {"offset_mean": [0, 0], "offset_std": [1, 1]}
    entropy = np.log(2 * np.pi * np.e) - 0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert handwriting.one_gaussian([line], [line], spec, max_points=60_000) == pytest.approx(
        entropy, abs=0.02
    )


def fake_data(monkeypatch, splits):
    """What `make_data` makes of these splits, on a toy's config."""
    from lnjax.data import preparation

    statistics = {name: SPEC[name] for name in ("offset_mean", "offset_std")}
    prepared = preparation.Prepared("handwriting", "embedded", "1", "0", statistics, splits)
    monkeypatch.setattr(preparation, "prepare", lambda *_, **__: prepared)
    return handwriting.make_data(
        ConfigDict(
            dict(
                data="embedded",
                data_dir="",
                dtype="float32",
                eval_split="validation",
                max_points=T,
                max_letters=U,
                bptt=0,
                chunk=0,
                seed=0,
                batch_size=2,
                eval_batch_size=4,
            )
        )
    )


def test_data_of_a_run(monkeypatch, rng):
    from lnjax.data.scripture import ALPHABET as letters

    lines = {"train": make_lines(rng) * 2, "validation": make_lines(rng) + make_lines(rng)}
    for line in lines["train"] + lines["validation"]:
        line.pop("other_text", None)
    data = fake_data(monkeypatch, lines)
    assert data.spec == {**SPEC, "alphabet": letters} and len(letters) + 1 == 57
    batch = next(data.train)
    assert batch["strokes"].shape == (2, T, 3) and "other_text" not in batch
    (first, second) = data.evals["eval"]
    assert second["mask"].any(axis=1).tolist() == [True, True, False, False]
    assert second["other_text_mask"].any(axis=1).tolist() == [True, True, False, False]
    np.testing.assert_array_equal(first["other_text"][:3], first["text"][1:])
    task = handwriting.make_task(config_file.get_config("smoke"), data.spec)
    assert task == handwriting.make_task(config_file.get_config("smoke"), data.spec)
    assert hash(task) == hash(handwriting.make_task(config_file.get_config("smoke"), data.spec))


def test_the_baseline_is_of_the_same_points_as_the_metrics(monkeypatch, rng):
    """TaskData.baselines: "what a trivial predictor reaches on the same data"."""
    lines = {"train": make_lines(rng) * 2, "validation": make_lines(rng)}
    (baseline,) = fake_data(monkeypatch, lines).baselines.values()
    cut = {
        name: [{**line, "strokes": line["strokes"][:T]} for line in split]
        for name, split in lines.items()
    }
    assert baseline == pytest.approx(
        handwriting.one_gaussian(cut["train"], cut["validation"], SPEC, max_points=10_000), rel=1e-9
    )


@pytest.mark.parametrize("norm", ["batch", "rms", ""])
def test_unknown_norms_are_refused(norm):
    config = config_file.get_config("smoke")
    config.norm = norm
    with pytest.raises(ValueError, match=f"norm='{norm}' is not known.*'layer' and 'none'"):
        handwriting.make_task(config, SPEC)


# ---- writing ---------------------------------------------------------------------------------


def steady(rng, pace, task=TASK, readout=None):
    """Parameters whose window moves by `pace` characters a point, whatever is written."""
    params = random_params(task, rng)
    params["first"]["window_kernel"][:] = 0
    params["first"]["window_bias"][:] = [0, 0, 1.0, 1.0, np.log(pace), np.log(pace)]
    if readout is not None:
        params["readout"]["kernel"][:] = 0
        params["readout"]["bias"][:] = readout
    return params


def test_a_line_ends_when_the_window_leaves_it(rng):
    pace = 0.3
    lines = sampling.write(TASK, steady(rng, pace), jax.random.key(0), ["a", "ab.", "bb a."])
    for line, letters in zip(lines, (1, 3, 5), strict=True):
        # The place after the text is nearest once kappa = pace t > U + 1/2.
        num_points = int((letters + 0.5) / pace)
        assert line.finished and line.strokes.shape == (num_points, 3)
        kappa = pace * np.arange(1, num_points + 1)
        places = np.arange(1, letters + 1)
        want = 2 * np.exp(-np.e * (kappa[:, None] - places) ** 2)  # two equal components
        np.testing.assert_allclose(line.phi, want, rtol=1e-3, atol=1e-5)
        assert line.strokes.dtype == np.float32 and np.isfinite(line.strokes).all()
    assert [line.text for line in lines] == ["a", "ab.", "bb a."]


def test_a_line_that_does_not_end_is_given_up(rng):
    task = TASK
    slow, quick = (
        sampling.write(task, steady(rng, pace), jax.random.key(0), ["ab"])[0]
        for pace in (1e-3, 0.3)
    )
    assert not slow.finished and quick.finished
    # Two letters and one more, of 2 points each, may take three times as long.
    assert slow.strokes.shape == (3 * 2 * 3, 3) and slow.phi.shape == (3 * 2 * 3, 2)


def test_a_broken_network_finishes_nothing(rng):
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), random_params(TASK, rng))
    (line,) = sampling.write(TASK, params, jax.random.key(0), ["ab"])
    assert not line.finished


def test_strokes_are_draws_of_the_density_in_raw_units(rng):
    # One Gaussian (twice): mean (0.5, -1), deviations e^-1 and e^-2 plus the floor, no correlation.
    params = steady(rng, 0.02, readout=[1, 0, 0, 0.5, 0.5, -1, -1, -1, -1, -2, -2, 0, 0])
    lines = sampling.write(TASK, params, jax.random.key(0), ["ab ab ab ab ab"] * 40, bias=0.5)
    strokes = np.concatenate([line.strokes for line in lines])
    assert len(strokes) == 40 * 90
    sigma = (np.exp([-1, -2]) + TASK.sigma_floor) * np.exp(-0.5)
    raw_mean, raw_sigma = [0.5 * 3 + 1, -1 * 0.5 - 2], sigma * [3, 0.5]
    np.testing.assert_allclose(strokes[:, :2].mean(axis=0), raw_mean, atol=0.05)
    np.testing.assert_allclose(strokes[:, :2].std(axis=0), raw_sigma, rtol=0.06)
    assert strokes[:, 2].mean() == pytest.approx(1 / (1 + np.e), abs=0.04)
    steps = strokes[:90, 0]
    assert len(np.unique(steps)) == 90  # a new draw at every point


def test_written_points_are_what_the_network_saw(rng):
    """Teacher-forced on what it wrote, the network places its window as it did while writing."""
    params = random_params(TASK, rng)
    params["first"]["window_bias"][-2:] = -1.5
    (line,) = sampling.write(TASK, params, jax.random.key(4), ["ab a.ab"])
    assert len(line.strokes) > 3
    points = line.strokes.astype(np.float64)
    points[:, :2] = (points[:, :2] - SPEC["offset_mean"]) / SPEC["offset_std"]
    seen = np.concatenate([np.zeros((1, 3)), points[:-1]])
    _, phi = graves(params, seen, TASK.encode(line.text), 5, "layer")
    np.testing.assert_allclose(line.phi, phi[:, :-1], rtol=1e-2, atol=1e-3)


def test_the_same_key_writes_the_same(rng):
    params = steady(rng, 0.3)

    def write(seed, texts=("ab.", "ba")):
        return sampling.write(TASK, params, jax.random.key(seed), texts)

    first, again, other = write(0), write(0), write(1)
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.strokes, two.strokes)
        assert not np.array_equal(one.strokes, three.strokes)
    assert not np.array_equal(first[0].strokes[:3], first[1].strokes[:3])
    # What stands on another line does not matter, as long as there are as many.
    np.testing.assert_array_equal(write(0, ("ab.", ".....a"))[0].strokes, first[0].strokes)


def test_texts_of_any_length_share_a_program(rng):
    params = steady(rng, 0.3)
    sampling.write(TASK, params, jax.random.key(0), ["ab"])
    before = sampling._write._cache_size()
    for text, bias in (("a", 0.0), ("ab ab ab ab ab a", 1.5)):  # up to 16 letters
        sampling.write(TASK, params, jax.random.key(1), [text], bias=bias)
    assert sampling._write._cache_size() == before


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there is no text"),
        (["ab", ""], "there is no text"),
        (["  "], "there is no text"),
        (["ab?", "c"], r"cannot write '\?', 'c': known are the characters ' \.ab'"),
    ],
)
def test_texts_that_cannot_be_written(rng, texts, message):
    with pytest.raises(ValueError, match=message):
        sampling.write(TASK, {}, jax.random.key(0), texts)


@pytest.mark.parametrize("bias", [-0.1, float("nan")])
def test_bias_below_zero(bias):
    with pytest.raises(ValueError, match="bias="):
        sampling.write(TASK, {}, jax.random.key(0), ["ab"], bias=bias)


def test_the_sheet_of_a_run(rng, tmp_path):
    letters = "".join(sorted({letter for text in sampling.SHEET_TEXTS for letter in text}))
    task = dataclasses.replace(TASK, alphabet=letters)
    lines = task.sample(steady(rng, 0.5, task), {}, jax.random.key(0), 3)
    assert [line.text for line in lines] == list(sampling.SHEET_TEXTS[:3])
    handwriting.draw_samples(tmp_path / "sheet.png", lines, title="a title")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_window_of_one_gaussian():
    phi = network.gaussian_window(
        jnp.float32([[2.0]]), jnp.float32([[0.5]]), jnp.float32([[2.0]]), 4
    )
    want = 2 * np.exp(-0.5 * (2.0 - np.array([1, 2, 3, 4])) ** 2)
    np.testing.assert_allclose(phi[0], want, rtol=1e-6)

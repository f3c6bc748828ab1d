"""Residual stacks against a loop over blocks in NumPy, and gradients against its differences."""

import jax
import numpy as np
import pytest

from lnjax.analysis import (
    Problem,
    apply_stack,
    block_gradients,
    gradient_of_blocks,
    init_stack,
    stack_loss,
    teacher_problem,
    train_stacks,
    warmup_rates,
)
from tests.analysis.test_batch_size import nll
from tests.norm_oracles import standardize

H, D, K = 5, 3, 4
EPSILON = 1e-5
CASES = [(p, n) for p in ("pre", "post") for n in ("layer", "rms", None)]


def random_stack(rng, depth, norm):
    """Parameters in float64, gains and biases random, too."""
    shapes = init_stack(depth, norm=norm, features=H, in_features=D, num_classes=K)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 2, shapes)


def normalized(x, norm):
    if norm == "layer":
        return np.array([standardize(row, EPSILON) for row in x])
    if norm == "rms":
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)
    return x


def forward(params, inputs, placement, norm, depth):
    blocks = params["blocks"]
    x = inputs @ params["embedding"]
    for l in range(depth):

        def normalize(x, l=l):
            if norm is None:
                return x
            affine = blocks["normalize"]
            return normalized(x, norm) * affine["scale"][l] + affine["bias"][l]

        def layer(x, l=l):
            hidden, out = blocks["layer"]["hidden"], blocks["layer"]["out"]
            h = np.maximum(x @ hidden["kernel"][l] + hidden["bias"][l], 0)
            return h @ out["kernel"][l] + out["bias"][l]

        x = x + layer(normalize(x)) if placement == "pre" else normalize(x + layer(x))
    return (normalized(x, norm) if placement == "pre" else x) @ params["readout"]


@pytest.fixture
def problem(rng):
    return Problem(rng.normal(size=(6, D)), rng.integers(K, size=6))


@pytest.mark.parametrize(("placement", "norm"), CASES)
def test_a_stack_is_its_equations(placement, norm, rng, problem, x64):
    params = random_stack(rng, 4, norm)
    apply = jax.jit(
        lambda params, depth: apply_stack(
            params, problem.inputs, placement=placement, norm=norm, depth=depth
        )
    )
    for depth in (4, 1, 2):
        expected = forward(params, problem.inputs, placement, norm, depth)
        np.testing.assert_allclose(apply(params, depth), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("placement", "norm"), CASES)
def test_gradients_are_those_of_differences(placement, norm, rng, problem, x64):
    depth, used, h = 3, 2, 1e-6
    params = random_stack(rng, depth, norm)

    def value(params):
        return nll(forward(params, problem.inputs, placement, norm, used), problem.labels).mean()

    grads = jax.jit(
        jax.grad(lambda params: stack_loss(params, problem, placement=placement, norm=norm,
                                           depth=used))
    )(params)  # fmt: skip
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        above, below = (
            jax.tree.map(lambda p, d, s=s: p + s * h * d, params, direction) for s in (1, -1)
        )
        products = jax.tree.map(lambda g, d: np.sum(g * d), grads, direction)
        expected = (value(above) - value(below)) / (2 * h)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), expected, rtol=1e-5, atol=1e-8)
    # The norm of a block is the greatest slope within it: that along its own gradient
    norms = np.asarray(gradient_of_blocks(grads))
    for l in range(depth):
        along = jax.tree.map(np.zeros_like, params)
        for name in ("hidden", "out"):
            for leaf in ("kernel", "bias"):
                along["blocks"]["layer"][name][leaf][l] = grads["blocks"]["layer"][name][leaf][l]
        length = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(along)))
        step = h / length if length else 0.0
        above, below = (
            jax.tree.map(lambda p, d, s=s * step: p + s * d, params, along) for s in (1, -1)
        )
        slope = (value(above) - value(below)) / (2 * h)
        np.testing.assert_allclose(norms[l], slope, rtol=1e-5, atol=1e-8)
    assert norms[0] > 0 and norms[2] == 0  # beyond the depth that is used


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.some(1)
def test_gradients_by_depth(placement):
    found = block_gradients(placement=placement, depths=[1, 4], num_seeds=2, features=8)
    assert found.norms.shape == (2, 2, 4) and np.all(found.norms[:, :, 0] > 0)
    np.testing.assert_array_equal(np.isnan(found.norms[:, 0]), [[0, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found.first[0], found.last[0])
    np.testing.assert_array_equal(found.last[1], found.norms[1, :, 3])
    for seed in range(2):
        # each depth is that of a stack with no more blocks, of the same beginning
        params = init_stack(4, features=8, seed=seed)
        params["blocks"] = jax.tree.map(lambda leaf: leaf[:1], params["blocks"])
        problem = teacher_problem(128, seed=seed)
        grads = jax.grad(stack_loss)(params, problem, placement=placement)
        np.testing.assert_allclose(found.first[0, seed], gradient_of_blocks(grads)[0], rtol=1e-4)


def test_pre_norm_stacks_grow_by_a_half_per_block():
    # What the dotted line of the figure rests on: E relu(z)^2 = 1/2 for z of variance 1
    ratios = []
    for seed in range(4):
        params = init_stack(16, features=256, seed=seed)
        x = teacher_problem(64, seed=seed).inputs @ params["embedding"]
        start = (x**2).mean()
        for l in range(16):
            layer = jax.tree.map(lambda leaf, l=l: leaf[l], params["blocks"]["layer"])
            hidden = np.maximum(normalized(x, "layer") @ layer["hidden"]["kernel"], 0)
            x = x + hidden @ layer["out"]["kernel"]
        ratios.append((x**2).mean() - start)
    np.testing.assert_allclose(np.mean(ratios), 16 / 2, rtol=0.15)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.some(1)
def test_training_is_that_of_a_loop(placement):
    options = {"depth": 3, "num_steps": 4, "batch_size": 8, "features": 6}
    runs = train_stacks(
        placement=placement, peaks=[1e-3, 1e-2], warmups=[0, 3], num_seeds=2, **options
    )
    assert runs.loss.shape == (2, 2, 2, 4) and runs.gradient.shape == (2, 2, 2, 4, 2)
    value = jax.jit(jax.value_and_grad(lambda p, b: stack_loss(p, b, placement=placement)))
    for p, w, seed in ((0, 1, 1), (1, 0, 0)):
        peak, warmup = runs.peaks[p], runs.warmups[w]
        params = jax.tree.map(lambda x: x.astype(np.float64), init_stack(3, features=6, seed=seed))
        first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
        problem = teacher_problem(32, seed=seed)
        for t in range(4):
            batch = Problem(*(x[8 * t : 8 * t + 8] for x in problem))
            loss, grads = value(jax.tree.map(np.float32, params), batch)
            np.testing.assert_allclose(runs.loss[p, w, seed, t], loss, rtol=2e-4)
            ends = gradient_of_blocks(grads)[np.array([0, -1])]
            np.testing.assert_allclose(runs.gradient[p, w, seed, t], ends, rtol=2e-3)
            rate = peak * min(1, (t + 1) / warmup) if warmup else peak
            trees = (jax.tree.leaves(tree) for tree in (params, grads, first, second))
            for x, g, m, v in zip(*trees, strict=True):
                g = np.asarray(g, np.float64)
                m += 0.1 * (g - m)
                v += 0.001 * (g**2 - v)
                root = np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8
                x -= rate * m / (1 - 0.9 ** (t + 1)) / root


@pytest.mark.parametrize("peak", [1e-4, 2.0])
@pytest.mark.parametrize("warmup", [0, 1, 5, 8])
def test_a_warm_up_rises_to_its_peak(peak, warmup):
    rates = warmup_rates(peak, warmup, 8)
    expected = [peak * min(1, t / warmup) if warmup else peak for t in range(1, 9)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_a_teacher_is_the_same_each_time():
    problem = teacher_problem(500, seed=3, in_features=4, num_classes=3)
    assert problem.inputs.shape == (500, 4) and set(problem.labels) == {0, 1, 2}
    again = teacher_problem(500, seed=3, in_features=4, num_classes=3)
    np.testing.assert_array_equal(problem.inputs, again.inputs)
    np.testing.assert_array_equal(problem.labels, again.labels)
    assert not np.array_equal(teacher_problem(500, seed=4, in_features=4).inputs, problem.inputs)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="depths \\(0, 2\\); expected at least 1"):
        block_gradients(placement="pre", depths=[0, 2])
    with pytest.raises(ValueError, match="warmups \\(0, 9\\) of 8 steps"):
        train_stacks(placement="pre", warmups=[0, 9], num_steps=8)

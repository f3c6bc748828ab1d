"""The claims about the geometry of learning, against finite differences with random cotangents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnjax
from lnjax.analysis import (
    GLM,
    GLMParams,
    epsilon_leak,
    fisher_information,
    flat_directions,
    gain_geometry,
    gain_response,
    norm_growth,
    orthogonality,
    paper_fisher,
    step_angle,
)
from tests.analysis import glm_oracle

NORMS = ("layer", "rms", "batch", "weight")
CASES, INNER, WIDTH = 6, 3, 4


@pytest.fixture(autouse=True)
def _in_float64(x64):
    yield


@pytest.fixture
def problem(rng):
    """Parameters, inputs, cotangents of z."""
    params = GLMParams(
        jnp.array(rng.normal(size=(INNER, WIDTH))),
        jnp.array(rng.normal(size=WIDTH)),
        jnp.array(rng.uniform(0.5, 2, size=WIDTH)),
    )
    xs = jnp.array(rng.normal(size=(CASES, INNER)) + 0.3)
    return params, xs, jnp.array(rng.normal(size=(CASES, WIDTH)))


def along(norm, params, xs, direction, epsilon=0.0):
    """dz (N, H) by finite differences, for weights that move along a direction (D, H)."""
    theta = glm_oracle.pack(params)

    def moved(step):
        rows = theta.copy()
        rows[:, :INNER] += step[0] * np.asarray(direction).T
        return glm_oracle.natural(norm, rows, np.asarray(xs), epsilon)

    return glm_oracle.differences(moved, np.zeros(1))[..., 0]


def gradient(glm, params, xs, cotangents):
    _, pull = jax.vjp(lambda kernel: glm.natural(params._replace(kernel=kernel), xs), params.kernel)
    return pull(cotangents)[0]


def test_the_derivative_of_layer_norm(rng):
    """(1/s)(I - 11^T / H - a-hat a-hat^T / H), pulled back along random cotangents."""
    a, cotangent = rng.normal(size=(2, 7))
    centred = a - a.mean()
    s = (centred**2).mean() ** 0.5
    closed = (np.eye(7) - 1 / 7 - np.outer(centred, centred) / s**2 / 7) / s
    ours = jax.vjp(lambda a: lnjax.layer_norm(a, epsilon=0.0), a)[1](cotangent)[0]
    np.testing.assert_allclose(ours, cotangent @ closed, atol=1e-12)
    slow = glm_oracle.differences(lambda a: (a - a.mean()) / a.std(), a)
    np.testing.assert_allclose(ours, cotangent @ slow, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", (0.3, 2.0, 7.0))
def test_what_falls_as_the_weights_grow(norm, factor, problem):
    growth = norm_growth(GLM(norm, "bernoulli"), *problem, factor)
    assert growth.outputs < 1e-12 and growth.misfit < 1e-11
    expected = (1 / factor, 1 / factor**2, 1 / factor, 1 / factor, 1.0)
    actual = (growth.gradient, growth.ww, growth.wb, growth.wg, growth.rest)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_doubling_halves_the_mixed_parts_and_quarters_the_curvature(problem):
    """The paper's "factor of 1/2" is that of the former; by finite differences."""
    params, xs, _ = problem
    theta, larger = glm_oracle.pack(params), glm_oracle.pack(params)
    larger[:, :INNER] *= 2
    old, new = (
        glm_oracle.fisher("layer", "bernoulli", t, np.asarray(xs)).reshape(WIDTH, 5, WIDTH, 5)
        for t in (theta, larger)
    )
    w = slice(INNER)
    np.testing.assert_allclose(new[:, w, :, w], old[:, w, :, w] / 4, atol=1e-8)
    np.testing.assert_allclose(new[:, w, :, 3:], old[:, w, :, 3:] / 2, atol=1e-8)
    growth = norm_growth(GLM("layer", "bernoulli"), *problem, 2.0)
    np.testing.assert_allclose((growth.ww, growth.wb, growth.wg), (0.25, 0.5, 0.5))


@pytest.mark.parametrize("norm", NORMS)
def test_one_unit_may_grow_in_batch_and_weight_norm_only(norm, problem):
    growth = norm_growth(GLM(norm, "bernoulli"), *problem, 3.0, unit=1)
    if norm in ("batch", "weight"):
        assert growth.outputs < 1e-12 and growth.misfit < 1e-11
        np.testing.assert_allclose((growth.gradient, growth.ww), (1 / 3, 1 / 9), rtol=1e-10)
    else:
        assert growth.outputs > 0.1 and growth.misfit > 0.1


def test_without_a_norm_the_outputs_change(problem):
    params, xs, cotangents = problem
    growth = norm_growth(GLM(None), params._replace(scale=None), xs, cotangents, 2.0)
    assert growth.outputs > 0.1 and np.isnan(growth.wg)
    # a linear model: neither the gradient nor the curvature of the Gaussian depends on the weights
    np.testing.assert_allclose((growth.gradient, growth.ww), 1.0)


def test_what_is_zero_has_no_ratio(problem):
    """The mixed parts of batch norm vanish where the covariance is constant."""
    growth = norm_growth(GLM("batch"), *problem, 2.0)
    assert np.isnan(growth.wb) and np.isnan(growth.wg)
    np.testing.assert_allclose(growth.ww, 0.25)


@pytest.mark.parametrize("norm", NORMS)
def test_flat_directions(norm, problem):
    params, xs, _ = problem
    glm = GLM(norm)
    flat = flat_directions(fisher_information(glm, params, xs), params.kernel)

    def curvature(direction):
        slope = along(norm, params, xs, direction)
        return (slope**2).sum() / CASES / (direction**2).sum()

    kernel = np.asarray(params.kernel)
    each = [np.eye(INNER * WIDTH)[k].reshape(INNER, WIDTH) for k in range(INNER * WIDTH)]
    mean = np.mean([curvature(direction) for direction in each])
    masks = np.eye(WIDTH)
    units = [curvature(kernel * masks[i]) / mean for i in range(WIDTH)]
    shifts = [curvature(np.outer(np.eye(INNER)[d], np.ones(WIDTH))) / mean for d in range(INNER)]
    np.testing.assert_allclose(flat.matrix, curvature(kernel) / mean, atol=1e-8)
    np.testing.assert_allclose(flat.units, units, atol=1e-8)
    np.testing.assert_allclose(flat.shifts, shifts, atol=1e-8)
    assert abs(flat.matrix) < 1e-12
    small = {"units": norm in ("batch", "weight"), "shifts": norm == "layer"}
    for field, zero in small.items():
        values = np.asarray(getattr(flat, field))
        assert (abs(values) < 1e-12).all() if zero else (values > 0.01).all()


def test_equation_13_is_not_flat_where_layer_norm_is():
    glm = GLM("layer")
    params = glm.init(jax.random.key(0), 4, 24)
    xs = jax.random.normal(jax.random.key(1), (64, 4))
    flat = flat_directions(paper_fisher(glm, params, xs), params.kernel)
    assert (flat.shifts > 0.5).all() and flat.matrix > 0.5


@pytest.mark.parametrize("norm", (*NORMS, None))
@pytest.mark.some(2)
def test_gradient_and_weights(norm, problem):
    params, xs, cotangents = problem
    if norm is None:
        params = params._replace(scale=None)
    kernel = np.asarray(params.kernel)
    pulled = gradient(GLM(norm), params, xs, cotangents)
    size = np.linalg.norm(pulled)
    cosines = orthogonality(params.kernel, pulled)

    def product(direction):
        return (np.asarray(cotangents) * along(norm, params, xs, direction)).sum()

    # <v, gradient> is the derivative of the loss along v
    lengths = np.linalg.norm(kernel, axis=0) * np.linalg.norm(pulled, axis=0)
    expected = [product(kernel * np.eye(WIDTH)[i]) / lengths[i] for i in range(WIDTH)]
    np.testing.assert_allclose(cosines.units, expected, atol=1e-8)
    radial = product(kernel) / np.linalg.norm(kernel) / size
    np.testing.assert_allclose(cosines.radial, radial, atol=1e-8)
    alike = [product(np.outer(np.eye(INNER)[d], np.ones(WIDTH))) for d in range(INNER)]
    np.testing.assert_allclose(cosines.shift, np.linalg.norm(alike) / WIDTH**0.5 / size, atol=1e-8)
    assert (abs(cosines.radial) < 1e-12) == (norm is not None)
    assert (abs(cosines.units).max() < 1e-12) == (norm in ("batch", "weight"))
    assert (cosines.shift < 1e-12) == (norm == "layer")


ALL = slice(None)


@pytest.mark.parametrize(
    ("cell", "groups"),
    [
        (lnjax.LSTMCell, [(["kernel"], ALL), (["recurrent_kernel"], ALL)]),
        # its gates have one norm, its candidate another
        (lnjax.GRUCell, [(["recurrent_kernel"], slice(10)), (["recurrent_kernel"], slice(10, 15))]),
        # the sum of its products is normalized once
        (lnjax.SimpleCell, [(["kernel", "recurrent_kernel"], ALL)]),
    ],
    ids=["lstm", "gru", "simple"],
)
@pytest.mark.some(1)
def test_the_kernels_of_a_cell(cell, groups, rng):
    """Through time, for a loss with random cotangents; h_0 = 0 needs an epsilon."""
    xs, cotangents = (jnp.array(rng.normal(size=(2, 4, n))) for n in (3, 5))
    for norm in ("layer", None):
        network = lnjax.RNN(
            cell(features=5, norm=norm, epsilon=1e-12, param_dtype=jnp.float64),
            implementation="scan",
        )
        shapes = jax.eval_shape(network.init, jax.random.key(2), xs)["params"]
        params = jax.tree.map(lambda leaf: jnp.array(rng.normal(size=leaf.shape)), shapes)

        @jax.jit
        @jax.grad
        def gradient(params, network=network):
            return jnp.vdot(network.apply({"params": params}, xs), cotangents)

        w, g = params["cell"], gradient(params)["cell"]
        cosines = [
            orthogonality(
                [w[name][:, part] for name in names], [g[name][:, part] for name in names]
            )
            for names, part in groups
        ]
        if norm == "layer":
            assert all(abs(each.radial) < 1e-9 and each.shift < 1e-9 for each in cosines)
        else:
            assert max(abs(each.radial) for each in cosines) > 1e-2


def test_the_angle_of_a_step(rng):
    for size in (1e-12, 1e-6, 0.3, 5.0):
        weights, update = rng.normal(size=(2, 3, 4))
        update *= size
        cosine = np.vdot(weights, weights + update)
        cosine /= np.linalg.norm(weights) * np.linalg.norm(weights + update)
        across = update - weights * np.vdot(weights, update) / np.vdot(weights, weights)
        sine = np.linalg.norm(across) / np.linalg.norm(weights + update)
        angle = step_angle(jnp.array(weights), jnp.array(update))
        np.testing.assert_allclose(angle, np.arctan2(sine, cosine), rtol=1e-6)
    np.testing.assert_allclose(step_angle(jnp.ones(3), -2 * jnp.ones(3)), np.pi)


@pytest.mark.parametrize("family", ("gaussian", "bernoulli"))
@pytest.mark.parametrize("norm", ("layer", "batch", "weight", None))
@pytest.mark.some(3)
def test_the_metric_of_the_gain(norm, family, problem):
    params, xs, _ = problem
    if norm is None:
        params = params._replace(scale=None)
    glm = GLM(norm, family, phi=0.5 if family == "gaussian" else 1.0)
    theta = glm_oracle.pack(params)
    z = glm_oracle.natural(norm, theta, np.asarray(xs))
    kernel = np.asarray(params.kernel)
    lengths = np.linalg.norm(kernel, axis=0)
    mean, sigma = glm_oracle.statistics(norm, kernel, np.asarray(xs))
    hats = (np.asarray(xs) @ kernel - mean) / (sigma if norm else lengths)
    exact, paper = np.zeros((2, WIDTH, WIDTH))
    for n in range(CASES):
        spread = glm_oracle.covariance(family, z[n], glm.phi) / glm.phi**2 / CASES
        exact += spread * np.outer(hats[n], hats[n])
        paper += spread if norm == "batch" else spread * np.outer(hats[n], hats[n])
    metric = gain_geometry(glm, params, xs)
    np.testing.assert_allclose(metric.exact, exact, atol=1e-12)
    np.testing.assert_allclose(metric.paper, paper, atol=1e-12)
    if norm == "layer" and family == "gaussian":  # for every single case
        np.testing.assert_allclose(np.trace(metric.exact), WIDTH / glm.phi)
    if norm == "batch":  # Eq. 32 drops a-hat_i a-hat_j
        exact_too = abs(np.diagonal(metric.exact - metric.paper)).max() < 1e-12
        assert exact_too == (family == "gaussian")


def test_how_the_gain_answers_to_the_inputs(problem):
    params, xs, _ = problem
    for norm in (*NORMS, None):
        scale = None if norm is None else params.scale
        ratio = gain_response(GLM(norm), params._replace(scale=scale), xs, (0.5, 10.0))
        expected = (1.0, 1.0) if norm in ("layer", "rms", "batch") else (0.25, 100.0)
        np.testing.assert_allclose(ratio, expected, rtol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_what_epsilon_lets_through(norm, problem):
    params, xs, cotangents = problem
    epsilons = (1e-5, 1e-2, 0.3)
    leak = epsilon_leak(GLM(norm), params, xs, cotangents, epsilons)
    np.testing.assert_allclose(leak.radial, leak.predicted, rtol=1e-8, atol=1e-14)
    kernel = np.asarray(params.kernel)
    for epsilon, radial in zip(epsilons, leak.radial, strict=True):
        slope = along(norm, params, xs, kernel, epsilon)
        pulled = gradient(GLM(norm, epsilon=epsilon), params, xs, cotangents)
        product = (np.asarray(cotangents) * slope).sum()
        size = np.linalg.norm(kernel) * np.linalg.norm(pulled)
        np.testing.assert_allclose(radial, product / size, rtol=1e-4, atol=1e-9)
    # weights k times as large see epsilon / k^2
    larger = epsilon_leak(
        GLM(norm), params._replace(kernel=10 * params.kernel), xs, cotangents, (1.0,)
    )
    smaller = epsilon_leak(GLM(norm), params, xs, cotangents, (0.01,))
    np.testing.assert_allclose(larger.radial, smaller.radial, rtol=1e-8)


def test_no_norm_has_no_epsilon(problem):
    with pytest.raises(ValueError, match="norm=None has no epsilon"):
        epsilon_leak(GLM(None), *problem, (0.1,))

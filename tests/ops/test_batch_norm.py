from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnjax.ops import batch_norm, batch_statistics
from tests import norm_oracles as oracles
from tests.oracles import numerical_gradients
from tests.trees import assert_close, assert_equal

jitted = jax.jit(batch_norm, static_argnames=("axis", "epsilon", "unbiased"))
statistics_of = jax.jit(batch_statistics, static_argnames=("axis", "unbiased"))
WITH_FIXTURES = settings(
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@partial(jax.jit, static_argnames="unbiased")
def pull(x, scale, bias, mask, unbiased, cotangents):
    """Outputs, statistics of x, and the gradients to x, scale and bias."""

    def both(x, scale, bias):
        y = batch_norm(x, scale, bias, mask=mask, unbiased=unbiased)
        return y, batch_statistics(x, mask=mask, unbiased=unbiased)

    results, vjp = jax.vjp(both, x, scale, bias)
    return results, vjp(cotangents)


SHAPES = [(7, 3), (2, 5, 3), (2, 3, 2, 4)]


def case(rng, shape, dtype=np.float32):
    """x, gain, bias and a mask with both kinds of entries."""
    x = rng.normal(1.0, 2.0, shape).astype(dtype)
    scale, bias = rng.normal(size=(2, shape[-1])).astype(dtype)
    mask = rng.uniform(size=shape[:-1]) < 0.6
    mask.flat[:3] = [False, True, True]
    return x, scale, bias, mask


# Against the equations.


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.some(5)
def test_equals_the_oracle(rng, shape, masked, unbiased):
    x, scale, bias, mask = case(rng, shape)
    mask = mask if masked else None
    y = jitted(x, scale, bias, mask=mask, unbiased=unbiased)
    assert y.dtype == jnp.float32
    assert_close(y, oracles.batch_norm(x, scale, bias, mask, unbiased=unbiased))
    statistics = statistics_of(x, mask=mask, unbiased=unbiased)
    assert_close(statistics, oracles.batch_statistics(x, mask, unbiased))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_oracle_in_float64(rng, x64, masked, unbiased):
    x, scale, bias, mask = case(rng, (3, 4, 5), np.float64)
    mask = mask if masked else None
    y = jitted(x, scale, bias, mask=mask, unbiased=unbiased)
    assert y.dtype == jnp.float64
    assert_close(y, oracles.batch_norm(x, scale, bias, mask, unbiased=unbiased), 1e-10)
    statistics = statistics_of(x, mask=mask, unbiased=unbiased)
    assert_close(statistics, oracles.batch_statistics(x, mask, unbiased), 1e-10)


@pytest.mark.parametrize("axis", [0, (1,), (0, 2), (-1, 0), (0, 1, 2)])
@pytest.mark.some(3)
def test_any_axes_may_be_reduced(rng, axis):
    shape = (2, 3, 4)
    reduced = sorted(a % 3 for a in np.atleast_1d(axis))
    kept = [a for a in range(3) if a not in reduced]
    x = rng.normal(size=shape).astype(np.float32)
    scale, bias = rng.normal(size=(2, *(shape[a] for a in kept))).astype(np.float32)
    mask = rng.uniform(size=[shape[a] for a in reduced]) < 0.7
    mask.flat[:2] = [False, True]
    y = jitted(x, scale, bias, axis=axis, mask=mask)
    columns = x.transpose(*reduced, *kept).reshape(*mask.shape, -1)
    expected = oracles.batch_norm(columns, scale.ravel(), bias.ravel(), mask)
    order = np.argsort([*reduced, *kept])
    expected = expected.reshape([shape[a] for a in [*reduced, *kept]]).transpose(*order)
    assert_close(y, expected)
    mean, variance = statistics_of(x, axis=axis, mask=mask)
    assert mean.shape == variance.shape == scale.shape
    flat = oracles.batch_statistics(columns, mask)
    assert_close((mean.ravel(), variance.ravel()), flat)


def test_equals_torch(rng):
    torch = pytest.importorskip("torch")
    x, scale, bias, _ = case(rng, (6, 4, 5, 3))
    mean, variance = statistics_of(x)
    arguments = [torch.tensor(np.array(a)) for a in (mean, variance, scale, bias)]
    channels_first = torch.tensor(x).movedim(-1, 1).requires_grad_()
    for training in (True, False):
        given_statistics = None if training else (mean + 1, variance * 2)
        if not training:
            arguments[0], arguments[1] = (torch.tensor(np.array(a)) for a in given_statistics)
        expected = torch.nn.functional.batch_norm(
            channels_first, *arguments, training=training, momentum=0.0
        )
        y, vjp = jax.vjp(lambda x, s=given_statistics: jitted(x, scale, bias, statistics=s), x)
        assert_close(y, expected.movedim(1, -1).detach().numpy())
        cotangent = rng.normal(size=x.shape).astype(np.float32)
        (gradient,) = torch.autograd.grad(
            expected, channels_first, torch.tensor(cotangent).movedim(-1, 1)
        )
        assert_close(vjp(cotangent)[0], gradient.movedim(1, -1).numpy())


def test_given_statistics_are_used(rng):
    x, scale, bias, mask = case(rng, (5, 3))
    statistics = rng.normal(size=3).astype(np.float32), rng.uniform(1, 2, 3).astype(np.float32)
    y = jitted(x, scale, bias, statistics=statistics, mask=mask)
    assert_close(y, oracles.batch_norm(x, scale, bias, mask, statistics=statistics))
    own = batch_statistics(x, mask=mask)
    assert_close(batch_norm(x, mask=mask, statistics=own), batch_norm(x, mask=mask))


def test_epsilon_stands_inside_the_root():
    x = jnp.array([[1.0], [-1.0]]) * 1e-5**0.5
    assert_close(batch_norm(x, epsilon=1e-5), [[0.5**0.5], [-(0.5**0.5)]])


# Precision.


@pytest.mark.parametrize("masked", [False, True])
def test_a_large_mean_costs_no_digits(rng, masked):
    means = np.array([0.0, 1e2, 1e3, 1e4, 1e5, -1e5])
    x = rng.normal(means, 1.0, (50, 6)).astype(np.float32)  # the oracle sees it rounded, too
    mask = rng.uniform(size=50) < 0.5 if masked else None
    if masked:
        x[~mask] = np.nan
        assert not mask.all() and mask.any()
    clean = np.where(np.isnan(x), 0, x)
    expected = oracles.batch_norm(clean, mask=mask)
    np.testing.assert_allclose(jitted(x, mask=mask), expected, atol=1e-5)
    mean, variance = statistics_of(x, mask=mask)
    expected_mean, expected_variance = oracles.batch_statistics(clean, mask)
    np.testing.assert_allclose(mean, expected_mean, rtol=2e-7, atol=1e-6)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [2, 3, 7, 240])
@pytest.mark.some(3)
def test_a_constant_column_gives_exactly_the_bias(rng, rows, masked):
    values = np.array([0.0, 0.1, -3.3, 1000.1, 1e5 + 0.3, 1e18], np.float32)
    x = np.tile(values, (rows, 1))
    bias = rng.normal(size=6).astype(np.float32)
    mask = None
    if masked:
        mask = np.arange(rows) > 0
        x[0] = np.nan
    y = jitted(x, np.full(6, 2.0, np.float32), bias, mask=mask)
    assert_equal(y[1:], np.tile(bias, (rows - 1, 1)))
    assert_equal(statistics_of(x, mask=mask), (values, np.zeros(6, np.float32)))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.some(2)
def test_a_batch_of_one_gives_the_bias_and_finite_gradients(rng, masked, unbiased):
    x = rng.normal(size=(3 if masked else 1, 4)).astype(np.float32)
    mask = np.array([False, True, False]) if masked else None
    bias = np.arange(4, dtype=np.float32)
    y, vjp = jax.vjp(lambda x, bias: jitted(x, None, bias, mask=mask, unbiased=unbiased), x, bias)
    real = slice(None) if mask is None else mask
    assert_equal(y[real], bias[None])
    for gradient in vjp(rng.normal(size=y.shape).astype(np.float32)):
        assert jnp.isfinite(gradient).all()
    assert_equal(statistics_of(x, mask=mask, unbiased=unbiased), (x[real][0], np.zeros(4)))


@pytest.mark.parametrize("dtype, bits", [(jnp.float16, 11), (jnp.bfloat16, 8)])
def test_half_precision_rounds_only_once(rng, dtype, bits):
    x = jnp.asarray(rng.normal([0, 0, 3e3, 0], [1, 1e3, 1e3, 1e-3], (200, 4)), dtype)
    scale, bias = rng.normal(size=(2, 4)).astype(np.float32)
    mask = rng.uniform(size=200) < 0.7
    y = jitted(x, scale, bias, mask=mask)
    assert y.dtype == dtype
    expected = oracles.batch_norm(x, scale, bias, mask)
    np.testing.assert_allclose(
        np.asarray(y, np.float64), expected, rtol=1.02 * 2.0**-bits, atol=2e-6
    )
    mean, variance = statistics_of(x, mask=mask)
    assert mean.dtype == variance.dtype == jnp.float32
    assert_close((mean, variance), oracles.batch_statistics(x, mask))
    (gradient,) = jax.vjp(lambda x: jitted(x, scale, bias, mask=mask), x)[1](y)
    assert gradient.dtype == dtype and jnp.isfinite(gradient).all()


# Derivatives.


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_differences_of_the_oracle(rng, x64, masked, unbiased):
    x, scale, bias, mask = case(rng, (2, 3, 2), np.float64)
    mask = mask if masked else None
    cotangent = rng.normal(size=x.shape)
    expected = numerical_gradients(
        lambda x, scale, bias: (
            cotangent * oracles.batch_norm(x, scale, bias, mask, unbiased=unbiased)
        ).sum(),
        {"x": x, "scale": scale, "bias": bias},
    )
    _, vjp = jax.vjp(lambda *args: jitted(*args, mask=mask, unbiased=unbiased), x, scale, bias)
    for gradient, name in zip(vjp(cotangent), ("x", "scale", "bias"), strict=True):
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-7, atol=1e-8, err_msg=name)


def test_gradients_of_the_statistics_equal_differences(rng, x64):
    x, _, _, mask = case(rng, (5, 2), np.float64)
    of_mean, of_variance = rng.normal(size=(2, 2))

    def value(x):
        mean, variance = oracles.batch_statistics(x, mask, unbiased=True)
        return (of_mean * mean + of_variance * variance).sum()

    _, vjp = jax.vjp(lambda x: statistics_of(x, mask=mask, unbiased=True), x)
    assert_close(vjp((of_mean, of_variance))[0], numerical_gradients(value, {"x": x})["x"], 1e-7)


def test_forward_mode_is_the_transpose_of_reverse_mode(rng, x64):
    *arguments, mask = case(rng, (4, 3), np.float64)
    *tangents, _ = case(rng, (4, 3), np.float64)
    cotangent = rng.normal(size=(4, 3))

    def function(*args):
        return jitted(*args, mask=mask)

    _, pushed = jax.jvp(function, arguments, tangents)
    pulled = jax.vjp(function, *arguments)[1](cotangent)
    backward = sum((g * v).sum() for g, v in zip(pulled, tangents, strict=True))
    np.testing.assert_allclose((cotangent * pushed).sum(), backward, rtol=1e-12)


# Masks.


@WITH_FIXTURES
@given(
    mask=st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
    unbiased=st.booleans(),
    bad=st.sampled_from([np.nan, np.inf, 1e30]),
)
def test_masked_equals_only_the_real_rows(x64, mask, unbiased, bad):
    rng = np.random.default_rng(sum(2**i for i, real in enumerate(mask) if real))
    mask = np.array(mask).reshape(2, 3)
    x, scale, bias, _ = case(rng, (2, 3, 4), np.float64)
    x[~mask] = bad
    cotangent = rng.normal(size=x.shape)
    of_statistics = tuple(rng.normal(size=(2, 4)))
    got = pull(x, scale, bias, mask, unbiased, (cotangent, of_statistics))
    (y, statistics), (of_x, *of_parameters) = jax.tree.map(np.asarray, got)
    real = pull(x[mask], scale, bias, None, unbiased, (cotangent[mask], of_statistics))
    (real_y, real_statistics), (real_of_x, *expected) = real
    assert_close(y[mask], real_y, 1e-10)
    assert_close(statistics, real_statistics, 1e-10)
    assert_equal(y[~mask], np.zeros_like(y[~mask]))
    assert_close((of_x[mask], of_parameters), (real_of_x, expected), 1e-10)
    assert_equal(of_x[~mask], np.zeros_like(of_x[~mask]))


@pytest.mark.parametrize("epsilon", [1e-5, 0.0])
@pytest.mark.parametrize("unbiased", [False, True])
def test_without_a_real_entry_all_is_zero(epsilon, unbiased):
    x = jnp.full((3, 2), jnp.nan)
    mask = np.zeros(3, bool)
    ones = jnp.ones(2)
    y, vjp = jax.vjp(
        lambda *args: jitted(*args, mask=mask, epsilon=epsilon, unbiased=unbiased), x, ones, ones
    )
    assert_equal((y, *vjp(jnp.ones((3, 2)))), (0 * jnp.ones((3, 2)),) * 2 + (0 * ones,) * 2)
    assert_equal(statistics_of(x, mask=mask, unbiased=unbiased), (0 * ones, 0 * ones))


def test_an_empty_batch_has_statistics():
    assert jitted(jnp.ones((0, 3))).shape == (0, 3)
    assert_equal(statistics_of(jnp.ones((0, 3))), (np.zeros(3), np.zeros(3)))


def test_jit_and_vmap_change_nothing(rng):
    x, scale, bias, _ = case(rng, (3, 5, 4))
    mask = rng.uniform(size=(3, 5)) < 0.6
    one_by_one = jnp.stack(
        [batch_norm(*row, mask=m) for *row, m in zip(x, [scale] * 3, [bias] * 3, mask, strict=True)]
    )
    mapped = jax.vmap(lambda x, mask: jitted(x, scale, bias, mask=mask))(x, mask)
    assert_close(mapped, one_by_one, 1e-6)


# Refusals.


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_refuses_what_is_not_floating_point(dtype):
    with pytest.raises(TypeError, match=f"batch_norm.*{jnp.dtype(dtype).name}"):
        batch_norm(jnp.ones((2, 3), dtype))


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (1, -1), ()])
def test_refuses_axes_that_are_none(axis):
    with pytest.raises(ValueError, match="axis"):
        batch_norm(jnp.ones((2, 3)), axis=axis)


@pytest.mark.parametrize("shape", [(2,), (1,), (), (2, 3), (1, 3)])
@pytest.mark.parametrize("name", ["scale", "bias", "mean", "variance"])
def test_refuses_parameters_of_another_shape(name, shape):
    wrong, right = jnp.ones(shape), jnp.ones(3)
    options = {
        "scale": {"scale": wrong},
        "bias": {"bias": wrong},
        "mean": {"statistics": (wrong, right)},
        "variance": {"statistics": (right, wrong)},
    }
    with pytest.raises(ValueError, match=name):
        batch_norm(jnp.ones((2, 3)), **options[name])


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.ones((2, 3), bool), np.ones((2, 1), bool)])
def test_refuses_a_mask_of_another_shape(mask):
    for function in (batch_norm, batch_statistics):
        with pytest.raises(ValueError, match="mask"):
            function(jnp.ones((2, 3)), mask=mask)


def test_refuses_a_mask_that_is_not_bool():
    with pytest.raises(ValueError, match="bool"):
        batch_norm(jnp.ones((2, 3)), mask=jnp.ones(2))


def test_refuses_an_estimator_for_statistics_that_are_given():
    statistics = (jnp.zeros(3), jnp.ones(3))
    with pytest.raises(ValueError, match="unbiased"):
        batch_norm(jnp.ones((2, 3)), statistics=statistics, unbiased=True)

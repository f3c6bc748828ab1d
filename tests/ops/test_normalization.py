import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnjax.ops import layer_norm
from tests import oracles

jitted = jax.jit(layer_norm, static_argnames=("axis", "epsilon"))
layer_norm_of_epsilon = jax.jit(lambda x, epsilon: layer_norm(x, epsilon=epsilon))
WITH_FIXTURES = settings(
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SHAPES_AND_AXES = [
    ((5,), -1),
    ((4, 7), -1),
    ((4, 7), 0),
    ((2, 3, 6), (-1,)),
    ((2, 3, 6), (1, 2)),
    ((2, 3, 6), (0, -1)),
    ((2, 3, 6), (2, 1, 0)),
    ((1, 1), 1),
]


def case(rng, shape, axis, with_scale, with_bias, dtype):
    axes = sorted(a % len(shape) for a in np.atleast_1d(axis))
    width = tuple(shape[a] for a in axes)
    x = rng.normal(1.0, 2.0, shape).astype(dtype)
    scale = rng.normal(size=width).astype(dtype) if with_scale else None
    bias = rng.normal(size=width).astype(dtype) if with_bias else None
    return x, scale, bias


@pytest.mark.parametrize("with_scale, with_bias", [(False, False), (True, False), (False, True)])
def test_scale_and_bias_may_be_left_out(rng, with_scale, with_bias):
    x, scale, bias = case(rng, (4, 7), -1, with_scale, with_bias, np.float32)
    y = jitted(x, scale, bias)
    np.testing.assert_allclose(y, oracles.layer_norm(x, scale, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape, axis", SHAPES_AND_AXES)
def test_equals_the_oracle(rng, shape, axis):
    x, scale, bias = case(rng, shape, axis, True, True, np.float32)
    y = jitted(x, scale, bias, axis=axis)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, oracles.layer_norm(x, scale, bias, axis), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape, axis", SHAPES_AND_AXES)
def test_equals_the_oracle_in_float64(rng, x64, shape, axis):
    x, scale, bias = case(rng, shape, axis, True, True, np.float64)
    y = jitted(x, scale, bias, axis=axis)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, oracles.layer_norm(x, scale, bias, axis), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [16, 512])
def test_a_large_mean_costs_no_digits(rng, width):
    means = np.repeat([0.0, 1e2, 1e3, 1e4, 1e5, -1e5], 10)[:, None]
    x = rng.normal(means, 1.0, (60, width)).astype(np.float32)  # the oracle sees it rounded, too
    np.testing.assert_allclose(jitted(x), oracles.layer_norm(x), atol=1e-5)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("width", [1, 3, 7, 240])
def test_a_constant_row_gives_exactly_the_bias(rng, width, transform):
    values = np.array([0.0, 0.1, -3.3, 1000.1, 1e5 + 0.3, 1e18], np.float32)
    x = np.tile(values[:, None], (1, width))
    bias = rng.normal(size=width).astype(np.float32)
    y = transform(layer_norm)(x, np.full(width, 2.0, np.float32), bias)
    np.testing.assert_array_equal(y, np.tile(bias, (len(values), 1)))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_the_derivative_at_a_zero_row_is_the_centering_over_the_root_of_epsilon(epsilon):
    width = 6
    jacobian = jax.jacobian(lambda x: jitted(x, epsilon=epsilon))(jnp.zeros(width))
    np.testing.assert_allclose(jacobian, (np.eye(width) - 1 / width) * epsilon**-0.5, rtol=1e-5)
    assert np.linalg.norm(jacobian, 2) <= epsilon**-0.5 * (1 + 1e-6)


@pytest.mark.parametrize("dtype, bits", [(jnp.float16, 11), (jnp.bfloat16, 8)])
def test_half_precision_rounds_only_once(rng, dtype, bits):
    # In float16 the square of 1e3 overflows, and that of 1e-3 keeps four bits.
    mean, size = np.array([[0, 1], [0, 1e3], [3e3, 1e3], [0, 1e-3]]).T[:, :, None]
    x = jnp.asarray(rng.normal(mean, size, (4, 200)), dtype)
    scale, bias = rng.normal(size=(2, 200)).astype(np.float32)
    y = jitted(x, scale, bias)
    assert y.dtype == dtype
    expected = oracles.layer_norm(x, scale, bias)
    np.testing.assert_allclose(
        np.asarray(y, np.float64), expected, rtol=1.02 * 2.0**-bits, atol=2e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_gradients_keep_their_dtype_and_are_finite(rng, dtype):
    x = jnp.asarray(rng.normal(0, 1e3, (4, 50)), dtype).at[0].set(0)
    cotangent = jnp.asarray(rng.normal(size=(4, 50)), dtype)
    y, vjp = jax.vjp(jitted, x)
    (gradient,) = vjp(cotangent.astype(y.dtype))
    assert gradient.dtype == dtype
    assert jnp.isfinite(gradient).all()


def test_epsilon_stands_inside_the_root():
    # The variance of this row equals epsilon: 1 / sqrt(2) inside the root, about 1 outside.
    x = jnp.array([1.0, -1.0]) * 1e-5**0.5
    np.testing.assert_allclose(layer_norm(x, epsilon=1e-5), [0.5**0.5, -(0.5**0.5)], rtol=1e-5)


def test_the_variance_is_the_biased_one():
    # Divided by H - 1 = 1 it would be 2, and the outputs 0.7071.
    np.testing.assert_allclose(layer_norm(jnp.array([1.0, -1.0]), epsilon=0.0), [1, -1], rtol=1e-6)


def test_epsilon_defaults_to_the_authors(rng):
    x = 1e-3 * rng.normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_array_equal(layer_norm(x), layer_norm(x, epsilon=1e-5))


@WITH_FIXTURES
@given(
    factor=st.floats(0.01, 1e3),
    shift=st.floats(-1e3, 1e3),
    sign=st.sampled_from([-1, 1]),
    width=st.sampled_from([2, 3, 8]),
    seed=st.integers(0, 2**16),
)
def test_shifted_and_scaled_inputs_give_the_same(x64, factor, shift, sign, width, seed):
    # Epsilon is in units of x squared; scaled with x, the invariance is exact.
    x = np.random.default_rng(seed).normal(size=(2, width))
    y = layer_norm_of_epsilon(x, 1e-5)
    moved = layer_norm_of_epsilon(sign * factor * x + shift, 1e-5 * factor**2)
    np.testing.assert_allclose(sign * moved, y, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape, axis", [((3, 5), -1), ((3, 5), 0), ((2, 2, 3), (0, 2))])
def test_gradients_equal_differences_of_the_oracle(rng, x64, shape, axis):
    x, scale, bias = case(rng, shape, axis, True, True, np.float64)
    cotangent = rng.normal(size=shape)
    expected = oracles.numerical_gradients(
        lambda x, scale, bias: (cotangent * oracles.layer_norm(x, scale, bias, axis)).sum(),
        {"x": x, "scale": scale, "bias": bias},
    )
    _, vjp = jax.vjp(lambda *args: jitted(*args, axis=axis), x, scale, bias)
    for gradient, name in zip(vjp(cotangent), ("x", "scale", "bias"), strict=True):
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-7, atol=1e-8, err_msg=name)


def test_forward_mode_is_the_transpose_of_reverse_mode(rng, x64):
    arguments = case(rng, (3, 5), -1, True, True, np.float64)
    tangents = case(rng, (3, 5), -1, True, True, np.float64)
    cotangent = rng.normal(size=(3, 5))
    _, pushed = jax.jvp(jitted, arguments, tangents)
    pulled = jax.vjp(jitted, *arguments)[1](cotangent)
    forward = (cotangent * pushed).sum()
    backward = sum((g * v).sum() for g, v in zip(pulled, tangents, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


def test_second_derivatives(rng, x64):
    x, scale, bias = case(rng, (2, 4), -1, True, True, np.float64)
    cotangent, direction = rng.normal(size=(2, 2, 4))

    def value(x):
        return (cotangent * jitted(x, scale, bias)).sum()

    def along(t):
        return (cotangent * oracles.layer_norm(x + t * direction, scale, bias)).sum()

    forward_over_reverse = jax.jvp(jax.grad(value), (x,), (direction,))[1]
    reverse_over_reverse = jax.grad(lambda x: (jax.grad(value)(x) * direction).sum())(x)
    np.testing.assert_allclose(forward_over_reverse, reverse_over_reverse, rtol=1e-9, atol=1e-12)
    h = 1e-3
    outer, inner = along(2 * h) + along(-2 * h), along(h) + along(-h)
    curvature = (-outer + 16 * inner - 30 * along(0)) / (12 * h**2)
    np.testing.assert_allclose((forward_over_reverse * direction).sum(), curvature, rtol=1e-7)


def test_jit_and_vmap_change_nothing(rng):
    x, scale, bias = case(rng, (3, 4, 6), -1, True, True, np.float32)
    y = layer_norm(x, scale, bias)
    np.testing.assert_allclose(jitted(x, scale, bias), y, rtol=1e-6, atol=1e-6)
    mapped = jax.vmap(jitted, in_axes=(0, None, None))(x, scale, bias)
    np.testing.assert_allclose(mapped, y, rtol=1e-6, atol=1e-6)
    columns = jax.vmap(lambda column: jitted(column, axis=0), in_axes=1, out_axes=1)(x)
    np.testing.assert_allclose(columns, jitted(x, axis=0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_refuses_what_is_not_floating_point(dtype):
    with pytest.raises(TypeError, match=jnp.dtype(dtype).name):
        layer_norm(jnp.ones((2, 3), dtype))


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (1, -1), ()])
def test_refuses_axes_that_are_none(axis):
    with pytest.raises(ValueError, match="axis"):
        layer_norm(jnp.ones((2, 3)), axis=axis)


def test_refuses_a_scalar():
    with pytest.raises(ValueError, match="rank 0"):
        layer_norm(jnp.float32(1))


@pytest.mark.parametrize("name", ["scale", "bias"])
@pytest.mark.parametrize("shape", [(2,), (1,), (), (2, 3), (1, 3)])
def test_refuses_parameters_of_another_shape(name, shape):
    with pytest.raises(ValueError, match=name):
        layer_norm(jnp.ones((2, 3)), **{name: jnp.ones(shape)})

"""rms_norm: its equation, its dtypes, its derivative, and what it does not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from lnjax.ops import rms_norm
from tests import oracles

jitted = jax.jit(rms_norm, static_argnames=("axis", "epsilon"))
SHAPES_AND_AXES = [((5,), -1), ((4, 7), 0), ((2, 3, 6), (1, 2)), ((2, 3, 6), (0, -1))]


def case(rng, shape, axis, dtype):
    width = tuple(shape[a] for a in sorted(a % len(shape) for a in np.atleast_1d(axis)))
    parts = rng.normal(1.0, 2.0, shape), rng.normal(size=width), rng.normal(size=width)
    return [part.astype(dtype) for part in parts]


def exact(x, scale=None, bias=None, axis=-1, epsilon=1e-5):
    """The equation in float64."""
    axes = sorted(a % np.ndim(x) for a in np.atleast_1d(axis))
    x = np.asarray(x, np.float64)
    y = x / np.sqrt(np.mean(x**2, axis=tuple(axes), keepdims=True) + epsilon)
    width = [size if a in axes else 1 for a, size in enumerate(x.shape)]
    y = y if scale is None else y * np.reshape(np.asarray(scale, np.float64), width)
    return y if bias is None else y + np.reshape(np.asarray(bias, np.float64), width)


@pytest.mark.parametrize("shape, axis", SHAPES_AND_AXES)
def test_equals_the_equation(rng, x64, shape, axis):
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
        x, scale, bias = case(rng, shape, axis, dtype)
        y = jitted(x, scale, bias, axis=axis)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, exact(x, scale, bias, axis), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.bfloat16, 2**-8), (jnp.float16, 2**-10)])
def test_half_precision_is_rounded_once(rng, dtype, tolerance):
    x = jnp.asarray(rng.normal(1.0, 2.0, (16, 512)), dtype)
    y = jitted(x)
    assert y.dtype == dtype
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact(wide), rtol=tolerance, atol=1e-6)


def test_the_mean_is_left_in_and_a_zero_row_is_the_bias(rng):
    x, bias = np.zeros((2, 6), np.float32), rng.normal(size=6).astype(np.float32)
    np.testing.assert_array_equal(jitted(x, None, bias), np.stack([bias, bias]))
    constant = jitted(np.full((1, 6), 7.0, np.float32))
    np.testing.assert_allclose(constant, np.ones((1, 6)), rtol=1e-6)


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 2**16))
def test_the_scale_of_a_row_does_not_matter(factor, seed):
    x = np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
    without = jitted(x, epsilon=0.0)
    np.testing.assert_allclose(jitted(x * np.float32(factor), epsilon=0.0), without, rtol=1e-5)
    np.testing.assert_allclose(jitted(-x, epsilon=0.0), -without, rtol=1e-6)


def test_derivatives_of_both_modes_equal_differences(rng, x64):
    x, scale, bias = case(rng, (3, 6), -1, np.float64)
    check_grads(rms_norm, (x, scale, bias), order=2, modes=("fwd", "rev"), rtol=1e-6, atol=1e-6)


def test_where_layer_norm_meets_it(rng):
    x = rng.normal(size=(4, 9))
    x -= x.mean(-1, keepdims=True)
    np.testing.assert_allclose(
        exact(x), oracles.layer_norm(x, None, None, -1), rtol=1e-10, atol=1e-12
    )
    with pytest.raises(TypeError, match="rms_norm"):
        rms_norm(np.ones((2, 3), np.int32))
    with pytest.raises(ValueError, match="scale"):
        rms_norm(x, np.ones(8))

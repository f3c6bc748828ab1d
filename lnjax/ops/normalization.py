"""Normalizers as pure functions: statistics in two passes, in at least float32.

Two passes (the mean first, then the mean of the squared deviations) because E[x^2] - E[x]^2 loses
every digit once the mean of a row is some thousand times its deviation. Plain `jax.numpy`, so that
forward mode, reverse mode and their compositions all work.
"""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lnjax.typing import Array, DType


def statistics_dtype(dtype: DType) -> DType:
    """The dtype in which statistics are taken: float32, or `dtype` where that is wider."""
    return jnp.promote_types(dtype, jnp.float32)


def layer_norm(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
) -> Array:
    r"""Layer normalization (Ba et al. 2016, Eq. 3 and 5; the operator of Eq. 15-16).

    .. math::
        \mathrm{LN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \mathrm{scale}
            + \mathrm{bias},
        \qquad \mu = \frac{1}{H}\sum_i x_i,
        \qquad \sigma^2 = \frac{1}{H}\sum_i (x_i - \mu)^2

    The variance is the biased one (divided by H), in two passes. Epsilon stands inside the root, as
    in the authors' Theano code: a constant row then gives exactly `bias`, and its derivative is
    finite (at most ``epsilon ** -0.5`` in norm). Every recurrent network that starts from a zero
    state meets such a row at its first step.

    Args:
      x: (..., H) floating point; float16 and bfloat16 take their statistics in float32.
      scale: the gain, of the shape of the normalized axes in ascending order; None means 1.
      bias: of the same shape; None means 0.
      axis: the axis or axes over which one case's statistics run.
      epsilon: added to the variance, in units of x squared.

    Returns:
      Of the shape and dtype of `x`.

    Raises:
      TypeError: `x` is not of a floating dtype.
      ValueError: an axis is out of range or named twice, or `scale` or `bias` has another shape
        than the normalized axes.

    >>> import jax.numpy as jnp
    >>> y = layer_norm(jnp.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    >>> [[round(value, 3) for value in row] for row in y.tolist()]
    [[-1.225, 0.0, 1.225], [0.0, 0.0, 0.0]]
    """
    wide, axes = _wide("layer_norm", x, axis)
    centered = _centered(wide, axes)
    y = centered * _inverse_root(centered, axes, epsilon)
    return _affine(y, scale, bias, axes).astype(jnp.asarray(x).dtype)


def rms_norm(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
) -> Array:
    r"""Root mean square normalization (Zhang and Sennrich 2019): `layer_norm` without its mean.

    .. math::
        \mathrm{RMS}(x) = \frac{x}{\sqrt{\frac{1}{H}\sum_i x_i^2 + \epsilon}} \odot
            \mathrm{scale} + \mathrm{bias}

    Invariant to the scale of a row, not to its shift. A zero row gives exactly `bias`.

    Args:
      x: (..., H) floating point; float16 and bfloat16 take their statistics in float32.
      scale: the gain, of the shape of the normalized axes in ascending order; None means 1.
      bias: of the same shape; None means 0, as in the usual form.
      axis: the axis or axes over which one case's mean square runs.
      epsilon: added to the mean square, in units of x squared.

    Returns:
      Of the shape and dtype of `x`.

    Raises:
      TypeError, ValueError: as `layer_norm`.

    >>> import jax.numpy as jnp
    >>> y = rms_norm(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    >>> [[round(value, 3) for value in row] for row in y.tolist()]
    [[0.849, 1.131], [0.0, 0.0]]
    """
    wide, axes = _wide("rms_norm", x, axis)
    y = wide * _inverse_root(wide, axes, epsilon)
    return _affine(y, scale, bias, axes).astype(jnp.asarray(x).dtype)


def _wide(name: str, x: Array, axis: int | Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """`x` in the dtype of its statistics, and the axes counted from the front."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} takes floating point x, got {x.dtype}; convert it first")
    return x.astype(statistics_dtype(x.dtype)), _canonical_axes(axis, x.ndim)


def _centered(wide: Array, axes: tuple[int, ...]) -> Array:
    first = wide[tuple(slice(1) if a in axes else slice(None) for a in range(wide.ndim))]
    # A shift changes neither value nor derivative. Without it the rounded mean of a row with a mean
    # of 1e5 costs it five digits, and a constant row would not come out constant.
    shifted = wide - jax.lax.stop_gradient(first)
    return shifted - jnp.mean(shifted, axis=axes, keepdims=True)


def _inverse_root(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    return jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + epsilon)


def _affine(y: Array, scale: Array | None, bias: Array | None, axes: tuple[int, ...]) -> Array:
    if scale is not None:
        y = y * _over_axes("scale", scale, y.shape, axes).astype(y.dtype)
    if bias is not None:
        y = y + _over_axes("bias", bias, y.shape, axes).astype(y.dtype)
    return y


def _canonical_axes(axis: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    given = tuple(map(operator.index, axis if isinstance(axis, Sequence) else (axis,)))
    axes = tuple(a + ndim if a < 0 else a for a in given)
    if not axes or any(not 0 <= a < ndim for a in axes) or len(set(axes)) != len(axes):
        raise ValueError(f"axis={axis!r} does not name distinct axes of an array of rank {ndim}")
    return tuple(sorted(axes))


def _over_axes(name: str, parameter: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Gives a gain or bias length 1 on every axis that is not normalized."""
    parameter = jnp.asarray(parameter)
    expected = tuple(shape[a] for a in axes)
    if parameter.shape != expected:
        raise ValueError(
            f"{name} has shape {parameter.shape}, but the normalized axes {axes} of x {shape} have"
            f" shape {expected}"
        )
    return parameter.reshape(tuple(n if a in axes else 1 for a, n in enumerate(shape)))

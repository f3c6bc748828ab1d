"""Batch normalization as pure functions: statistics of each feature over the cases of a batch.

As in `lnjax.ops.normalization` the statistics are taken in two passes and at least float32. Here a
mask may leave entries out of them; what stands there, NaN included, reaches nothing.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lnjax.ops.normalization import affine, other_axes, over_axes, widen
from lnjax.typing import Array


def batch_norm(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | Sequence[int] | None = None,
    epsilon: float = 1e-5,
    mask: Array | None = None,
    unbiased: bool = False,
    statistics: tuple[Array, Array] | None = None,
) -> Array:
    r"""Batch normalization (Ioffe and Szegedy 2015; Ba et al. 2016, Eq. 2).

    .. math::
        \mathrm{BN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \mathrm{scale}
            + \mathrm{bias},
        \qquad \mu = \frac{1}{n}\sum_b x_b,
        \qquad \sigma^2 = \frac{1}{n}\sum_b (x_b - \mu)^2

    for each feature, over its n real entries :math:`x_b` along `axis`. A feature that is constant
    over the batch, a batch of one among them, gives exactly `bias`.

    Args:
      x: (..., H) floating point; float16 and bfloat16 take their statistics in float32.
      scale: the gain, of the shape of the axes that are *not* in `axis`, in ascending order; None
        means 1.
      bias: of the same shape; None means 0.
      axis: the axis or axes over which the statistics run; None means all but the last.
      epsilon: added to the variance, in units of x squared.
      mask: bool, True = real, of the shape of the axes in `axis`, in ascending order: (B, T) for
        x (B, T, H). Where it is False the output is zero.
      unbiased: divide the sum of squares by n - 1 (by 1 if n is 1) in place of n.
      statistics: mean and variance to use in place of those of this batch, each of the shape of
        `scale`; `batch_statistics` gives such a pair.

    Returns:
      Of the shape and dtype of `x`.

    Raises:
      TypeError: `x` is not of a floating dtype.
      ValueError: an axis is out of range or named twice, or there is none; `scale`, `bias`, `mask`
        or a statistic has another shape than the above; `mask` is not bool; `unbiased` is given
        together with `statistics`, where it has no meaning.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0], [jnp.nan, jnp.nan]])
    >>> batch_norm(x, mask=jnp.array([True, True, False]), epsilon=1e-6).round(3).tolist()
    [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    wide, axes, mask = _real_entries("batch_norm", x, axis, mask)
    kept = other_axes(axes, wide.ndim)
    if statistics is None:
        _, centered, variance = _moments(wide, axes, mask, unbiased)
    elif unbiased:
        raise ValueError("unbiased=True has no meaning where the statistics are given")
    else:
        mean, variance = (
            over_axes(name, value, wide.shape, kept).astype(wide.dtype)
            for name, value in zip(("mean", "variance"), statistics, strict=True)
        )
        centered = wide - mean
    # Zero before the gain, too: with epsilon 0 what is not real may be 0 * inf here.
    normalized = _keep(mask, centered * jax.lax.rsqrt(variance + epsilon))
    return _keep(mask, affine(normalized, scale, bias, kept)).astype(jnp.asarray(x).dtype)


def batch_statistics(
    x: Array,
    *,
    axis: int | Sequence[int] | None = None,
    mask: Array | None = None,
    unbiased: bool = False,
) -> tuple[Array, Array]:
    """Mean and variance of each feature over the real entries of a batch, as `batch_norm` does.

    Args:
      x, axis, mask, unbiased: see `batch_norm`.

    Returns:
      The mean and the variance, of the shape of the axes that are not in `axis`, in at least
      float32. Without a single real entry both are 0.

    Raises:
      TypeError, ValueError: as `batch_norm`.

    >>> import jax.numpy as jnp
    >>> mean, variance = batch_statistics(jnp.array([[1.0], [3.0], [5.0]]), unbiased=True)
    >>> mean.tolist(), variance.tolist()
    ([3.0], [4.0])
    """
    wide, axes, mask = _real_entries("batch_statistics", x, axis, mask)
    mean, _, variance = _moments(wide, axes, mask, unbiased)
    return jnp.squeeze(mean, axes), jnp.squeeze(variance, axes)


def _real_entries(
    name: str, x: Array, axis: int | Sequence[int] | None, mask: Array | None
) -> tuple[Array, tuple[int, ...], Array | None]:
    """Wide x, zero where it is not real; the axes; the mask with length 1 on all other axes."""
    wide, axes = widen(name, x, axis)
    if mask is None:
        return wide, axes, None
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool (True = real), got {mask.dtype}")
    mask = over_axes("mask", mask, wide.shape, axes)
    return _keep(mask, wide), axes, mask


def _keep(mask: Array | None, values: Array) -> Array:
    return values if mask is None else jnp.where(mask, values, jnp.zeros_like(values))


def _moments(
    wide: Array, axes: tuple[int, ...], mask: Array | None, unbiased: bool
) -> tuple[Array, Array, Array]:
    """Mean, x minus its mean, and variance; length 1 on the reduced axes of mean and variance."""
    if mask is None:
        count = jnp.asarray(math.prod(wide.shape[a] for a in axes), wide.dtype)
    else:
        count = jnp.sum(mask).astype(wide.dtype)  # counted in integers
    first = jax.lax.stop_gradient(_first_real(wide, axes, mask))
    # The shift is that of `layer_norm`: it saves the digits of a feature with a large mean.
    shifted = wide - first
    offset = jnp.sum(_keep(mask, shifted), axis=axes, keepdims=True) / jnp.maximum(count, 1)
    centered = shifted - offset
    squares = jnp.sum(jnp.square(_keep(mask, centered)), axis=axes, keepdims=True)
    return first + offset, centered, squares / jnp.maximum(count - int(unbiased), 1)


def _first_real(wide: Array, axes: tuple[int, ...], mask: Array | None) -> Array:
    """The first real entry of each feature; zero if the batch is empty."""
    reduced = tuple(wide.shape[a] for a in axes)
    if 0 in reduced:
        return jnp.zeros([1 if a in axes else n for a, n in enumerate(wide.shape)], wide.dtype)
    if mask is None:
        place = (0,) * len(axes)
    else:
        place = jnp.unravel_index(jnp.argmax(mask.reshape(-1)), reduced)  # 0 if none is real
    at = dict(zip(axes, place, strict=True))
    entry = wide[tuple(at.get(a, slice(None)) for a in range(wide.ndim))]
    return jnp.expand_dims(entry, axes)

"""Normalizers as pure functions: statistics in two passes, in at least float32.

Here those that look at one case at a time, and the one that looks at weights; `batch_norm` is in
`lnjax.ops.batch`.

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
    wide, axes = widen("layer_norm", x, axis)
    centered = _centered(wide, axes)
    y = centered * _inverse_root(centered, axes, epsilon)
    return affine(y, scale, bias, axes).astype(jnp.asarray(x).dtype)


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
    wide, axes = widen("rms_norm", x, axis)
    y = wide * _inverse_root(wide, axes, epsilon)
    return affine(y, scale, bias, axes).astype(jnp.asarray(x).dtype)


def group_norm(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    num_groups: int = 32,
    epsilon: float = 1e-5,
    axis: int | Sequence[int] | None = None,
) -> Array:
    r"""Group normalization (Wu and He 2018): `layer_norm` of each group of channels.

    .. math::
        \mathrm{GN}(x) = \frac{x - \mu_g}{\sqrt{\sigma_g^2 + \epsilon}} \odot \mathrm{scale}
            + \mathrm{bias}

    where the statistics of a group :math:`g` run over its neighbouring ``C / num_groups`` channels
    and over `axis`. One group is `layer_norm` over ``(*axis, -1)``, with gain and bias per channel;
    C groups are `instance_norm`.

    Args:
      x: (B, ..., C) floating point; float16 and bfloat16 take their statistics in float32.
      scale: the gain, (C,); None means 1.
      bias: (C,); None means 0.
      num_groups: into how many groups the channels fall; must divide C.
      epsilon: added to the variance, in units of x squared.
      axis: the axis or axes beside the channels over which one case's statistics run: an image's
        height and width. None means all between the first and the last; () means none.

    Returns:
      Of the shape and dtype of `x`.

    Raises:
      TypeError: `x` is not of a floating dtype.
      ValueError: `num_groups` does not divide C; an axis is out of range, named twice or that of
        the channels; `scale` or `bias` is not (C,).

    >>> import jax.numpy as jnp
    >>> y = group_norm(jnp.array([[1.0, 3.0, 20.0, 40.0]]), num_groups=2)
    >>> [round(value, 3) for value in y[0].tolist()]
    [-1.0, 1.0, -1.0, 1.0]
    """
    wide, channel_axes = widen("group_norm", x, -1)
    *_, channels = wide.shape
    if num_groups < 1 or channels % num_groups:
        divisors = [n for n in range(1, channels + 1) if channels % n == 0]
        near = [
            *[n for n in divisors if n < num_groups][-1:],
            *[n for n in divisors if n > num_groups][:1],
        ]
        raise ValueError(
            f"num_groups={num_groups} does not divide the {channels} channels of x {wide.shape};"
            f" {' and '.join(map(str, near))} would"
        )
    grouped = wide.reshape(*wide.shape[:-1], num_groups, channels // num_groups)
    axes = (*_spatial_axes("group_norm", axis, wide.ndim), wide.ndim)
    y = layer_norm(grouped, axis=axes, epsilon=epsilon).reshape(wide.shape)
    return affine(y, scale, bias, channel_axes).astype(jnp.asarray(x).dtype)


def instance_norm(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: float = 1e-5,
    axis: int | Sequence[int] | None = None,
) -> Array:
    r"""Instance normalization (Ulyanov et al. 2016): each case and channel over its own positions.

    .. math::
        \mathrm{IN}(x) = \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} \odot \mathrm{scale}
            + \mathrm{bias}

    where the statistics run over `axis`, for every case and every channel :math:`c` apart.

    Args:
      x: (B, ..., C) floating point; float16 and bfloat16 take their statistics in float32.
      scale: the gain, (C,); None means 1.
      bias: (C,); None means 0.
      epsilon: added to the variance, in units of x squared.
      axis: the axis or axes of the positions; None means all between the first and the last.

    Returns:
      Of the shape and dtype of `x`.

    Raises:
      TypeError: `x` is not of a floating dtype.
      ValueError: there is no axis of positions; an axis is out of range, named twice or that of the
        channels; `scale` or `bias` is not (C,).

    >>> import jax.numpy as jnp
    >>> y = instance_norm(jnp.array([[[1.0, 20.0], [3.0, 40.0]]]))
    >>> [[round(value, 3) for value in position] for position in y[0].tolist()]
    [[-1.0, -1.0], [1.0, 1.0]]
    """
    wide, channel_axes = widen("instance_norm", x, -1)
    axes = _spatial_axes("instance_norm", axis, wide.ndim)
    if not axes:
        raise ValueError(
            f"instance_norm takes its statistics over positions, and x {wide.shape} with"
            f" axis={axis!r} has none: every value would become 0"
        )
    y = layer_norm(wide, axis=axes, epsilon=epsilon)
    return affine(y, scale, bias, channel_axes).astype(jnp.asarray(x).dtype)


def weight_norm(
    kernel: Array,
    scale: Array | None = None,
    *,
    axis: int | Sequence[int] | None = None,
    epsilon: float = 0.0,
) -> Array:
    r"""Weight normalization (Salimans and Kingma 2016): incoming weights of length `scale`.

    .. math::
        \mathrm{WN}(w_i) = \frac{\mathrm{scale}_i}{\sqrt{\lVert w_i \rVert_2^2 + \epsilon}} \, w_i

    for the incoming weights :math:`w_i` of each unit. It normalizes weights, not summed inputs, so
    it takes no bias: that of the layer is added after the product, as it is without a norm.

    With `epsilon` 0 a vector of zeros, whose direction is not defined, counts as one of length 1:
    it stays zero, and its derivative is that of ``scale * w``, so that training can leave it. (A
    vector whose squares all underflow counts as one of zeros.)

    Args:
      kernel: (..., features) floating point; float16 and bfloat16 take their norms in float32.
      scale: the gain, of the shape of the axes that are not reduced, in ascending order; None
        means 1.
      axis: the axis or axes of one unit's incoming weights; None means all but the last.
      epsilon: added to the squared norm, in units of the kernel squared.

    Returns:
      Of the shape and dtype of `kernel`.

    Raises:
      TypeError: `kernel` is not of a floating dtype.
      ValueError: an axis is out of range or named twice, there is none, or `scale` has another
        shape.

    >>> import jax.numpy as jnp
    >>> kernel = weight_norm(jnp.array([[3.0, 0.0], [4.0, 2.0]]))
    >>> [[round(value, 3) for value in row] for row in kernel.tolist()]
    [[0.6, 0.0], [0.8, 1.0]]
    """
    wide, axes = widen("weight_norm", kernel, axis)
    squared = jnp.sum(jnp.square(wide), axis=axes, keepdims=True) + epsilon
    # The select stands before the root: one after it would send 0 * inf backwards.
    normalized = wide * jax.lax.rsqrt(jnp.where(squared == 0, 1, squared))
    return affine(normalized, scale, None, other_axes(axes, wide.ndim)).astype(
        jnp.asarray(kernel).dtype
    )


def widen(name: str, x: Array, axis: int | Sequence[int] | None) -> tuple[Array, tuple[int, ...]]:
    """`x` in the dtype of its statistics, and the axes counted from the front.

    The axis None means all but the last.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} takes floating point x, got {x.dtype}; convert it first")
    return x.astype(statistics_dtype(x.dtype)), canonical_axes(
        tuple(range(x.ndim - 1)) if axis is None else axis, x.ndim
    )


def _centered(wide: Array, axes: tuple[int, ...]) -> Array:
    first = wide[tuple(slice(1) if a in axes else slice(None) for a in range(wide.ndim))]
    # A shift changes neither value nor derivative. Without it the rounded mean of a row with a mean
    # of 1e5 costs it five digits, and a constant row would not come out constant.
    shifted = wide - jax.lax.stop_gradient(first)
    return shifted - jnp.mean(shifted, axis=axes, keepdims=True)


def _inverse_root(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    return jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + epsilon)


def affine(y: Array, scale: Array | None, bias: Array | None, axes: tuple[int, ...]) -> Array:
    """``y * scale + bias``, both of the shape of `axes`."""
    if scale is not None:
        y = y * over_axes("scale", scale, y.shape, axes).astype(y.dtype)
    if bias is not None:
        y = y + over_axes("bias", bias, y.shape, axes).astype(y.dtype)
    return y


def other_axes(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    return tuple(a for a in range(ndim) if a not in axes)


def _spatial_axes(name: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes of a case's positions, by default all between the first and the last."""
    if axis is None:
        return tuple(range(1, ndim - 1))
    if isinstance(axis, Sequence) and not axis:
        return ()
    axes = canonical_axes(axis, ndim)
    if ndim - 1 in axes:
        raise ValueError(
            f"{name}: axis={axis!r} names the last axis, which is that of the channels"
        )
    return axes


def canonical_axes(axis: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    given = tuple(map(operator.index, axis if isinstance(axis, Sequence) else (axis,)))
    axes = tuple(a + ndim if a < 0 else a for a in given)
    if not axes or any(not 0 <= a < ndim for a in axes) or len(set(axes)) != len(axes):
        raise ValueError(f"axis={axis!r} does not name distinct axes of an array of rank {ndim}")
    return tuple(sorted(axes))


def over_axes(name: str, parameter: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Gives a parameter of the shape of `axes` length 1 on every other axis of x."""
    parameter = jnp.asarray(parameter)
    expected = tuple(shape[a] for a in axes)
    if parameter.shape != expected:
        raise ValueError(
            f"{name} has shape {parameter.shape}, but the axes {axes} of {shape}, where it belongs,"
            f" have shape {expected}"
        )
    return parameter.reshape(tuple(n if a in axes else 1 for a, n in enumerate(shape)))

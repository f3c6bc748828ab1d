r"""DRAW's attention (Gregor et al. 2015, Section 3.2): an N x N grid of Gaussian filters.

Five numbers :math:`(\tilde g_X, \tilde g_Y, \log\sigma^2, \log\tilde\delta, \log\gamma)` place the
grid on an image B high and A wide:

.. math::
    g_X &= \tfrac{A+1}{2} (\tilde g_X + 1), \qquad g_Y = \tfrac{B+1}{2} (\tilde g_Y + 1), \qquad
        \delta = \frac{\max(A, B) - 1}{N - 1} \tilde\delta \\
    \mu_X^i &= g_X + (i - N/2 - 1/2)\, \delta, \qquad
        F_X[i, a] = \frac{1}{Z_X^i} \exp\Big(-\frac{(a - \mu_X^i)^2}{2 \sigma^2}\Big) \\
    \mathrm{read}(x) &= \gamma\, F_Y\, x\, F_X^\top, \qquad
        \mathrm{write}(w) = \gamma^{-1} F_Y^\top w\, F_X

for filters i = 1..N and pixels a = 1..A. Each :math:`Z` makes its row of filters sum to one, in
theory: far outside the image, or where a filter much narrower than a pixel stands between two, all
of its terms underflow. Public implementations therefore add 1e-4 to Z, and so does this one. Rows
inside the image then sum to one but for that; a filter that sees nothing fades to zero, instead of
reading and painting the border nearest to it. (Measured too: the exact quotient, taken relative to
the nearest pixel, was worse in each of five pairs of runs on the embedded digits, by 1 to 10 nats.)
The five numbers are clipped to +-10, beyond any use (a window 5 images away, filters of 0.007 or
148 pixels), so that no value or gradient overflows.

Everything here is computed in the dtype of the five numbers, float32 at least.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lnjax.typing import Array

NUM_PARAMETERS = 5
LIMIT = 10.0  # of each of the five
FLOOR = 1e-4  # added to Z


class Window(NamedTuple):
    """Where a grid stands: float arrays of one shape, such as (batch,). In pixels, from 1."""

    x: Array  # its centre
    y: Array
    stride: Array  # from filter to filter
    variance: Array  # of each filter
    intensity: Array  # gamma


def window(parameters: Array, size: int, shape: tuple[int, int]) -> Window:
    """The window of `size` x `size` filters on an image of `shape` (B, A).

    Args:
      parameters: (..., 5): the equations' numbers, in their order.
    """
    height, width = shape
    x, y, log_variance, log_stride, log_intensity = jnp.moveaxis(
        jnp.clip(parameters, -LIMIT, LIMIT), -1, 0
    )
    return Window(
        x=(width + 1) / 2 * (x + 1),
        y=(height + 1) / 2 * (y + 1),
        stride=(max(height, width) - 1) / (size - 1) * jnp.exp(log_stride),
        variance=jnp.exp(log_variance),
        intensity=jnp.exp(log_intensity),
    )


def filters(center: Array, stride: Array, variance: Array, size: int, extent: int) -> Array:
    """F (..., size, extent) of one direction. Arguments: (...)."""
    offsets = jnp.arange(1, size + 1, dtype=center.dtype) - (size + 1) / 2
    means = center[..., None] + _outer(stride, offsets)
    pixels = jnp.arange(1, extent + 1, dtype=center.dtype).reshape((1,) * means.ndim + (extent,))
    distance = jnp.square(pixels - means[..., None])
    terms = jnp.exp(-distance / (2 * variance[..., None, None]))
    return terms / (jnp.sum(terms, axis=-1, keepdims=True) + FLOOR)


def read(images: Array, at: Window, size: int) -> Array:
    """What a window sees of images (batch, C, B, A): (batch, C, size, size)."""
    rows, columns = _both_filters(at, size, images.shape[-2:])
    seen = jnp.einsum("nib,ncba,nja->ncij", rows, images, columns)
    return at.intensity[:, None, None, None] * seen


def write(patch: Array, at: Window, shape: tuple[int, int]) -> Array:
    """What a window adds to images of `shape` (B, A) for patches (batch, N, N): (batch, B, A)."""
    rows, columns = _both_filters(at, patch.shape[-1], shape)
    added = jnp.einsum("nib,nij,nja->nba", rows, patch, columns)
    return added / at.intensity[:, None, None]


def frame(at: Window, size: int) -> Array:
    """(..., 5): left, top, right, bottom of the outermost filters' means, and the deviation.

    In pixels from the image's upper left corner: the first pixel reaches from 0 to 1.
    """
    reach = (size - 1) / 2 * at.stride
    x, y = at.x - 0.5, at.y - 0.5
    return jnp.stack([x - reach, y - reach, x + reach, y + reach, jnp.sqrt(at.variance)], axis=-1)


def _both_filters(at: Window, size: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
    height, width = shape
    rows = filters(at.y, at.stride, at.variance, size, height)
    return rows, filters(at.x, at.stride, at.variance, size, width)


def _outer(a: Array, b: Array) -> Array:
    return a[..., None] * b.reshape((1,) * a.ndim + b.shape)

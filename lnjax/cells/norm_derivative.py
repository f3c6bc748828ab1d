r"""A norm taken apart for derivatives by hand: what it gives, and its pull back, by name.

For one row x of H summed inputs, of mean square :math:`\sigma^2` about their mean (``"layer"``) or
about zero (``"rms"``), and :math:`r = (\sigma^2 + \epsilon)^{-1/2}`:

.. math::
    \hat x = r (x - \mu), \qquad
    \bar x = r \bigl(\bar{\hat x} - \mathrm{mean}(\bar{\hat x})
        - \hat x \; \mathrm{mean}(\bar{\hat x} \odot \hat x)\bigr)

where a bar is a cotangent; with ``"rms"`` the first mean is absent on both sides.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lnjax.typing import Array

Norm = Literal["layer", "rms"] | None


class Normalized(NamedTuple):
    """Rows after a norm without gain, and what each was multiplied by."""

    values: Array  # (..., H)
    rate: Array  # (..., 1)


def normalize(
    norm: Norm, epsilon: float, x: Array, scale: Array | None
) -> tuple[Array, Normalized | None]:
    """x (..., H) normalized, times its gain, and what the pull back needs; no gain is no norm."""
    if scale is None:
        return x, None
    if norm == "layer":
        x = x - _mean(x)
    rate = jax.lax.rsqrt(_mean(x * x) + epsilon)
    values = x * rate
    return _scaled(values, scale), Normalized(values, rate)


def pull_back(norm: Norm, of: Normalized | None, d_y: Array, scale: Array | None) -> Array:
    """The cotangent of x (..., H) from that of what `normalize` made of it."""
    if of is None or scale is None:
        return d_y
    d_values = _scaled(d_y, scale)
    d_x = d_values - of.values * _mean(d_values * of.values)
    if norm == "layer":
        d_x = d_x - _mean(d_values)
    return of.rate * d_x


def over_rows(x: Array) -> Array:
    """The sum of x (..., H) over all rows: the gradient of a bias."""
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def after_centring(norm: Norm) -> Norm:
    """What is left of a norm behind a product whose kernel is centred: its mean is zero."""
    return "rms" if norm == "layer" else norm


def centre(kernel: Array) -> Array:
    """A kernel (N, H) whose products have the mean 0 over the H."""
    return kernel - _mean(kernel)


def _scaled(x: Array, scale: Array) -> Array:
    return x * jnp.broadcast_to(scale, x.shape)


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=-1, keepdims=True)

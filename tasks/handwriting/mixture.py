r"""The density of the next pen offset: a bivariate Gaussian mixture and a Bernoulli pen lift.

Graves (2013), Eq. 18-25. All in log space, with no difference of nearly equal numbers: with
:math:`\rho = \tanh r`, :math:`z_k = (x_k - \mu_k) / \sigma_k`,

.. math::
    \frac{z_1^2 + z_2^2 - 2 \rho z_1 z_2}{1 - \rho^2}
        = z_1^2 + \left((z_2 - \rho z_1) \cosh r\right)^2,
    \qquad \log \sqrt{1 - \rho^2} = -\log \cosh r

so a correlation that saturates costs no precision and gives no NaN.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lnjax.typing import Array, PRNGKey

LOG_2PI = math.log(2 * math.pi)
MIN_LOG_SIGMA = -10.0  # e^-10 of a standard deviation is far below what a pen is read to
MAX_R = 9.0  # of r = atanh(rho): 1 - rho^2 = 6e-8, where float32 ends


class Mixture(NamedTuple):
    """Parameters over (..., M) components, and the pen lift (...,)."""

    lift_logit: Array  # (...,) log odds that the stroke ends at this point
    log_weights: Array  # (..., M) normalized
    mean: Array  # (..., M, 2)
    log_sigma: Array  # (..., M, 2)
    r: Array  # (..., M) rho = tanh(r)


def num_outputs(num_components: int) -> int:
    """The width of the layer that feeds a mixture: 6 numbers a component, and the pen lift."""
    return 6 * num_components + 1


def from_outputs(outputs: Array, sigma_floor: float = 0.0) -> Mixture:
    """Reads the network's last layer (..., 6M + 1).

    Args:
      outputs: e, then M each of weights, two means, two log deviations, correlations.
      sigma_floor: added to every deviation, in units of the normalized offsets. Synthetic pen
        strokes are so regular that a density without a floor grows without bound.
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    lift, rest = outputs[..., 0], outputs[..., 1:]
    weights, mean_x, mean_y, sigma_x, sigma_y, r = jnp.split(rest, 6, axis=-1)
    log_sigma = jnp.maximum(jnp.stack([sigma_x, sigma_y], axis=-1), MIN_LOG_SIGMA)
    if sigma_floor > 0:
        log_sigma = jnp.logaddexp(log_sigma, math.log(sigma_floor))
    return Mixture(
        lift_logit=-lift,  # Graves' Eq. 18: e = 1 / (1 + exp(e^)), note the sign
        log_weights=jax.nn.log_softmax(weights, axis=-1),
        mean=jnp.stack([mean_x, mean_y], axis=-1),
        log_sigma=log_sigma,
        r=jnp.clip(r, -MAX_R, MAX_R),
    )


def log_density(mixture: Mixture, offsets: Array, lifts: Array) -> Array:
    """The log density, in nats, of `offsets` (..., 2) and `lifts` (...,) in {0, 1}: (...,)."""
    z = (offsets[..., None, :] - mixture.mean) * jnp.exp(-mixture.log_sigma)
    z1, z2 = z[..., 0], z[..., 1]
    second = (z2 - jnp.tanh(mixture.r) * z1) * jnp.cosh(mixture.r)
    absolute = jnp.abs(mixture.r)
    log_cosh = absolute + jnp.log1p(jnp.exp(-2 * absolute)) - math.log(2)
    log_normal = (
        -0.5 * (jnp.square(z1) + jnp.square(second))
        - LOG_2PI
        - jnp.sum(mixture.log_sigma, axis=-1)
        + log_cosh
    )
    log_offset = jax.nn.logsumexp(mixture.log_weights + log_normal, axis=-1)
    log_lift = jax.nn.log_sigmoid(jnp.where(lifts > 0.5, 1, -1) * mixture.lift_logit)
    return log_offset + log_lift


def sample(mixture: Mixture, rng: PRNGKey, bias: float | Array = 0.0) -> Array:
    """Draws offsets and pen lifts: (..., 3).

    Args:
      bias: b >= 0 of Graves' Eq. 61-62: deviations are divided by exp(b) and the weights' logits
        multiplied by 1 + b. 0 is the density itself; larger is neater.
    """
    rng_component, rng_normal, rng_lift = jax.random.split(rng, 3)
    component = jax.random.categorical(rng_component, mixture.log_weights * (1 + bias))

    def chosen(parameter: Array) -> Array:
        index = component.reshape(component.shape + (1,) * (parameter.ndim - component.ndim))
        axis = component.ndim
        return jnp.squeeze(jnp.take_along_axis(parameter, index, axis=axis), axis)

    normal = jax.random.normal(rng_normal, (*component.shape, 2), mixture.mean.dtype)
    r = chosen(mixture.r)
    second = jnp.tanh(r) * normal[..., 0] + normal[..., 1] / jnp.cosh(r)
    correlated = jnp.stack([normal[..., 0], second], axis=-1)
    sigma = jnp.exp(chosen(mixture.log_sigma) - bias)
    offsets = chosen(mixture.mean) + sigma * correlated
    lifts = jax.random.bernoulli(rng_lift, jax.nn.sigmoid(mixture.lift_logit))
    return jnp.concatenate([offsets, lifts[..., None].astype(offsets.dtype)], axis=-1)

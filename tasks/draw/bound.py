r"""The bound that DRAW is trained on (Gregor et al. 2015, Eq. 9-12), in nats per image.

.. math::
    L = -\sum_{pixels} [x \log s(c_T) + (1 - x) \log(1 - s(c_T))]
        + \tfrac12 \sum_t \sum_k (\mu^2 + \sigma^2 - \log\sigma^2 - 1)

and the tighter one of several samples z from the same posterior (Burda et al. 2016),

.. math:: L_K = -\log \frac1K \sum_{k=1}^K \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)},

whose expectation falls with K from that of L, at K = 1, towards -log p(x).
"""

import jax
import jax.numpy as jnp

from lnjax.typing import Array


def reconstruction(logits: Array, images: Array) -> Array:
    """-log p(x | z), (batch,), of binary images under the last canvas; both (batch, B, A)."""
    # 1 - s(c) = s(-c): one function serves both values of x, and no probability is ever formed.
    return -jnp.sum(jax.nn.log_sigmoid((2 * images - 1) * logits), axis=(1, 2))


def kl(mean: Array, log_deviation: Array) -> Array:
    """KL(q || standard normal) of independent Gaussians, summed over the last axis."""
    # sigma^2 - log sigma^2 - 1 without the cancellation at sigma = 1, where training starts.
    spread = jnp.expm1(2 * log_deviation) - 2 * log_deviation
    return 0.5 * jnp.sum(jnp.square(mean) + spread, axis=-1)


def log_ratio(z: Array, noise: Array, log_deviation: Array) -> Array:
    """log p(z) - log q(z) at z = mean + deviation * noise, summed over the last axis."""
    return jnp.sum(0.5 * (jnp.square(noise) - jnp.square(z)) + log_deviation, axis=-1)


def importance_weighted(log_weights: Array) -> Array:
    """L_K (batch,) of log p(x | z) + log p(z) - log q(z | x), (K, batch)."""
    return jnp.log(float(len(log_weights))) - jax.nn.logsumexp(log_weights, axis=0)

r"""The partial order of captions and images, and its loss (Vendrov et al. 2016; paper 6.1).

A caption is above an image of which it is true, and so it should not exceed it anywhere:

.. math::
    E(c, i) &= \lVert \max(0, f_c - f_i) \rVert^2, \qquad E_{jk} = E(c_j, i_k) \\
    L &= \sum_{j \ne k} \max(0, m - E_{jk} + E_{kk}) + \max(0, m - E_{jk} + E_{jj})

with :math:`f` of length 1 and without signs: the first term sets caption j against the image k's
own, the second image k against the caption j's own. The loss is a sum, no mean. The symmetric rival
has minus the cosine for E.
"""

import jax
import jax.numpy as jnp

from lnjax.typing import Array

BLOCK = 4  # images whose violations are held at once


def unit(x: Array) -> Array:
    """x (..., D) with length 1 along the last axis; zeros, with gradient zero, where x is zero.

    No epsilon: exact for any length that is positive, however small or large.
    """
    # Of length 1 whatever the factor: that this one depends on x is no part of the derivative.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    zero = largest == 0
    x = x / jnp.where(zero, 1, largest)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The zero is taken out before the root, whose derivative there is infinite.
    return jnp.where(zero, 0, x / jnp.sqrt(jnp.where(zero, 1, square)))


def violations(captions: Array, images: Array) -> Array:
    """E of every pair: captions (C, D), images (I, D) -> (C, I), not negative.

    The differences (C, I, D) are never there as a whole: blocks of images, each computed again in
    the backward pass.
    """

    @jax.checkpoint
    def of_one(image: Array) -> Array:
        return jnp.sum(jnp.square(jnp.maximum(captions - image[None, :], 0)), axis=-1)

    return jax.lax.map(of_one, images, batch_size=BLOCK).T


def minus_cosine(captions: Array, images: Array) -> Array:
    """The same of the symmetric rival, for rows of length 1: (C, D), (I, D) -> (C, I)."""
    return -jnp.matmul(captions, images.T)


def contrasts(distance: Array, margin: float, real: Array) -> tuple[Array, Array, Array]:
    """The loss of a batch of matched pairs.

    Args:
      distance: (B, B), E of caption j and image k.
      margin: m.
      real: (B, B) bool, True where j and k are set against each other; the diagonal does not count.

    Returns:
      L; the number of its terms that are positive; and the number of its terms.
    """
    own = jnp.diagonal(distance)
    real = real & ~jnp.eye(len(own), dtype=bool)
    terms = jnp.stack([margin - distance + own[None, :], margin - distance + own[:, None]])
    terms = jnp.where(real[None], jnp.maximum(terms, 0), 0)
    return jnp.sum(terms), jnp.sum(terms > 0), 2 * jnp.sum(real)

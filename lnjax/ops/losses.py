"""Losses of whole batches, as (sum, number) of the real cases: what metrics add up and divide."""

import jax
import jax.numpy as jnp

from lnjax.ops.normalization import statistics_dtype
from lnjax.ops.sequence import zero_padding
from lnjax.typing import Array

Pair = tuple[Array, Array]


def classification(logits: Array, labels: Array, mask: Array | None = None) -> tuple[Pair, Pair]:
    r"""Negative log-likelihood of the labels under a softmax, and how many are not the likeliest.

    .. math::
        -\sum_n \left( a_{n, y_n} - \log \sum_k \exp a_{nk} \right), \qquad
        \#\{n : y_n \ne \mathrm{argmax}_k\, a_{nk}\}

    Of classes that tie the first counts as the likeliest.

    Args:
      logits: (..., K) floating point; summed in at least float32.
      labels: (...) integers from 0 to K - 1.
      mask: (...) bool, True = real; None means that all are. What stands elsewhere, NaN included,
        reaches neither sums nor gradients.

    Returns:
      (nats, number of real cases) and (errors, number of real cases), each ().

    Raises:
      ValueError: `labels` or `mask` has another shape than the logits without their last axis, or
        `mask` is not bool.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5], [0.0, 0.0]]))
    >>> labels, mask = jnp.array([0, 0, 1]), jnp.array([True, True, False])
    >>> (nats, number), (errors, _) = classification(logits, labels, mask)
    >>> round(float(jnp.exp(-nats)), 6), int(errors), int(number)
    (0.125, 1, 2)
    """
    if mask is None:
        mask = jnp.ones(logits.shape[:-1], bool)
    for name, array in (("labels", labels), ("mask", mask)):
        if array.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name} {array.shape} must have the shape of the logits {logits.shape} without"
                " their last axis"
            )
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool (True = real), got {mask.dtype}")
    wide = zero_padding(logits.astype(statistics_dtype(logits.dtype)), mask)
    labels = jnp.where(mask, labels, 0)
    log_likelihood = jnp.take_along_axis(jax.nn.log_softmax(wide), labels[..., None], axis=-1)
    nats = -jnp.sum(zero_padding(log_likelihood, mask))
    wrong = jnp.sum(mask & (jnp.argmax(wide, axis=-1) != labels), dtype=wide.dtype)
    number = jnp.sum(mask, dtype=wide.dtype)
    return (nats, number), (wrong, number)

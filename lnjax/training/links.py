"""Links of an optax chain that optax does not have: the paper's rules for clipping and its Adam.

Three of the paper's experiments were trained by code of their own age; what that did with a
gradient N times too long, or in the first thousand steps, is not what today's optimizers do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lnjax.typing import Array


def clip_by_tensor_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales each array of the gradient, by itself, to an L2 norm of at most `max_norm`.

    Order embeddings (Vendrov et al. 2016, public code). `optax.clip_by_block_rms` bounds the root
    of the mean square instead, which for an array of n numbers is the norm over sqrt(n).
    """

    def clip(gradient: Array) -> Array:
        norm = jnp.linalg.norm(gradient.astype(jnp.float32))
        # Written so that a norm of zero is no division, and one that is NaN stays NaN.
        scale = jnp.where(norm <= max_norm, 1.0, max_norm / norm)
        return (gradient * scale).astype(gradient.dtype)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def clip_by_root_of_global_norm(threshold: float) -> optax.GradientTransformation:
    """Where the global norm N exceeds threshold^2, scales the gradient by threshold / sqrt(N).

    The clip of the attentive reader as its public code (Cooijmans et al. 2017) has it: a root too
    many. With the threshold 10 it begins at a norm of 100, not 10, and leaves 10 sqrt(N) of it.
    """

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        root = jnp.sqrt(optax.tree.norm(updates))
        scale = jnp.where(root <= threshold, 1.0, threshold / root)
        return jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), updates)

    return optax.stateless(update)


class UncorrectedAdamState(NamedTuple):
    """State of `scale_by_uncorrected_adam`."""

    count: Array  # updates until now, int32
    mu: optax.Updates  # running mean of the gradient
    nu: optax.Updates  # and of its square


def scale_by_uncorrected_adam(
    b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam as the public code of order embeddings and of skip-thoughts has it.

        m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
        update = sqrt(1 - (1 - b2)^t) / (1 - (1 - b1)^t) * m / (sqrt(v) + epsilon)

    The powers should have been of b1 and b2 (Kingma & Ba 2015, Algorithm 1). As they are, both
    factors are 1 from the second or third update on: there is practically no correction of the
    bias, and since v starts more slowly than m, the early updates are long. For a constant
    gradient they are 3.5 times the learning rate at once, 6.6 times at the twelfth update, 2 times
    at the three hundredth. `epsilon` stands beside the root of the uncorrected v, where Algorithm 1
    has it beside that of the corrected one.

    Args:
      b1, b2: decay of the two running means.
      epsilon: keeps the quotient finite where the gradient was always zero.

    Returns:
      A link that, like `optax.scale_by_adam`, wants `optax.scale_by_learning_rate` after it.
    """

    def init(params: optax.Params) -> UncorrectedAdamState:
        # Two trees of zeros: a state that holds an array twice cannot be donated.
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return UncorrectedAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, UncorrectedAdamState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        t = count.astype(jnp.float32)
        rate = jnp.sqrt(1 - (1 - b2) ** t) / (1 - (1 - b1) ** t)
        scaled = jax.tree.map(
            lambda m, v: (rate * m / (jnp.sqrt(v) + epsilon)).astype(m.dtype), mu, nu
        )
        return scaled, UncorrectedAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def apply_if_norm_finite(
    inner: optax.GradientTransformation, max_consecutive_errors: int
) -> optax.GradientTransformation:
    """`optax.apply_if_finite`, where the global norm of the gradient must be finite too.

    In float32 the sum of squares overflows at a norm of 1.8e19, and so do Adam's moments: such an
    update would be applied, and the parameters whose moments are infinite never move again.
    """
    one = optax.apply_if_finite(inner, max_consecutive_errors)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        finite = jnp.isfinite(optax.tree.norm(updates))
        nan_or_it = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), updates)
        return one.update(nan_or_it, state, params)

    return optax.GradientTransformation(one.init, update)

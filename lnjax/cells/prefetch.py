"""A scan over the steps of a chunk, in the form that XLA compiles well for a CPU.

The body gets its inputs through the carry, fetched by the body before. Two habits of XLA make it
so:

* An elementwise function is compiled without vector instructions where it is fused with a slice
  that begins at the loop's own counter, and that is what the gates are in a plain scan.
* It orders by what depends on what. Inputs that are fetched while the last ones may still be in use
  are kept apart from them by two copies of each; so they are fetched when all else is done.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lnjax.typing import Array, PyTree


def scan_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree, reverse: bool, unroll: int
) -> tuple[Any, PyTree]:
    """`jax.lax.scan` over leaves (K, ...), with `unroll` steps or fewer in the loop's body."""
    length = jax.tree.leaves(xs)[0].shape[0]
    unroll = max(steps for steps in range(1, min(unroll, length) + 1) if length % steps == 0)
    count = length // unroll
    order = range(unroll)[:: -1 if reverse else 1]

    def block(carry: Any, inputs: PyTree) -> tuple[Any, PyTree]:
        if unroll == 1:
            return step(carry, inputs)
        outputs: list[Any] = [None] * unroll
        for t in order:
            carry, outputs[t] = step(carry, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    def fetch(index: Any) -> PyTree:
        # An axis of one step would cost a copy of everything, to a layout that differs in name only
        if unroll == 1:
            return jax.tree.map(
                lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, False), xs
            )
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index * unroll, unroll), xs
        )

    if count == 1 and unroll > 1:
        return block(carry, xs)

    def body(state: tuple[Any, PyTree], following: Array) -> tuple[Any, PyTree]:
        carry, inputs = state
        carry, outputs = block(carry, inputs)
        return (carry, fetch(following + _zero_after(carry, outputs))), outputs

    first, second = (count - 1, -1) if reverse else (0, 1)
    following = jnp.clip(jnp.arange(count) + second, 0, count - 1)
    (carry, _), outputs = jax.lax.scan(body, (carry, fetch(first)), following, reverse=reverse)
    if unroll > 1:
        outputs = jax.tree.map(lambda leaf: leaf.reshape(length, *leaf.shape[2:]), outputs)
    return carry, outputs


def _zero_after(*values: PyTree) -> Array:
    """() int32: a zero that is known only when all of `values` are."""
    leaves = [leaf for leaf in jax.tree.leaves(values) if leaf.size]
    total = sum((leaf.ravel()[0].astype(jnp.float32) for leaf in leaves), jnp.float32(0))
    # Of any number, NaN too, one of the two is false; no compiler so far has seen that.
    return ((total != total) & (total == total)).astype(jnp.int32)

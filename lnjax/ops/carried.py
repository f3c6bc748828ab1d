"""The carry of a recurrence between batches, for truncated backpropagation through time.

Row by row: what a row reads in the next batch goes on where it stopped in this one, unless another
sequence starts there. Between the batches the carry lies where the train loop keeps what is no
parameter; no gradient passes through it (Williams and Peng 1990).
"""

from functools import reduce

import jax
import jax.numpy as jnp

from lnjax.ops.sequence import select
from lnjax.typing import Array, PyTree


def resume_carry(carried: PyTree, initial: PyTree, start: Array) -> PyTree:
    """The carry that each row begins with: `initial` where a sequence starts, else `carried`.

    Args:
      carried, initial: leaves (B, ...).
      start: (B,) bool. No gradient reaches the rows that do not start; those that do pass it on to
        `initial`, which may be learned.
    """
    carried = jax.lax.stop_gradient(carried)
    return jax.tree.map(
        lambda old, new: select(start, new, old.astype(new.dtype)), carried, initial
    )


def keep_carry(carry: PyTree, initial: PyTree) -> PyTree:
    """What is kept of a final carry for the next batch, without a gradient.

    A row that is not finite anywhere is kept as `initial`: where the train loop leaves the update
    of a broken batch out, its rows shall not break all that follow.
    """
    rows = [jnp.all(jnp.isfinite(leaf.reshape(len(leaf), -1)), axis=1) for leaf in _leaves(carry)]
    finite = reduce(jnp.logical_and, rows)
    kept = jax.tree.map(lambda new, old: select(finite, new, old.astype(new.dtype)), carry, initial)
    return jax.lax.stop_gradient(kept)


def _leaves(carry: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(carry) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

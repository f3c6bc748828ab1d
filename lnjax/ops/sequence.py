"""Running a step over time with `jax.lax.scan`, and the one rule for masks.

The mask rule, everywhere in lnjax: True is a real step. At a step that is not real the carry is
held and the output is zero, so a row of length 0 returns its initial carry, gaps are skipped, and
running in reverse starts at the true end of each row. What stands in the padding, NaN included,
reaches neither outputs nor gradients: `zero_padding` replaces it *before* any arithmetic, because a
select after it would still send 0 * NaN backwards.

Everything here is time-major: (T, B, ...).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lnjax.typing import Array, PyTree

Step = Callable[[Any, Any], tuple[Any, Any]]  # step(carry, x_t) -> (carry, y_t)


def lengths_to_mask(lengths: Array, num_steps: int) -> Array:
    """The (T, B) mask of rows with `lengths` (B,) real steps at the front.

    >>> import jax.numpy as jnp
    >>> lengths_to_mask(jnp.array([0, 2]), 3).astype(int).tolist()
    [[0, 1], [0, 1], [0, 0]]
    """
    lengths = jnp.asarray(lengths)
    return jnp.arange(num_steps).reshape((-1,) + (1,) * lengths.ndim) < lengths[None]


def select(mask: Array, if_real: Array, otherwise: Array) -> Array:
    """`jnp.where` of arrays (..., *features), with `mask` (...) reaching over the features."""
    mask = mask.reshape(mask.shape + (1,) * (if_real.ndim - mask.ndim))
    return jnp.where(jnp.broadcast_to(mask, if_real.shape), if_real, otherwise)


def zero_padding(xs: Array, mask: Array | None) -> Array:
    """`xs` (T, B, ...) with zeros where `mask` (T, B) is False; `xs` itself without a mask."""
    return xs if mask is None else select(mask, xs, jnp.zeros_like(xs))


def scan_sequence(
    step: Step,
    carry: PyTree,
    xs: PyTree,
    mask: Array | None = None,
    *,
    reverse: bool = False,
    unroll: int = 1,
    remat: bool = False,
) -> tuple[PyTree, PyTree]:
    """Runs `step` over time under the mask rule: the readable reference of every faster path.

    Args:
      step: ``step(carry, x_t) -> (carry, y_t)`` for one time step; carry leaves are (B, ...).
      carry: the initial carry.
      xs: leaves (T, B, ...). Where `mask` is False they must be finite: see `zero_padding`.
      mask: (T, B) bool, True = real; None means that all are.
      reverse: from the last step to the first; outputs stay at the time of their input.
      unroll: steps per iteration of the compiled loop.
      remat: compute each step once more in the backward pass instead of storing what is inside it.
        Memory per step falls to the carry and the input; on a CPU, where storing costs more than
        computing, so does the time.

    Returns:
      The final carry, and the outputs, leaves (T, B, ...), zero where `mask` is False.
    """
    if remat:
        step = jax.checkpoint(step, prevent_cse=False)  # a scan cannot undo it by merging
    if mask is None:
        return jax.lax.scan(step, carry, xs, reverse=reverse, unroll=unroll)

    def masked_step(carry: PyTree, x_and_mask: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
        x, real = x_and_mask
        new_carry, y = step(carry, x)
        held = jax.tree.map(lambda new, old: select(real, new, old), new_carry, carry)
        return held, jax.tree.map(lambda leaf: select(real, leaf, jnp.zeros_like(leaf)), y)

    return jax.lax.scan(masked_step, carry, (xs, mask), reverse=reverse, unroll=unroll)


def scan_chunks(body: Step, carry: PyTree, xs: PyTree, length: int) -> tuple[PyTree, PyTree]:
    """Runs `body` over chunks of time, for a memory of the order of the root of T.

    Of the forward pass only the carry before each chunk is kept; the backward pass computes one
    chunk after the other once more, with all that it stores. T / length carries and what `length`
    steps store are in memory together: least at a `length` of about the root of T. The price is a
    second forward pass. What is a (T, ...) array before and after, `xs` and the outputs, stays one.

    Args:
      body: ``body(carry, chunk of xs) -> (carry, outputs)``, the leaves of `xs` and of the outputs
        (length, ...), or shorter for what remains behind the whole chunks.
      carry: the initial carry.
      xs: leaves (T, ...), T at least 1.
      length: steps of a chunk, at least 1.

    Returns:
      The final carry, and the outputs, leaves (T, ...).

    >>> import jax.numpy as jnp
    >>> body = lambda total, x: (total + x.sum(), total + jnp.cumsum(x))
    >>> total, sums = scan_chunks(body, 0, jnp.arange(5), 2)
    >>> int(total), sums.tolist()
    (10, [0, 1, 3, 6, 10])
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    steps = jax.tree.leaves(xs)[0].shape[0]
    count, rest = divmod(steps, length)
    pieces = []
    if count:
        head = jax.tree.map(
            lambda leaf: leaf[: count * length].reshape(count, length, *leaf.shape[1:]), xs
        )
        carry, ys = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), carry, head)
        pieces.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys))
    if rest:
        tail = jax.tree.map(lambda leaf: leaf[count * length :], xs)
        carry, ys = jax.checkpoint(body)(carry, tail)
        pieces.append(ys)
    return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)


def flip_rows(ys: Array, mask: Array | None) -> Array:
    """Reverses each row of `ys` (T, B, ...) in time, up to its last real step; zeros follow.

    This is the order in which a reversed layer produced its outputs, left aligned. Its own inverse
    where the mask has no gaps.
    """
    if mask is None:
        return jnp.flip(ys, axis=0)
    time = jnp.arange(ys.shape[0]).reshape((-1,) + (1,) * (mask.ndim - 1))
    extent = jnp.max(jnp.where(mask, time + 1, 0), axis=0, keepdims=True, initial=0)  # (1, B)
    source = extent - 1 - time
    index = jnp.maximum(source, 0).reshape(source.shape + (1,) * (ys.ndim - mask.ndim))
    return select(source >= 0, jnp.take_along_axis(ys, index, axis=0), jnp.zeros_like(ys))


def run_order(steps: tuple[int, ...], mask: Array | None, reverse: bool) -> Array:
    """Per row the times of its steps in the order in which they are run, the padding last."""
    time = jnp.arange(steps[0])
    run = time[::-1] if reverse else time
    run = jnp.broadcast_to(run.reshape((-1,) + (1,) * (len(steps) - 1)), steps)
    return jnp.argsort(run if mask is None else jnp.where(mask, run, run + steps[0]), axis=0)


def take_steps(xs: Array, order: Array | None) -> Array:
    """Each row of xs (T, B, ...) with its times in the order (T, B)."""
    if order is None:
        return xs
    return jnp.take_along_axis(
        xs, order.reshape(order.shape + (1,) * (xs.ndim - order.ndim)), axis=0
    )

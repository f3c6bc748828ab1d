"""RNN: a cell over a batch of sequences, with lengths and masks that are right.

Public shapes are batch-major, (B, T, D); the cells work time-major. The transpose between the two
stands in this file and nowhere else.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.base import Cell
from lnjax.cells.running import Implementation
from lnjax.ops import flip_rows, lengths_to_mask, scan_sequence, zero_padding
from lnjax.typing import Array, PRNGKey, PyTree


class RNN(nn.Module):
    """Runs a recurrent cell over time: called as `flax.linen.RNN` is, for any Flax cell.

    Without Flax's lifting arguments (`variable_axes`, `variable_broadcast`, `variable_carry`,
    `split_rngs`): a cell has parameters and nothing else. Beyond Flax's: an arbitrary `mask`; a
    step that is not real holds the carry and outputs zero; a row of length 0 returns its initial
    carry; NaN in the padding reaches neither outputs nor gradients; the final carry costs no stack
    of all carries.

    Attributes:
      cell: an `lnjax` cell or any `flax.linen.RNNCellBase` with parameters only (no other state, no
        random stream inside the loop).
      time_major: sequences are (T, B, D) instead of (B, T, D).
      return_carry: return ``(carry, outputs)`` instead of the outputs.
      reverse: run from the true end of each row to its beginning.
      keep_order: with `reverse`, outputs stay at the time of their input; otherwise they stand in
        the order in which they were made.
      unroll: steps per iteration of the compiled loop.
      implementation: see `lnjax.lstm`; cells that are not lnjax's know "auto" and "scan" alone.

    >>> import jax, jax.numpy as jnp
    >>> import lnjax
    >>> rnn = lnjax.RNN(lnjax.LSTMCell(features=8))
    >>> xs = jnp.ones((2, 5, 3))
    >>> ys, variables = rnn.init_with_output(jax.random.key(0), xs, seq_lengths=jnp.array([5, 2]))
    >>> ys.shape, float(jnp.abs(ys[1, 2:]).max())
    ((2, 5, 8), 0.0)
    """

    cell: Any
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    implementation: Implementation = "auto"

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: PyTree | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Applies the cell to `inputs`.

        Args:
          inputs: (B, T, D), or (T, B, D) if time-major. As in Flax there may be any number of batch
            axes, also none: (..., T, D), or (T, ..., D).
          initial_carry: as the cell's `initialize_carry` makes it, which is the default.
          init_key: for a random initial carry; default: the "carry" stream if there is one (Flax's
            RNN does not look for it), else a constant key.
          seq_lengths: (B,) integers, the number of real steps at the front of each row.
          mask: bool, (B, T) or (T, B) if time-major, True = real; gaps are allowed. With
            `seq_lengths` a step must be real by both.
          return_carry, time_major, reverse, keep_order: override the attributes.

        Returns:
          Outputs (B, T, H), or (T, B, H) if time-major; with `return_carry` the final carry first.

        Raises:
          ValueError: `mask` or `seq_lengths` does not fit the inputs.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order

        inputs = jnp.asarray(inputs)
        batch_axes = inputs.ndim - 1 - self.cell.num_feature_axes
        time_axis = 0 if time_major else batch_axes  # in Flax, all axes before time are batch axes
        mask = _real_steps(inputs.shape[: batch_axes + 1], time_axis, seq_lengths, mask)
        xs = jnp.moveaxis(inputs, time_axis, 0)

        if initial_carry is None:
            if init_key is None:
                init_key = self.make_rng("carry") if self.has_rng("carry") else jax.random.key(0)
            initial_carry = self.cell.initialize_carry(init_key, xs.shape[1:])
        carry, ys = self._run(initial_carry, xs, mask, reverse)

        if reverse and not keep_order:
            ys = jax.tree.map(lambda leaf: flip_rows(leaf, mask), ys)
        if not time_major:
            ys = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time_axis), ys)
        return (carry, ys) if return_carry else ys

    def _run(
        self, carry: PyTree, xs: Array, mask: Array | None, reverse: bool
    ) -> tuple[PyTree, PyTree]:
        if isinstance(self.cell, Cell):
            return self.cell.sequence(
                carry,
                xs,
                mask,
                reverse=reverse,
                unroll=self.unroll,
                implementation=self.implementation,
            )
        if self.implementation not in ("auto", "scan"):
            raise ValueError(
                f"implementation={self.implementation!r} is not known for"
                f" {type(self.cell).__name__}; choose 'auto' or 'scan'"
            )
        xs = zero_padding(xs, mask)
        if self.is_initializing():
            # Declares the parameters; the loop below only reads them.
            self.cell(carry, jnp.zeros(xs.shape[1:], xs.dtype))
        cell, variables = self.cell.unbind()
        if state := sorted(set(variables) - {"params"}):
            raise ValueError(
                f"{type(cell).__name__} has the collections {', '.join(state)}, which would not be"
                " carried over time here; lnjax.RNN takes cells with parameters only"
            )
        return scan_sequence(
            lambda c, x: cell.apply(variables, c, x),
            carry,
            xs,
            mask,
            reverse=reverse,
            unroll=self.unroll,
            remat=self.implementation == "auto",
        )


def _real_steps(
    steps: tuple[int, ...], time_axis: int, seq_lengths: Array | None, mask: Array | None
) -> Array | None:
    """One mask (T, ...) of `seq_lengths` and `mask`, or None if there is neither.

    `steps` is the shape of the inputs up to their features, with time on `time_axis`.
    """
    batch = steps[:time_axis] + steps[time_axis + 1 :]
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.shape != steps:
            raise ValueError(f"mask has shape {mask.shape}, but the inputs have steps {steps}")
        if mask.dtype != jnp.bool_:
            raise ValueError(f"mask must be bool (True = real), got {mask.dtype}")
        mask = jnp.moveaxis(mask, time_axis, 0)
    if seq_lengths is None:
        return mask
    seq_lengths = jnp.asarray(seq_lengths)
    if seq_lengths.shape != batch or not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
        raise ValueError(
            f"seq_lengths must be integers of shape {batch},"
            f" got {seq_lengths.dtype} {seq_lengths.shape}"
        )
    real = lengths_to_mask(seq_lengths, steps[time_axis])
    return real if mask is None else real & mask

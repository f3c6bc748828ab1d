"""RNN: a cell over a batch of sequences, with lengths and masks that are right.

Public shapes are batch-major, (B, T, D); the cells work time-major. The transpose between the two
stands in this file and nowhere else.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.base import Cell, Implementation
from lnjax.ops import flip_rows, lengths_to_mask, scan_sequence, zero_padding
from lnjax.typing import Array, PRNGKey, PyTree


class RNN(nn.Module):
    """Runs a recurrent cell over time: a drop-in for `flax.linen.RNN`, for any Flax cell.

    Beyond Flax's: an arbitrary `mask`; a step that is not real holds the carry and outputs zero; a
    row of length 0 returns its initial carry; NaN in the padding reaches neither outputs nor
    gradients; the final carry costs no stack of all carries.

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
          inputs: (B, T, D), or (T, B, D) if time-major; further batch axes may follow B.
          initial_carry: as the cell's `initialize_carry` makes it, which is the default.
          init_key: for a random initial carry; default: the "carry" stream if there is one, else a
            constant key.
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
        xs = inputs if time_major else jnp.swapaxes(inputs, 0, 1)
        if mask is not None and not time_major:
            mask = jnp.swapaxes(jnp.asarray(mask), 0, 1)
        mask = _real_steps(xs, seq_lengths, mask)

        if initial_carry is None:
            if init_key is None:
                init_key = self.make_rng("carry") if self.has_rng("carry") else jax.random.key(0)
            initial_carry = self.cell.initialize_carry(init_key, xs.shape[1:])
        carry, ys = self._run(initial_carry, xs, mask, reverse)

        if reverse and not keep_order:
            ys = jax.tree.map(lambda leaf: flip_rows(leaf, mask), ys)
        if not time_major:
            ys = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), ys)
        return (carry, ys) if return_carry else ys

    def _run(
        self, carry: PyTree, xs: Array, mask: Array | None, reverse: bool
    ) -> tuple[PyTree, PyTree]:
        if isinstance(self.cell, Cell):
            params = self.cell.parameters(xs.shape[-1])
            return self.cell.run(
                params,
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
            self.cell(carry, xs[0])  # declares the parameters; the loop below only reads them
        cell, variables = self.cell.unbind()
        return scan_sequence(
            lambda c, x: cell.apply(variables, c, x),
            carry,
            xs,
            mask,
            reverse=reverse,
            unroll=self.unroll,
            remat=self.implementation == "auto",
        )


def _real_steps(xs: Array, seq_lengths: Array | None, mask: Array | None) -> Array | None:
    """One (T, B) mask of `seq_lengths` and `mask`, or None if there is neither."""
    num_steps, batch = xs.shape[:2]
    if mask is not None and mask.shape != (num_steps, batch):
        raise ValueError(
            f"mask has shape {mask.shape} (time first), but the inputs have {num_steps} time steps"
            f" and {batch} rows"
        )
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool (True = real), got {mask.dtype}")
    if seq_lengths is None:
        return mask
    seq_lengths = jnp.asarray(seq_lengths)
    if seq_lengths.shape != (batch,):
        raise ValueError(f"seq_lengths has shape {seq_lengths.shape}, expected ({batch},)")
    real = lengths_to_mask(seq_lengths, num_steps)
    return real if mask is None else real & mask

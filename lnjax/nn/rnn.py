"""RNN: a cell over a batch of sequences, with lengths and masks that are right.

Public shapes are batch-major, (B, T, D); the cells work time-major. The transpose between the two
stands in this file and nowhere else: `run_layer`, which knows no Flax.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from flax.core import FrozenDict
from flax.core.scope import in_filter, subtract_filters, union_filters

from lnjax.cells.base import Cell
from lnjax.cells.running import Implementation, check_choice
from lnjax.ops import flip_rows, lengths_to_mask, select, zero_padding
from lnjax.typing import Array, PRNGKey, PyTree

# sequence(carry, xs, mask, reverse) -> (carry, ys): a loop over time-major xs (T, B, ...) under the
# mask rule of `lnjax.ops.sequence`; ys stand at the time of their input, in reverse too.
Sequence = Callable[[PyTree, Array, Array | None, bool], tuple[PyTree, PyTree]]

# Flax's own. A cell of lnjax that is to be lifted otherwise runs step by step, as in Flax.
DEFAULT_LIFTING: Mapping[str, Any] = {
    "variable_axes": {},
    "variable_broadcast": "params",
    "variable_carry": False,
    "split_rngs": {"params": False},
}


class RNN(nn.Module):
    """Runs a recurrent cell over time: `flax.linen.RNN`, argument for argument, for any Flax cell.

    Beyond Flax's: an arbitrary `mask`; a step that is not real holds the carry and outputs zero; a
    row of length 0 returns its initial carry; NaN in the padding reaches neither outputs nor
    gradients; the final carry costs no stack of all carries; a state that is handed on from step to
    step (`variable_carry`) may be initialized here, and read where it is not mutable.

    The mask does not reach what a cell that is not lnjax's keeps beside its carry: the statistics
    of a `flax.linen.BatchNorm` in it are of all rows, those that are not real with inputs of zero.

    Attributes:
      cell: an `lnjax` cell, or any `flax.linen.RNNCellBase`.
      time_major: sequences are (T, B, D) instead of (B, T, D).
      return_carry: return ``(carry, outputs)`` instead of the outputs.
      reverse: run from the true end of each row to its beginning.
      keep_order: with `reverse`, outputs stay at the time of their input; otherwise they stand in
        the order in which they were made.
      unroll: steps per iteration of the compiled loop.
      variable_axes, variable_broadcast, variable_carry, split_rngs: how `flax.linen.scan` lifts the
        variables and random streams of the cell: one per step, one for all, handed on from step to
        step. Counted in steps taken: in reverse, the first is the true end of the row.
      implementation: see `lnjax.lstm`. Cells that are not lnjax's, and lnjax's with other than the
        default lifting, run under `flax.linen.scan`: "scan" is that alone, "auto" computes each
        step once more in the backward pass, where "scan" stores what is inside it.

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
    variable_axes: Mapping[Any, Any] = FrozenDict()
    variable_broadcast: Any = "params"
    variable_carry: Any = False
    split_rngs: Mapping[Any, bool] = FrozenDict({"params": False})
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
            axes, also none: (..., T, D), or (T, ..., D); and as many feature axes as the cell says.
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
          ValueError: `mask` or `seq_lengths` does not fit the inputs; the cell returns a carry of
            another shape or dtype than it was given; `implementation` is not known.
        """

        def initialize_carry(shape: tuple[int, ...]) -> PyTree:
            key = init_key
            if key is None:
                key = self.make_rng("carry") if self.has_rng("carry") else jax.random.key(0)
            return self.cell.initialize_carry(key, shape)

        carry, ys = run_layer(
            self._run,
            inputs,
            num_feature_axes=self.cell.num_feature_axes,
            initialize_carry=initialize_carry,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            mask=mask,
            time_major=self.time_major if time_major is None else time_major,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
        )
        return_carry = self.return_carry if return_carry is None else return_carry
        return (carry, ys) if return_carry else ys

    def _run(
        self, carry: PyTree, xs: Array, mask: Array | None, reverse: bool
    ) -> tuple[PyTree, PyTree]:
        lifting: dict[str, Any] = {
            "variable_axes": dict(self.variable_axes),
            "variable_broadcast": self.variable_broadcast,
            "variable_carry": self.variable_carry,
            "split_rngs": dict(self.split_rngs),
        }
        # A cell of lnjax hands its statistics on by itself, and knows the mask.
        ours = (
            lifting | {"variable_carry": False} if self.variable_carry == "batch_stats" else lifting
        )
        if isinstance(self.cell, Cell) and ours == DEFAULT_LIFTING:
            return self.cell.sequence(
                carry,
                xs,
                mask,
                reverse=reverse,
                unroll=self.unroll,
                implementation=self.implementation,
            )
        check_choice("implementation", self.implementation, ("auto", "scan"))
        xs = zero_padding(xs, mask)
        real = mask
        if reverse:
            # Not a loop that runs backwards: what is lifted over time counts the steps taken.
            xs, real = flip_rows(xs, mask), None if mask is None else flip_rows(mask, mask)
        if self.is_initializing() and self.variable_carry and not self.variable_axes:
            # Declares the state that the loop hands on; Flax's loop can hand on none that it makes.
            self.cell(carry, jnp.zeros(xs.shape[1:], xs.dtype))
        # A scan cannot undo the rematerialization by merging.
        step = nn.remat(_step, prevent_cse=False) if self.implementation == "auto" else _step
        # A state that may not change is one for all steps: Flax's loop would not hand it on.
        frozen = [name for name in self.cell.variables if not self.is_mutable_collection(name)]
        frozen = [name for name in frozen if in_filter(self.variable_carry, name)]
        lifting["variable_carry"] = subtract_filters(self.variable_carry, frozen)
        lifting["variable_broadcast"] = union_filters(self.variable_broadcast, frozen)
        scan = nn.scan(step, unroll=self.unroll, **lifting)
        try:
            carry, ys = scan(self.cell, carry, (xs, real))
        except (errors.ScopeCollectionNotFound, errors.InvalidRngError) as error:
            lifted = ", ".join(f"{name}={value}" for name, value in lifting.items())
            error.add_note(f"lnjax.RNN lifts over time {lifted}: is it among these?")
            raise
        if reverse:
            ys = jax.tree.map(lambda leaf: flip_rows(leaf, mask), ys)
        return carry, ys


def run_layer(
    sequence: Sequence,
    inputs: Array,
    *,
    num_feature_axes: int,
    initialize_carry: Callable[[tuple[int, ...]], PyTree],
    initial_carry: PyTree | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    time_major: bool = False,
    reverse: bool = False,
    keep_order: bool = False,
) -> tuple[PyTree, PyTree]:
    """What a recurrent layer does around its loop: order of axes, mask, start, order of outputs.

    Pure: an RNN of any module system calls it. The arguments that are not told here are those of
    `RNN`.

    Args:
      sequence: ``sequence(carry, xs, mask, reverse) -> (carry, ys)``, the loop, time-major; `mask`
        is (T, B) or None; ys stand at the time of their input.
      inputs: (..., T, *features), or (T, ..., *features) if time-major.
      num_feature_axes: how many axes the features of one step have.
      initialize_carry: makes the initial carry for one step of shape (..., *features); called only
        without `initial_carry`.

    Returns:
      The final carry, and the outputs, batch-major or time-major as the inputs are.

    Raises:
      ValueError: the inputs have too few axes, or `mask` or `seq_lengths` does not fit them.
    """
    inputs = jnp.asarray(inputs)
    batch_axes = inputs.ndim - 1 - num_feature_axes
    if batch_axes < 0:
        raise ValueError(
            f"inputs have shape {inputs.shape}, but the layer takes a time axis and"
            f" {num_feature_axes} feature axes"
        )
    time_axis = 0 if time_major else batch_axes  # in Flax, all axes before time are batch axes
    mask = _real_steps(inputs.shape[: batch_axes + 1], time_axis, seq_lengths, mask)
    xs = jnp.moveaxis(inputs, time_axis, 0)
    if initial_carry is None:
        initial_carry = initialize_carry(xs.shape[1:])
    carry, ys = sequence(initial_carry, xs, mask, reverse)
    if reverse and not keep_order:
        ys = jax.tree.map(lambda leaf: flip_rows(leaf, mask), ys)
    if not time_major:
        ys = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time_axis), ys)
    return carry, ys


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


def _step(
    cell: nn.Module, carry: PyTree, x_and_real: tuple[Array, Array | None]
) -> tuple[PyTree, PyTree]:
    """One step of a Flax cell under the mask rule: the body of `flax.linen.scan`."""
    x, real = x_and_real
    new_carry, y = cell(carry, x)
    _check_carry(type(cell).__name__, carry, new_carry, None if real is None else real.shape)
    if real is None:
        return new_carry, y

    held = jax.tree.map(partial(select, real), new_carry, carry)
    return held, jax.tree.map(lambda leaf: zero_padding(leaf, real), y)


def _check_carry(cell: str, old: PyTree, new: PyTree, batch: tuple[int, ...] | None) -> None:
    """Says in one line what a loop or a select would say in many. `batch`: of the mask, if any."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        raise ValueError(
            f"{cell} was given the carry {jax.tree.structure(old)} and returns"
            f" {jax.tree.structure(new)}; pass an initial_carry as its initialize_carry makes it"
        )
    for (path, given), returned in zip(
        jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True
    ):
        name = f"carry{jax.tree_util.keystr(path)}"
        # A weak type is one that a number without a dtype has; the loop gives it the other's.
        same_dtype = given.dtype == returned.dtype or given.weak_type
        if given.shape != returned.shape or not same_dtype:
            raise ValueError(
                f"{cell} was given {name} as {given.dtype} {given.shape} and returns"
                f" {returned.dtype} {returned.shape}; pass an initial_carry of what it returns"
            )
        if batch is not None and given.shape[: len(batch)] != batch:
            raise ValueError(
                f"{cell} has {name} of shape {given.shape}; under a mask or seq_lengths every leaf"
                f" needs the batch axes {batch} in front"
            )

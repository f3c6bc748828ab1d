"""One loop over time for any cell, one pure step after the other: what the probes run in.

Each row is run from its first real step to its last, whatever the mask and `reverse` say, so that
steps of one count meet in a batch norm; `Loop.in_order` takes results back to where they belong.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.base import Cell
from lnjax.cells.batch_norm_lstm import BatchNormLSTMCell
from lnjax.cells.running import NO_NOISE, Noise
from lnjax.cells.wrappers import Wrapper
from lnjax.ops import run_order, select, take_steps, zero_padding
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, PyTree

Step = Callable[[PyTree, "Inputs"], tuple[PyTree, Array]]


class Inputs(NamedTuple):
    """What a step gets beside its carry."""

    x: Array  # (B, D)
    real: Array  # (B,) bool
    noise: Noise = NO_NOISE  # that of a sequence of one step


class Loop(NamedTuple):
    """A cell over a sequence: `jax.lax.scan(body, loop.carry, loop.inputs)` with `step` in it."""

    cell: Any  # without its wrappers
    advance: Step
    carry: PyTree  # before the first step
    inputs: tuple[Array, Array, Any]  # xs (T, B, D), real (T, B), hold; in the order of the run
    dropout_h: Array | None
    order: Array | None  # (T, B), the times in the order of the run
    real: Array  # (T, B) bool, at the time of the inputs
    names: tuple[str, ...]  # of the leaves of the carry
    output: int | None  # which of them is the output of the step too

    @classmethod
    def of(
        cls,
        cell: Any,
        params: Any,
        xs: Array,
        carry: PyTree | None,
        *,
        mask: Array | None,
        noise: Noise,
        reverse: bool,
    ) -> "Loop":
        """The loop of `lnjax.analysis.probe`, whose arguments these are."""
        while isinstance(cell, Wrapper):
            if carry is None:
                carry = cell.initialize_carry(jax.random.key(0), xs.shape[1:])
            cell = cell.cell
        xs = jnp.asarray(xs)
        steps = xs.shape[: xs.ndim - getattr(cell, "num_feature_axes", 1)]
        if mask is not None and (mask.shape != steps or mask.dtype != jnp.bool_):
            raise ValueError(
                f"the mask must be bool (True = real) of shape {steps}, got {mask.dtype}"
                f" {mask.shape}"
            )
        if any(drawn is not None for drawn in noise) and not isinstance(cell, Cell):
            raise ValueError(f"noise is for the cells of lnjax, not for {type(cell).__name__}")
        if carry is None:
            if not hasattr(cell, "initialize_carry"):
                raise ValueError("a step function has no initial carry of its own: give `carry`")
            carry = cell.initialize_carry(jax.random.key(0), xs.shape[1:])
        carry = jax.tree.map(jnp.asarray, carry)
        real = jnp.ones(steps, bool) if mask is None else jnp.asarray(mask)
        order = None if mask is None and not reverse else run_order(steps, mask, reverse)
        hold = noise.hold
        if hold is not None and order is not None:
            shapes = [(len(xs), *leaf.shape) for leaf in jax.tree.leaves(carry)]
            hold = tuple(
                None if share is None else take_steps(jnp.broadcast_to(share, shape), order)
                for share, shape in zip(hold, shapes, strict=True)
            )
        inputs = take_steps(zero_padding(xs, mask), order), take_steps(real, order), hold
        advance = _advance(cell, params)
        loop = cls(cell, advance, carry, inputs, noise.dropout_h, order, real, (), None)
        names = getattr(cell, "carry_names", None) or tuple(
            jax.tree_util.keystr(path) or "carry"
            for path, _ in jax.tree_util.tree_leaves_with_path(carry)
        )
        return loop._replace(names=names, output=loop._output_leaf(names))

    def at(self, inputs: tuple[Array, Array, Any]) -> Inputs:
        """One step's part of `inputs`, as a cell takes it."""
        x, real, hold = inputs
        if hold is not None:
            hold = tuple(None if share is None else share[None] for share in hold)
        return Inputs(x, real, Noise(self.dropout_h, hold))

    def step(self, carry: PyTree, inputs: tuple[Array, Array, Any]) -> tuple[PyTree, Array]:
        """One step under the mask rule: carry, and output (B, H)."""
        at = self.at(inputs)
        new_carry, y = self.advance(carry, at)
        new_carry = jax.tree.map(partial(select, at.real), new_carry, carry)
        return new_carry, zero_padding(y, at.real)

    def in_order(self, tree: PyTree) -> PyTree:
        """Leaves (T, B, ...) back at the time of their inputs, zero where these are not real."""
        return jax.tree.map(lambda leaf: in_order(leaf, self.order, self.real), tree)

    def as_run(self, leaf: Array) -> Array:
        """(T, B, ...) at the time of the inputs, in the order of the run."""
        return take_steps(leaf, self.order)

    def lengths(self, carry: PyTree) -> dict[str, Array]:
        """The Euclidean norm (B,) of each leaf of a carry that is a vector in every row."""
        return {
            name: length(leaf, self.real.ndim - 1)
            for name, leaf in zip(self.names, jax.tree.leaves(carry), strict=True)
            if leaf.ndim >= self.real.ndim
        }

    def join(self, d_carry: PyTree, d_y: Array) -> tuple[PyTree, Array]:
        """The cotangent of the output added to that of the leaf which it is, if it is one."""
        if self.output is None:
            return d_carry, d_y
        leaves, structure = jax.tree.flatten(d_carry)
        leaves[self.output] = leaves[self.output] + d_y.astype(leaves[self.output].dtype)
        return structure.unflatten(leaves), jnp.zeros_like(d_y)

    def _output_leaf(self, names: tuple[str, ...]) -> int | None:
        if isinstance(self.cell, Cell) and "h" in names:
            return names.index("h")
        found = []

        def step(carry: PyTree, at: Inputs) -> None:
            carry, y = self.advance(carry, at)
            found.extend(k for k, leaf in enumerate(jax.tree.leaves(carry)) if leaf is y)

        jax.eval_shape(step, self.carry, self.at(jax.tree.map(lambda leaf: leaf[0], self.inputs)))
        return found[0] if found else None


def _advance(cell: Any, params: Any) -> Step:
    if isinstance(cell, BatchNormLSTMCell):

        def step(carry: PyTree, at: Inputs) -> tuple[PyTree, Array]:
            # A sequence of one step, since a step of this cell knows no mask
            carry, ys = cell.run(params, carry, at.x[None], at.real[None], at.noise)
            return carry, ys[0]

        return step
    if isinstance(cell, Cell):
        return lambda carry, at: cell.step(params, carry, at.x, at.noise)
    if isinstance(cell, nn.RNNCellBase):

        def step_of_flax(carry: PyTree, at: Inputs) -> Any:
            return cell.apply(params, carry, at.x)

        return step_of_flax
    return lambda carry, at: cell(params, carry, at.x)


def in_order(leaf: Array, order: Array | None, real: Array) -> Array:
    """(T, B, ...) in an order (T, B) of the run, back at the time of the inputs."""
    back = None if order is None else jnp.argsort(order, axis=0)
    return zero_padding(take_steps(leaf, back), real)


def length(leaf: Array, batch_axes: int) -> Array:
    """The Euclidean norm over all axes behind the batch, whatever the size of the numbers."""
    leaf = leaf.astype(statistics_dtype(leaf.dtype))
    axes = tuple(range(batch_axes, leaf.ndim))
    largest = jnp.max(jnp.abs(leaf), axis=axes, keepdims=True)
    divisor = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    length = jnp.sqrt(jnp.sum(jnp.square(leaf / jnp.broadcast_to(divisor, leaf.shape)), axis=axes))
    return length * divisor.reshape(length.shape)

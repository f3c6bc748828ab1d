"""The cells, and the cells around a cell."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from lnjax import cells
from lnjax.nnx.front import Front, Made, Plain, Rngs, carry_key, checked, draw, stream
from lnjax.typing import Array, PyTree


class Cell(Front, nnx.RNNCellBase):
    """A recurrent cell: also in `flax.nnx.RNN`."""

    def __call__(self, carry: PyTree, inputs: Array) -> tuple[PyTree, Array]:
        """One step: carry as `initialize_carry` makes it, inputs (..., D) -> carry, (..., H)."""
        return self._apply(carry, inputs)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: Rngs | None = None,
        carry_init: Callable[..., Array] | None = None,
    ) -> PyTree:
        """The initial carry for inputs of `input_shape` (..., D)."""
        cell = self.linen()
        if carry_init is not None:
            if not isinstance(self, Plain):
                raise ValueError(f"carry_init is for a plain cell, not for {type(self).__name__}")
            cell = cell.clone(carry_init=carry_init)
        key = jax.random.key(0) if rngs is None else carry_key(rngs)
        return cell.apply(self.variables(), key, input_shape, method="initialize_carry")

    @property
    def num_feature_axes(self) -> int:
        return 1


class PlainCell(Plain, Cell):
    """A cell that is no wrapper."""

    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs, **attributes: Any):
        self.in_features = in_features
        attributes = {"features": features, **attributes}
        self._make(attributes, rngs, in_features, method="parameters")

    def parameters(self) -> Any:
        """The parameters as the pure functions take them: `lnjax.LSTMParams` and so on."""
        return self.linen().apply(self.variables(), self.in_features, method="parameters")


class LSTMCell(PlainCell):
    """`lnjax.LSTMCell`."""

    namesake = cells.LSTMCell


class GRUCell(PlainCell):
    """`lnjax.GRUCell`."""

    namesake = cells.GRUCell


class SimpleCell(PlainCell):
    """`lnjax.SimpleCell`."""

    namesake = cells.SimpleCell


class BatchNormLSTMCell(PlainCell):
    """`lnjax.BatchNormLSTMCell`, with its statistics as `nnx.BatchStat`."""

    namesake = cells.BatchNormLSTMCell


class LearnedCarry(Cell):
    """`lnjax.LearnedCarry`."""

    def __init__(
        self,
        cell: Cell,
        *,
        learned: Sequence[str] | None = None,
        carry_init: Callable[..., Array] = linen.initializers.zeros,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.cell = checked(cell, "a cell", Cell)
        self.carry_init, self.param_dtype = carry_init, param_dtype
        self.learned = None if learned is None else tuple(learned)
        key = draw(rngs, "params")
        shape = (self.linen().features,)  # any width will do: the carry has the width H
        self._declare(self.linen().init(key, key, shape, method="initialize_carry"))

    def _linen(self, made: Made) -> cells.LearnedCarry:
        return cells.LearnedCarry(
            made(self.cell),
            learned=self.learned,
            carry_init=self.carry_init,
            param_dtype=self.param_dtype,
            parent=None,
        )


class RecurrentDropout(Cell):
    """`lnjax.RecurrentDropout`; draws from the stream `rng_collection` of `rngs`.

    Under `lnjax.nnx.RNN` once for a sequence. `flax.nnx.RNN` draws anew at every step, unless it is
    made with ``broadcast_rngs=rng_collection``.
    """

    def __init__(
        self,
        cell: Cell,
        rate: float = 0.5,
        *,
        deterministic: bool = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
    ):
        self.cell = checked(cell, "a cell", Cell)
        self.rate, self.deterministic = rate, deterministic
        self.stream = stream(rngs, rng_collection)

    def _linen(self, made: Made) -> cells.RecurrentDropout:
        return cells.RecurrentDropout(
            made(self.cell),
            rate=self.rate,
            deterministic=self.deterministic,
            rng_collection=self.stream.tag,
            parent=None,
        )


class Zoneout(Cell):
    """`lnjax.Zoneout`; draws from the stream `rng_collection` of `rngs`."""

    def __init__(
        self,
        cell: Cell,
        *,
        c: float = 0.0,
        h: float = 0.0,
        deterministic: bool = False,
        rng_collection: str = "zoneout",
        rngs: nnx.Rngs,
    ):
        self.cell = checked(cell, "a cell", Cell)
        self.c, self.h, self.deterministic = c, h, deterministic
        self.stream = stream(rngs, rng_collection)

    def _linen(self, made: Made) -> cells.Zoneout:
        return cells.Zoneout(
            made(self.cell),
            c=self.c,
            h=self.h,
            deterministic=self.deterministic,
            rng_collection=self.stream.tag,
            parent=None,
        )

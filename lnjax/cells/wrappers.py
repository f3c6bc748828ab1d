"""Cells around a cell: learned initial carry, recurrent dropout, zoneout.

Each is itself a cell, so they stand in one another and wherever a cell does. What is random is
drawn before the loop over time starts, and handed to the cell inside as a `Noise`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.base import Cell
from lnjax.cells.running import NO_NOISE, Implementation, Noise
from lnjax.typing import Array, DType, PRNGKey, PyTree


class Wrapper(Cell):
    """A cell that hands everything on to the `lnjax` cell inside of it."""

    cell: Cell

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise TypeError(
                f"{type(self).__name__} takes a cell of lnjax, got {type(self.cell).__name__}"
            )
        super().__post_init__()

    @property
    def carry_names(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.cell.carry_names

    @property
    def features(self) -> int:
        return self.cell.features

    def declare(self) -> None:
        """Declares what this wrapper has beside the cell inside."""

    def parameters(self, in_features: int) -> Any:
        self.declare()
        return self.cell.parameters(in_features)

    def noise(self, num_steps: int, batch: tuple[int, ...]) -> Noise:
        return self.cell.noise(num_steps, batch)

    def step(
        self, params: Any, carry: PyTree, x: Array, noise: Noise = NO_NOISE
    ) -> tuple[PyTree, Array]:
        return self.cell.step(params, carry, x, noise)

    def run(
        self,
        params: Any,
        carry: PyTree,
        xs: Array,
        mask: Array | None = None,
        noise: Noise = NO_NOISE,
        *,
        reverse: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ) -> tuple[PyTree, Array]:
        return self.cell.run(
            params,
            carry,
            xs,
            mask,
            noise,
            reverse=reverse,
            unroll=unroll,
            implementation=implementation,
        )

    def sequence(
        self,
        carry: PyTree,
        xs: Array,
        mask: Array | None = None,
        noise: Noise | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ) -> tuple[PyTree, Array]:
        self.declare()
        # Not by `run`: the cell inside may keep state that only its own `sequence` stores.
        return self.cell.sequence(
            carry,
            xs,
            mask,
            self.noise(xs.shape[0], xs.shape[1:-1]) if noise is None else noise,
            reverse=reverse,
            unroll=unroll,
            implementation=implementation,
        )

    def __call__(
        self, carry: PyTree, inputs: Array, noise: Noise | None = None
    ) -> tuple[PyTree, Array]:
        self.declare()
        inputs = jnp.asarray(inputs)
        noise = self.noise(1, inputs.shape[:-1]) if noise is None else noise
        return self.cell(carry, inputs, noise)

    @nn.nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> PyTree:
        return self.cell.initialize_carry(rng, input_shape)


class LearnedCarry(Wrapper):
    """A cell whose initial carry is learned: one vector for each leaf, the same for every row.

    The recurrent norm of the first step amplifies the gradient of an initial h near 0 by up to
    ``epsilon ** -0.5``, 316 at 1e-5: clip gradients, or start it away from 0.

    Attributes:
      cell: the cell inside.
      learned: which leaves of the carry are learned; None means all. The others start as the cell
        inside has them. For an LSTM ("h",) is what the authors' code has.
      carry_init: for each learned vector.
      param_dtype: of the learned vectors, and so of the carry.

    >>> import jax, jax.numpy as jnp
    >>> import lnjax
    >>> rnn = lnjax.RNN(lnjax.LearnedCarry(lnjax.LSTMCell(features=4), learned=("h",)))
    >>> variables = rnn.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> variables["params"]["cell"]["h"].shape
    (4,)
    """

    learned: Sequence[str] | None = None
    carry_init: Callable[..., Array] = nn.initializers.zeros_init()
    param_dtype: DType = jnp.float32

    @nn.nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> PyTree:
        """The learned carry for inputs of `input_shape` (..., D), inside a bound module only."""
        if self.scope is None:
            raise ValueError(
                "the initial carry of LearnedCarry is a parameter: lnjax.RNN and flax.linen.RNN"
                " find it by themselves; elsewhere call initialize_carry inside a module's method"
            )
        return self._declare(rng, input_shape)

    def declare(self) -> None:
        # Also where the layer is given another carry to start from.
        if self.is_initializing():
            self._declare(jax.random.key(0), (1,))  # the carry's width is not that of the inputs

    @nn.compact
    def _declare(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> PyTree:
        leaves, structure = jax.tree.flatten(self.cell.initialize_carry(rng, input_shape))
        starts = dict(zip(self.carry_names, leaves, strict=True))
        known = [name for name in starts if name in ("c", "h")]  # and no count of steps
        learned = known if self.learned is None else self.learned
        if unknown := sorted(set(learned) - set(known)):
            raise ValueError(f"learned names {unknown}, but the carry consists of {known}")
        for name in learned:
            shape = starts[name].shape
            if self.has_variable("params", name):
                vector = self.get_variable("params", name)
            else:
                vector = self.param(name, self.carry_init, shape[-1:], self.param_dtype)
            starts[name] = jnp.broadcast_to(vector, shape)
        return structure.unflatten(starts.values())


class RecurrentDropout(Wrapper):
    """Variational dropout of h (Gal and Ghahramani 2016): one draw for all steps of a sequence.

    ``h * d`` with d of 0 and 1 / (1 - rate) enters the recurrent products; the carried h, and what
    the GRU interpolates with, is whole. For the same on inputs and outputs use
    ``flax.linen.Dropout(rate, broadcast_dims=(1,))`` on (B, T, D).

    Attributes:
      cell: the cell inside.
      rate: the share of h that is dropped, 0 to 1.
      deterministic: True for evaluation: nothing is dropped.
      rng_collection: the random stream that the draw comes from.

    Under `flax.linen.RNN` say ``split_rngs={"params": False, "dropout": False}``, so that it passes
    the stream on and each step draws the same.

    >>> import jax, jax.numpy as jnp
    >>> import lnjax
    >>> rnn = lnjax.RNN(lnjax.RecurrentDropout(lnjax.LSTMCell(features=4), rate=0.3))
    >>> rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    >>> rnn.init_with_output(rngs, jnp.ones((2, 5, 3)))[0].shape
    (2, 5, 4)
    """

    rate: float = 0.5
    deterministic: bool = False
    rng_collection: str = "dropout"

    def noise(self, num_steps: int, batch: tuple[int, ...]) -> Noise:
        inner = self.cell.noise(num_steps, batch)
        if _is_off("rate", self.rate, self.deterministic):
            return inner
        if inner.dropout_h is not None:
            raise ValueError("there is a RecurrentDropout inside a RecurrentDropout; keep one")
        rng = self.make_rng(self.rng_collection)
        return inner._replace(dropout_h=dropout_mask(rng, self.rate, (*batch, self.features)))


class Zoneout(Wrapper):
    """Zoneout (Krueger et al. 2017): single units of c and h keep their old value for a step.

    .. math::
        c_t = d_c \\odot c_{t-1} + (1 - d_c) \\odot \\tilde{c}_t, \\qquad
        h_t = d_h \\odot h_{t-1} + (1 - d_h) \\odot \\tilde{h}_t

    with d of 0 and 1, drawn for each step, row and unit, and their expectation, the rates, for
    evaluation. The new h is made of the new c, not of the one that is held.

    Attributes:
      cell: the cell inside.
      c: the rate for the cell state, 0 to 1; a cell without one must have 0.
      h: the rate for the hidden state, 0 to 1.
      deterministic: True for evaluation.
      rng_collection: the random stream that the draws come from.

    Under `flax.linen.RNN` say ``split_rngs={"params": False, "zoneout": True}``.

    >>> import jax, jax.numpy as jnp
    >>> import lnjax
    >>> rnn = lnjax.RNN(lnjax.Zoneout(lnjax.LSTMCell(features=4), c=0.5, h=0.05))
    >>> rngs = {"params": jax.random.key(0), "zoneout": jax.random.key(1)}
    >>> rnn.init_with_output(rngs, jnp.ones((2, 5, 3)))[0].shape
    (2, 5, 4)
    """

    c: float = 0.0
    h: float = 0.0
    deterministic: bool = False
    rng_collection: str = "zoneout"

    def noise(self, num_steps: int, batch: tuple[int, ...]) -> Noise:
        inner = self.cell.noise(num_steps, batch)
        rates = {"c": self.c, "h": self.h}
        if "c" not in self.carry_names and self.c:
            raise ValueError(f"c={self.c}, but the carry consists of {self.carry_names}")
        if inner.hold is not None:
            raise ValueError("there is a Zoneout inside a Zoneout; keep one")
        if all(_is_off(name, rate, False) for name, rate in rates.items()):
            return inner
        rng = None if self.deterministic else self.make_rng(self.rng_collection)
        return inner._replace(
            hold=zoneout_masks(rng, rates, self.carry_names, (num_steps, *batch, self.features))
        )


def dropout_mask(rng: PRNGKey, rate: float, shape: tuple[int, ...]) -> Array:
    """0 with probability `rate`, else 1 / (1 - rate), so that the expectation is 1."""
    if rate == 1:
        return jnp.zeros(shape)
    return jax.random.bernoulli(rng, 1 - rate, shape) / (1 - rate)


def zoneout_masks(
    rng: PRNGKey | None, rates: dict[str, float], names: Sequence[str], shape: tuple[int, ...]
) -> tuple[Array | None, ...]:
    """`Noise.hold` for leaves `names` of the carry: draws, or without `rng` the rates themselves.

    `shape` is (T, B, H); a leaf with the rate 0, or without a rate, is not held.
    """

    def hold(index: int, name: str) -> Array | None:
        rate = rates.get(name, 0)
        if not rate:
            return None
        if rng is None:
            return jnp.full((shape[0],) + (1,) * (len(shape) - 1), rate)
        return jax.random.bernoulli(jax.random.fold_in(rng, index), rate, shape)

    return tuple(hold(index, name) for index, name in enumerate(names))


def _is_off(name: str, rate: float, deterministic: bool) -> bool:
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}={rate} must lie between 0 and 1")
    return deterministic or rate == 0

"""What every lnjax cell is: a Flax cell that can also run a whole sequence by itself.

A cell file reads from top to bottom: equations and conventions, the parameters as a NamedTuple
whose field names are the Flax names, `project_inputs` (what does not depend on the state, for many
steps in one product), `step` (what does), the pure function of a sequence, and the Linen class,
which declares the parameters and calls the functions.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.running import (
    NO_NOISE,
    Functions,
    Implementation,
    Noise,
    Norm,
    per_gate,
    run_sequence,
    run_step,
)
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, DType, PRNGKey, PyTree


class Cell(nn.RNNCellBase):
    """A recurrent cell. As in Flax, ``cell(carry, x)`` is one step and batches lead: x (B, D).

    `parameters`, `noise`, `sequence` and the call touch Flax's scope; `step` and `run` are pure and
    may stand in any transformation.
    """

    carry_names: ClassVar[tuple[str, ...]] = ("h",)  # the leaves of the carry

    def __post_init__(self) -> None:
        for name in ("sites", "learned"):
            if isinstance(getattr(self, name, None), list):
                # A cell is hashed where it is a static argument.
                object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

    def parameters(self, in_features: int) -> Any:
        """Declares (or finds) the parameters for inputs (..., in_features)."""
        raise TypeError(f"{type(self).__name__} declares no parameters")

    def noise(self, num_steps: int, batch: tuple[int, ...]) -> Noise:
        """Draws what is random in a sequence of `num_steps` over a batch of shape `batch`."""
        return NO_NOISE

    def step(
        self, params: Any, carry: PyTree, x: Array, noise: Noise = NO_NOISE
    ) -> tuple[PyTree, Array]:
        """One step as a pure function, for loops of one's own: x (B, D) -> carry, output (B, H).

        `noise` is that of a sequence of one step.
        """
        raise TypeError(f"{type(self).__name__} takes no step")

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
        """The whole sequence: xs (T, B, D), mask (T, B) -> final carry, outputs (T, B, H)."""
        raise TypeError(f"{type(self).__name__} runs no sequence")

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
        """`run` with the parameters and the random streams of this module: what a layer calls."""
        return self.run(
            self.parameters(xs.shape[-1]),
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
        """One step: carry as `initialize_carry` makes it, inputs (..., D) -> carry, (..., H)."""
        inputs = jnp.asarray(inputs)
        params = self.parameters(inputs.shape[-1])
        noise = self.noise(1, inputs.shape[:-1]) if noise is None else noise
        return self.step(params, carry, inputs, noise)

    @property
    def num_feature_axes(self) -> int:
        return 1


class Weights:
    """How the cells declare their weights, and their initial carry; it adds no attribute."""

    features: int
    param_dtype: DType
    kernel_init: Callable[..., Array]
    recurrent_kernel_init: Callable[..., Array]
    scale_init: Callable[..., Array]
    bias_init: Callable[..., Array]
    carry_init: Callable[..., Array]

    def weights(self, in_features: int, num_gates: int) -> dict[str, Array]:
        """Declares `kernel`, `recurrent_kernel` and `bias` for `num_gates` blocks of width H."""
        width, gates, dtype = self.features, num_gates * self.features, self.param_dtype
        kernel_init = per_gate(self.kernel_init, num_gates)
        recurrent_init = per_gate(self.recurrent_kernel_init, num_gates)
        return {
            "kernel": self.param("kernel", kernel_init, (in_features, gates), dtype),
            "recurrent_kernel": self.param(
                "recurrent_kernel", recurrent_init, (width, gates), dtype
            ),
            "bias": self.param("bias", self.bias_init, (gates,), dtype),
        }

    def scale(self, name: str, width: int) -> Array:
        """Declares a gain."""
        return self.param(name, self.scale_init, (width,), self.param_dtype)

    def zeros(self, name: str, width: int) -> Array:
        """Declares a bias other than `bias`."""
        return self.param(name, nn.initializers.zeros_init(), (width,), self.param_dtype)

    @nn.nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Any:
        """The initial carry for inputs of `input_shape` (..., D): (..., H) leaves.

        They have the dtype of the parameters, but at least float32. For a cell with c and h it is
        the pair (c, h), as in Flax; else h.
        """
        shape, dtype = (*input_shape[:-1], self.features), statistics_dtype(self.param_dtype)
        if "c" not in self.carry_names:
            return self.carry_init(rng, shape, dtype)
        rng_c, rng_h = jax.random.split(rng)
        return self.carry_init(rng_c, shape, dtype), self.carry_init(rng_h, shape, dtype)


class NormalizedCell(Weights, Cell):
    """What the cells with `norm` "layer", "rms" or None share: attributes, step, run.

    Attributes:
      features: H; with a norm at least 2, since of a single unit a norm leaves nothing.
      norm: "layer"; "rms", the same with the root mean square in place of mean and deviation; or
        None for the plain cell.
      epsilon: of the norms; 0 gives NaN for a row without variance, such as the first step from a
        zero state.
      dtype: of the operands of the products and of the outputs; None: see `run_sequence`.
      param_dtype: of the parameters; the initial carry has it too, but is at least float32.
      kernel_init: for each (D, H) gate block of `kernel`.
      recurrent_kernel_init: for each (H, H) gate block of `recurrent_kernel`.
      scale_init: for the gains.
      bias_init: for `bias`; other biases start at 0.
      carry_init: for each leaf of the carry.
    """

    features: int
    norm: Norm = "layer"
    epsilon: float = 1e-5
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    recurrent_kernel_init: Callable[..., Array] = nn.initializers.orthogonal()
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()
    carry_init: Callable[..., Array] = nn.initializers.zeros_init()

    def functions(self, params: Any) -> Functions:
        """The pure functions of this cell, after a check that `params` are of its kind."""
        raise TypeError(f"{type(self).__name__} has no functions")

    def step(
        self, params: Any, carry: PyTree, x: Array, noise: Noise = NO_NOISE
    ) -> tuple[PyTree, Array]:
        """One step as a pure function: x (..., D) -> new carry, output (..., H)."""
        return run_step(
            self.functions(params),
            params,
            carry,
            x,
            noise,
            carry_names=self.carry_names,
            dtype=self.dtype,
        )

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
        """The whole sequence: xs (T, B, D), mask (T, B) -> final carry, outputs (T, B, H)."""
        return run_sequence(
            self.functions(params),
            params,
            carry,
            xs,
            mask,
            noise,
            carry_names=self.carry_names,
            dtype=self.dtype,
            reverse=reverse,
            unroll=unroll,
            implementation=implementation,
        )

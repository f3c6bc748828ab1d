"""What every lnjax cell is: a Flax cell that can also run a whole sequence by itself.

A cell file reads from top to bottom: equations and conventions, the parameters as a NamedTuple
whose field names are the Flax names, `project_inputs` (what does not depend on the state, for many
steps in one product), `step` (what does), the pure function of a sequence, and the Linen class,
which declares the parameters and calls the functions.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.ops import normalization
from lnjax.typing import Array, DType, PRNGKey, PyTree

Implementation = Literal["auto", "scan"]


class Cell(nn.RNNCellBase):
    """A recurrent cell. As in Flax, ``cell(carry, x)`` is one step and batches lead: x (B, D).

    `parameters` touches Flax's scope; `step` and `run` are pure and may stand in any
    transformation.
    """

    def parameters(self, in_features: int) -> Any:
        """Declares (or finds) the parameters for inputs (..., in_features)."""
        raise TypeError(f"{type(self).__name__} declares no parameters")

    def step(self, params: Any, carry: PyTree, x: Array) -> tuple[PyTree, Array]:
        """One step as a pure function, for loops of one's own: x (B, D) -> carry, output (B, H)."""
        raise TypeError(f"{type(self).__name__} takes no step")

    def run(
        self,
        params: Any,
        carry: PyTree,
        xs: Array,
        mask: Array | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ) -> tuple[PyTree, Array]:
        """The whole sequence: xs (T, B, D), mask (T, B) -> final carry, outputs (T, B, H)."""
        raise TypeError(f"{type(self).__name__} runs no sequence")


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """Refuses a value of `name` that is none of the `known` ones."""
    if value not in known:
        raise ValueError(
            f"{name}={value!r} is not known; choose one of {', '.join(map(repr, known))}"
        )


def product(x: Array, kernel: Array, dtype: DType | None) -> Array:
    """``x @ kernel`` with operands in `dtype` (None: their common one), summed in >= float32."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype) if dtype is None else dtype
    return jnp.matmul(
        x.astype(dtype),
        kernel.astype(dtype),
        preferred_element_type=normalization.statistics_dtype(dtype),
    )


def per_gate(init: Callable[..., Array], num_gates: int) -> Callable[..., Array]:
    """Applies `init` to each (rows, features) gate block of a (rows, num_gates * features) kernel.

    Orthogonal blocks, or a fan computed from one block, are what separate matrices would get.
    """

    def stacked(rng: PRNGKey, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        rows, columns = shape
        keys = jax.random.split(rng, num_gates)
        # Drawn wide: the decomposition behind an orthogonal matrix has no half precision.
        wide = normalization.statistics_dtype(dtype)
        blocks = [init(key, (rows, columns // num_gates), wide) for key in keys]
        return jnp.concatenate(blocks, axis=1).astype(dtype)

    return stacked

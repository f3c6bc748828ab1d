"""The types that signatures speak of. In shapes: B batch, T time, D input width, H features."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
DType: TypeAlias = Any  # whatever jnp.dtype() takes
PRNGKey: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Params: TypeAlias = PyTree  # what the optimizer changes
ModelState: TypeAlias = Mapping[str, PyTree]  # every other Flax collection; {} for layer norm
Batch: TypeAlias = Mapping[str, Array]  # always has "mask", True = real
Sums: TypeAlias = Mapping[str, tuple[Array, Array]]  # name -> (numerator, denominator)

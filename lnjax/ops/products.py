"""Products with operands in a narrow dtype, summed in a wide one, in the derivative as well.

``jnp.matmul(..., preferred_element_type=float32)`` of bfloat16 operands hands a float32 cotangent
to its transpose, whose products are then of float32 and bfloat16: two thirds of the arithmetic of a
training step, in the dtype that was to be avoided.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, DType


def product(x: Array, kernel: Array, dtype: DType | None = None, *, precision: Any = None) -> Array:
    """``x @ kernel`` with operands in `dtype`.

    With bfloat16 the products of the derivative have operands in bfloat16, too: the cotangent is
    rounded to it before them, and what they give, summed in float32, after them. float16 has not
    the range of a gradient; there the cotangent stays as it is.

    Args:
      x: (..., N).
      kernel: (N, M).
      dtype: of the operands; None: their common one.
      precision: see `jax.lax.Precision`.

    Returns:
      (..., M), summed in at least float32 and in that dtype.

    >>> import jax, jax.numpy as jnp
    >>> product(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.bfloat16).dtype
    dtype('float32')
    """
    dtype = jnp.promote_types(x.dtype, kernel.dtype) if dtype is None else jnp.dtype(dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if dtype == jnp.bfloat16:
        return _narrow(precision, x, kernel)
    return _wide(precision, x, kernel)


def _wide(precision: Any, x: Array, kernel: Array) -> Array:
    wide = statistics_dtype(x.dtype)
    return jnp.matmul(x, kernel, precision=precision, preferred_element_type=wide)


_narrow = jax.custom_jvp(_wide, nondiff_argnums=(0,))


@partial(_narrow.defjvp, symbolic_zeros=True)
def _narrow_jvp(precision: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, kernel), (d_x, d_kernel) = primals, tangents
    y = _narrow(precision, x, kernel)
    # Of the operands' own dtype, so that the transpose of each is a product of that dtype.
    terms = [
        jnp.matmul(left, right, precision=precision).astype(y.dtype)
        for left, right in ((d_x, kernel), (x, d_kernel))
        if not isinstance(left, SymbolicZero) and not isinstance(right, SymbolicZero)
    ]
    return y, sum(terms, jnp.zeros_like(y)) if len(terms) != 1 else terms[0]

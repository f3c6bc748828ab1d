"""What the pure functions of all cells share: a step, a sequence, products, norms by name, checks.

A cell is here a pair of `Functions`; Flax does not appear.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lnjax.cells.choice import choose
from lnjax.cells.chunked import Chunked, Derivative, run_chunked
from lnjax.cells.norm_derivative import Norm as Norm
from lnjax.ops import normalization, scan_sequence, zero_padding
from lnjax.ops.products import product as product
from lnjax.typing import Array, DType, PRNGKey, PyTree

Implementation = Literal["auto", "scan", "chunked"] | Chunked

NORMS = {"layer": normalization.layer_norm, "rms": normalization.rms_norm}


class Noise(NamedTuple):
    """What is random in a run of a cell, drawn before the loop over time starts.

    dropout_h: (B, H), multiplies h where it enters the recurrent products, the same at every step.
    hold: one entry for each leaf of the carry, in its order: None, or (T, B, H), where B and H may
      be 1; the share of the old value that the new one keeps: True and False, or a number between 0
      and 1.
    """

    dropout_h: Array | None = None
    hold: tuple[Array | None, ...] | None = None


NO_NOISE = Noise()


class Functions(NamedTuple):
    """A cell with its choices made: the two halves of a time step, as pure functions."""

    project_inputs: Callable[[Any, Array], Array]  # (params, xs) -> projected
    step: Callable[..., tuple[PyTree, Array]]  # (params, carry, projected_x, *, dropout_h)
    derivative: Derivative | None = None  # what the chunked path needs


def run_step(
    functions: Functions,
    params: Any,
    carry: PyTree,
    x: Array,
    noise: Noise = NO_NOISE,
    *,
    carry_names: tuple[str, ...] = ("h",),
    dtype: DType | None = None,
) -> tuple[PyTree, Array]:
    """One step of a cell on x (..., D); `noise` is that of a sequence of one step."""
    params, x = as_arrays(params, x)
    check_sequence(params, x[None], None, noise, carry_names)
    carry = as_carry(carry, carry_names, x.shape[:-1], params)
    projected = functions.project_inputs(params, x)
    new_carry, y = functions.step(params, carry, projected, dropout_h=noise.dropout_h)
    if noise.hold is not None:
        hold = tuple(None if share is None else share[0] for share in noise.hold)
        new_carry, y = _hold(hold, carry, new_carry, y)
    return new_carry, y.astype(x.dtype if dtype is None else dtype)


def run_sequence(
    functions: Functions,
    params: Any,
    carry: PyTree | None,
    xs: Array,
    mask: Array | None = None,
    noise: Noise = NO_NOISE,
    *,
    carry_names: tuple[str, ...] = ("h",),
    dtype: DType | None = None,
    reverse: bool = False,
    unroll: int = 1,
    implementation: Implementation = "auto",
) -> tuple[PyTree, Array]:
    """Runs a cell over a time-major sequence.

    Args:
      functions: of the cell.
      params: its parameters, with a field `recurrent_kernel` (H, ...).
      carry: the initial carry; None means zeros, in the dtype of the parameters but at least
        float32.
      xs: (T, B, D); further batch axes may follow B, in the mask and the carry too.
      mask: (T, B) bool, True = real. A step that is not real holds the carry and outputs zero.
      noise: what is random, drawn beforehand.
      carry_names: of the leaves of the carry.
      dtype: of the operands of the products and of the outputs. None: each product is taken in the
        common dtype of its two operands, and the outputs have that of the inputs. (Integer inputs
        become that of the parameters, but at least float32.)
      reverse: from the last step to the first; outputs stay at the time of their input.
      unroll: steps per iteration of the compiled loop.
      implementation: "scan", the plain scan over the step, differentiable in every mode;
        "chunked", the fast path of `lnjax.cells.chunked`, with the chunks of `lnjax.cells.choice`,
        or a `Chunked` that says which; or "auto", the fast path where there is one, else a scan
        that recomputes each step in the backward pass.

    Returns:
      The final carry, and the outputs (T, B, H).
    """
    check_implementation(implementation, unroll)
    params, xs = as_arrays(params, xs)
    check_sequence(params, xs, mask, noise, carry_names)
    carry = as_carry(carry, carry_names, xs.shape[1:-1], params)
    xs = zero_padding(xs, mask)
    obstacle = None
    if implementation != "scan":
        obstacle = _obstacle(functions, params, carry, xs, noise, dtype)
        if obstacle is not None and implementation != "auto":
            raise ValueError(
                f"{obstacle}, so there is no chunked path; use implementation='auto' or 'scan'"
            )
    if implementation != "scan" and obstacle is None and functions.derivative is not None:
        chunked = implementation
        if not isinstance(chunked, Chunked):
            chunked = choose(xs.shape, params.recurrent_kernel.shape, unroll)
        carry, hs = run_chunked(
            functions.derivative,
            params,
            tuple(jax.tree.leaves(carry)),
            xs,
            _holds(noise.hold, mask, len(carry_names)),
            noise.dropout_h,
            dtype=dtype,
            reverse=reverse,
            chunked=chunked,
        )
        ys = zero_padding(hs, mask)
        carry = carry if len(carry_names) > 1 else carry[0]
        return carry, ys.astype(xs.dtype if dtype is None else dtype)

    projected = functions.project_inputs(params, xs)

    def step(carry: PyTree, inputs: tuple[Array, Any]) -> tuple[PyTree, Array]:
        projected_x, hold = inputs
        new_carry, y = functions.step(params, carry, projected_x, dropout_h=noise.dropout_h)
        return (new_carry, y) if hold is None else _hold(hold, carry, new_carry, y)

    carry, ys = scan_sequence(
        step,
        carry,
        (projected, noise.hold),
        mask,
        reverse=reverse,
        unroll=unroll,
        remat=implementation == "auto",
    )
    return carry, ys.astype(xs.dtype if dtype is None else dtype)


def _obstacle(
    functions: Functions, params: Any, carry: PyTree, xs: Array, noise: Noise, dtype: DType | None
) -> str | None:
    """Why the chunked path cannot be taken; None if it can."""
    if functions.derivative is None:
        return "this cell has no derivative of its own"
    if not all(isinstance(extent, int) for extent in xs.shape):
        return f"the shape {xs.shape} of the inputs is symbolic"
    if 0 in xs.shape[:-1]:
        return f"inputs of shape {xs.shape} have no step"
    wide = {leaf.dtype for leaf in jax.tree.leaves(carry)}
    for x in (xs, *jax.tree.leaves(carry)):
        operand = jnp.promote_types(x.dtype, params.kernel.dtype) if dtype is None else dtype
        wide.add(normalization.statistics_dtype(operand))
    if len(wide) > 1:
        return (
            f"carry and summed inputs are of several dtypes ({', '.join(sorted(map(str, wide)))})"
        )
    if any(share is not None and share.dtype != jnp.bool_ for share in noise.hold or ()):
        return "noise.hold has shares that are no bool"
    return None


def _holds(
    hold: tuple[Array | None, ...] | None, mask: Array | None, num_carries: int
) -> tuple[Array | None, ...]:
    """For each leaf of the carry where its old value is kept: by noise, or in the padding."""
    hold = (None,) * num_carries if hold is None else hold
    if mask is None:
        return hold
    padding = ~mask[..., None]
    return tuple(padding if share is None else share | padding for share in hold)


def _hold(
    hold: tuple[Array | None, ...], carry: PyTree, new_carry: PyTree, y: Array
) -> tuple[PyTree, Array]:
    """Keeps the share `hold` of the old carry; the output is the new h, as without it."""
    old, structure = jax.tree.flatten(carry)
    new = structure.flatten_up_to(new_carry)
    kept = [mix(share, *leaves) for share, *leaves in zip(hold, old, new, strict=True)]
    return structure.unflatten(kept), mix(hold[-1], old[-1], y)


def mix(share: Array | None, old: Array, new: Array) -> Array:
    """`share` of the old and the rest of the new, in the new's dtype; None is no share."""
    if share is None:
        return new
    share = jnp.broadcast_to(share, new.shape)
    if share.dtype == jnp.bool_:
        return jnp.where(share, old.astype(new.dtype), new)
    share = share.astype(new.dtype)
    return share * old.astype(new.dtype) + (1 - share) * new


def as_arrays(params: Any, xs: Array) -> tuple[Any, Array]:
    """NumPy becomes jax (float64 falls to float32 unless x64 is on), integer inputs floats."""
    params, xs = jax.tree.map(jnp.asarray, (params, xs))
    if jnp.issubdtype(xs.dtype, jnp.complexfloating):
        raise TypeError(f"inputs must be real numbers, got {xs.dtype}")
    is_float = jnp.issubdtype(xs.dtype, jnp.floating)
    return params, xs if is_float else xs.astype(carry_dtype(params))


def carry_dtype(params: Any) -> DType:
    """That of a carry which nobody gave: of the parameters, but at least float32."""
    return normalization.statistics_dtype(params.recurrent_kernel.dtype)


def as_carry(
    carry: PyTree | None, names: tuple[str, ...], batch: tuple[int, ...], params: Any
) -> PyTree:
    """The carry as arrays, or zeros for None; refuses one that is not of this cell and batch."""
    shape = (*batch, params.recurrent_kernel.shape[0])
    if carry is None:
        zeros = jnp.zeros(shape, carry_dtype(params))
        return zeros if len(names) == 1 else (zeros,) * len(names)
    if len(names) > 1 and not (isinstance(carry, tuple) and len(carry) == len(names)):
        raise ValueError(
            f"the carry must be the tuple ({', '.join(names)}), got {type(carry).__name__}"
        )
    leaves = [jnp.asarray(leaf) for leaf in (carry if len(names) > 1 else (carry,))]
    for name, leaf in zip(names, leaves, strict=True):
        if leaf.shape != shape or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} of the carry must be floating point of shape {shape}, got"
                f" {leaf.dtype} {leaf.shape}"
            )
    return tuple(leaves) if len(names) > 1 else leaves[0]


def check_sequence(
    params: Any, xs: Array, mask: Array | None, noise: Noise, names: tuple[str, ...]
) -> None:
    """Refuses xs (T, B, D), a mask and noise that do not fit each other or the parameters."""
    width = params.kernel.shape[0]
    if xs.ndim < 2 or xs.shape[-1] != width:
        raise ValueError(f"inputs {xs.shape[1:]} must have the width {width} of the kernel")
    if mask is not None and (mask.shape != xs.shape[:-1] or mask.dtype != jnp.bool_):
        raise ValueError(
            f"the mask must be bool (True = real) of shape {xs.shape[:-1]}, got"
            f" {mask.dtype} {mask.shape}"
        )
    if noise.hold is not None and len(noise.hold) != len(names):
        raise ValueError(
            f"noise.hold must have an entry for each of {', '.join(names)}, got {len(noise.hold)}"
        )


def check_implementation(implementation: Implementation, unroll: int) -> None:
    """Refuses what is not an `Implementation`, or says `unroll` twice."""
    if not isinstance(implementation, Chunked):
        check_choice("implementation", implementation, ("auto", "scan", "chunked"))
        return
    if unroll != 1:
        raise ValueError(f"unroll={unroll} is said by {implementation} already")
    check_choice("Chunked.saved", implementation.saved, ("border", "carry", "recurrent", "all"))
    for name in ("length", "unroll"):
        if getattr(implementation, name) < 1:
            raise ValueError(f"Chunked.{name}={getattr(implementation, name)} must be at least 1")


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """Refuses a value of `name` that is none of the `known` ones."""
    if value not in known:
        raise ValueError(
            f"{name}={value!r} is not known; choose one of {', '.join(map(repr, known))}"
        )


def check_norm(norm: Norm, sites: Sequence[str] = (), known: Sequence[str] = ()) -> None:
    """Refuses an unknown norm, and `sites` that are not some of the `known` ones, each once."""
    check_choice("norm", norm, (*NORMS, None))
    if isinstance(sites, str) or (known and not sites):
        raise ValueError(f"sites={sites!r} must be a tuple of names out of {tuple(known)}")
    for site in sites:
        check_choice("site", site, known)
    if len(set(sites)) < len(sites):
        raise ValueError(f"sites={tuple(sites)!r} names one twice")


def check_parameters(params: Any, kind: type, choices: str, **expected: bool) -> None:
    """Refuses parameters that have not exactly the gains (and so on) that are `expected`."""
    if not isinstance(params, kind):
        raise TypeError(
            f"the parameters must be {kind.__name__}, got {type(params).__name__};"
            f" of a mapping make {kind.__name__}(**params)"
        )
    for name, wanted in expected.items():
        if (getattr(params, name) is not None) != wanted:
            have = "have no" if wanted else "have a"
            raise ValueError(f"{choices}, but the parameters {have} {name}")


def normalize(norm: Norm, epsilon: float, x: Array, scale: Array | None) -> Array:
    """Normalizes x (..., H) and applies the gain; a site without a gain is one without a norm."""
    if scale is None:
        return x
    check_choice("norm", norm, tuple(NORMS))
    return NORMS[norm](x, scale, epsilon=epsilon)


def add_bias(x: Array, bias: Array) -> Array:
    """x (..., H) plus a bias (H,), in the dtype of x."""
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


def recurrent_product(
    h: Array, kernel: Array, dtype: DType | None, dropout_h: Array | None
) -> Array:
    """The product of h (..., H), or of what dropout leaves of it, with a recurrent kernel."""
    return product(h if dropout_h is None else h * dropout_h.astype(h.dtype), kernel, dtype)


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

r"""The fast way through a sequence: chunks of time that stay in the cache, a derivative by hand.

A cell that can be run so gives the six functions of `Derivative`. What happens with them:

* Forward, per chunk: the summed inputs of all its steps in one product, then the recurrence step by
  step. Of all that is computed only the carry is stored.
* Backward, per chunk: what was not stored is computed once more, for all steps at once, and with it
  the coefficients of the linearized step. The recurrence itself is then multiplications, additions,
  row sums and one product a step; weight gradients are one product a chunk.
* Kernels whose products a layer norm follows are centred first, once a call: with
  :math:`\tilde W = W - \bar W` the mean of :math:`h \tilde W` over its units is zero and
  :math:`\mathrm{LN}(h W) = \mathrm{LN}(h \tilde W)`, the invariance of Ba et al. 2016, Section 5.1,
  so that a norm needs one sum a step and its derivative one.

The plain scan in `lnjax.ops.sequence` is the same function; this is not differentiable in forward
mode (``jax.jvp``), that is.

Everything is time-major, and batch axes are one here: a chunk is (K, B, ...).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lnjax.cells.prefetch import scan_steps
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, DType, PyTree

Leaves = tuple[Array, ...]  # of the carry; h is the last


class Chunked(NamedTuple):
    """How the chunked path runs.

    length: steps in a chunk, at most.
    unroll: steps in the body of the compiled loop over a chunk; `length` leaves no loop.
    saved: what of the forward pass is kept for the backward: "border", the carry before each chunk;
      "carry", that before each step; "recurrent", also the recurrent summed inputs; or "all", also
      those of the input. The more, the fewer products are computed twice. With "border" the steps
      of a chunk are taken once more, so that of T steps in chunks of K the memory of T / K + K
      carries is used: least at a `length` of about the root of T. (Inputs, and outputs that
      somebody uses, are T steps long all the same.)
    """

    length: int
    unroll: int = 1
    saved: Literal["border", "carry", "recurrent", "all"] = "carry"


class Derivative(NamedTuple):
    """A cell without its two products, and its derivative by hand.

    `params` has all but the kernels' gradients to give. Leading axes are free but for `pull_back`,
    which is of one step.
    """

    # params -> params whose kernels are centred where a mean is to be subtracted
    centre: Callable[[Any], Any]
    # (params, summed_x) -> projected_x
    project: Callable[[Any, Array], Array]
    # (params, old carry, summed_h, projected_x) -> new carry
    update: Callable[[Any, Leaves, Array, Array], Leaves]
    # (params, old carry, summed_h, projected_x) -> coefficients
    linearize: Callable[[Any, Leaves, Array, Array], PyTree]
    # (params, coefficients, cotangent of the new carry) -> cotangents of summed_h and of the old
    # carry (but what comes through summed_h; None is zero), and what `gradients` needs of the step
    pull_back: Callable[[Any, PyTree, Leaves], tuple[Array, tuple[Any, ...], PyTree]]
    # (params, coefficients, what pull_back kept) -> gradients by name, cotangent of projected_x
    gradients: Callable[[Any, PyTree, PyTree], tuple[dict[str, Array], Array]]


class _Inputs(NamedTuple):
    """What a run takes beside its parameters."""

    carry: Leaves  # (B, H) each
    xs: Array  # (T, B, D)
    dropout_h: Array | None  # (B, H)
    hold: tuple[Array | None, ...]  # (T, B, 1 or H) bool each, True keeps the old value


def run_chunked(
    derivative: Derivative,
    params: Any,
    carry: Leaves,
    xs: Array,
    hold: tuple[Array | None, ...],
    dropout_h: Array | None,
    *,
    dtype: DType | None,
    reverse: bool,
    chunked: Chunked,
) -> tuple[Leaves, Array]:
    """Final carry, and h (T, B, H) after each step; see `lnjax.cells.running.run_sequence`."""
    wide = statistics_dtype(carry[-1].dtype)
    operand = jnp.promote_types(xs.dtype, params.kernel.dtype) if dtype is None else dtype
    operand_h = wide if dtype is None else dtype
    params = derivative.centre(jax.tree.map(lambda leaf: leaf.astype(wide), params))
    batch, batch_size = xs.shape[1:-1], math.prod(xs.shape[1:-1])
    merged = _Inputs(
        tuple(leaf.reshape(batch_size, leaf.shape[-1]) for leaf in carry),
        xs.reshape(xs.shape[0], batch_size, xs.shape[-1]),
        None
        if dropout_h is None
        else jnp.broadcast_to(dropout_h, carry[-1].shape).reshape(batch_size, -1).astype(wide),
        tuple(
            None
            if share is None
            else jnp.broadcast_to(share, (*xs.shape[:-1], share.shape[-1])).reshape(
                xs.shape[0], batch_size, share.shape[-1]
            )
            for share in hold
        ),
    )
    options = _Options(derivative, operand, operand_h, reverse, chunked)
    carry, hs = _run(options, params, merged)
    return (
        tuple(leaf.reshape(*batch, leaf.shape[-1]) for leaf in carry),
        hs.reshape(xs.shape[0], *batch, hs.shape[-1]),
    )


class _Options(NamedTuple):
    """What is known before the arrays are."""

    derivative: Derivative
    operand: DType  # of the operands of the product with the inputs
    operand_h: DType  # and of that with h
    reverse: bool
    chunked: Chunked


def _forward(
    options: _Options, params: Any, inputs: _Inputs, save: bool
) -> tuple[Leaves, Array, Any]:
    """Final carry, h of all steps, and what is saved of head and tail: see `_chunks`."""
    derivative, saved = options.derivative, options.chunked.saved
    kernel = params.kernel.astype(options.operand)
    small = _without_kernels(params)
    step = _stepper(options, params, inputs.dropout_h, saved if save else "border")

    def chunk(carry: Leaves, chunk_inputs: Any) -> tuple[Leaves, Any]:
        xs, hold = chunk_inputs
        summed_x = _product(xs.astype(options.operand), kernel)
        projected = derivative.project(small, summed_x)
        new, steps = scan_steps(
            step, carry, (projected, hold), options.reverse, options.chunked.unroll
        )
        if not save:
            return new, (steps, None)
        if saved == "all":
            steps = (*steps, summed_x)
        return new, (steps, carry)

    carry, pieces = _chunks(chunk, inputs.carry, (inputs.xs, inputs.hold), options, options.reverse)
    h_at = 0 if not save or saved == "border" else len(carry) - 1
    hs = [_flat(steps[h_at]) if is_head else steps[h_at] for is_head, (steps, _) in pieces]
    return carry, hs[0] if len(hs) == 1 else jnp.concatenate(hs), pieces


def _stepper(options: _Options, params: Any, dropout_h: Array | None, saved: str) -> Any:
    """A step of the recurrence, which gives h ("border"), the new carry, or that and summed_h."""
    derivative, small = options.derivative, _without_kernels(params)
    recurrent_kernel = params.recurrent_kernel.astype(options.operand_h)

    def step(carry: Leaves, step_inputs: Any) -> tuple[Leaves, Any]:
        projected, hold = step_inputs
        h = _dropped(carry[-1], dropout_h)
        summed_h = _product(h.astype(options.operand_h), recurrent_kernel)
        new = derivative.update(small, carry, summed_h, projected)
        new = tuple(map(_held, hold, carry, new))
        if saved == "border":
            return new, new[-1:]
        return new, new if saved == "carry" else (*new, summed_h)

    return step


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(options: _Options, params: Any, inputs: _Inputs) -> tuple[Leaves, Array]:
    carry, hs, _ = _forward(options, params, inputs, save=False)
    return carry, hs


def _run_forward(options: _Options, params: Any, inputs: _Inputs) -> tuple[Any, Any]:
    params, inputs = jax.tree.map(
        lambda leaf: leaf.value, (params, inputs), is_leaf=lambda leaf: hasattr(leaf, "perturbed")
    )
    carry, hs, pieces = _forward(options, params, inputs, save=True)
    # The kind of a piece is no array.
    kept = [saved for _, saved in pieces]
    if options.chunked.saved == "border":  # h of the steps is an output, and not kept
        kept = [((), before) for _, before in kept]
    return (carry, hs), (params, inputs, kept)


def _run_backward(options: _Options, residuals: Any, cotangents: Any) -> tuple[Any, _Inputs]:
    params, inputs, pieces = residuals
    # A loss of the last state alone has no cotangent of the outputs: not T steps of zeros either.
    d_carry, d_hs = _instantiated(cotangents[0]), cotangents[1]
    d_hs = None if isinstance(d_hs, SymbolicZero) else d_hs
    derivative, saved = options.derivative, options.chunked.saved
    num_carry = len(d_carry)
    kernel = params.kernel.astype(options.operand)
    recurrent_kernel = params.recurrent_kernel.astype(options.operand_h)
    transposed = recurrent_kernel.T  # here, since in the loop it would be so at every step
    small = _without_kernels(params)
    again = _stepper(options, params, inputs.dropout_h, "recurrent")

    def chunk(state: Any, chunk_inputs: Any) -> tuple[Any, Array]:
        d_carry, d_params, d_dropout = state
        xs, hold, d_hs, (steps, before) = chunk_inputs
        xs = xs.astype(options.operand)
        summed_x = steps[num_carry + 1] if saved == "all" else _product(xs, kernel)
        projected, project_back = jax.vjp(derivative.project, small, summed_x)
        if saved == "border":
            taken = (projected, hold)
            _, steps = scan_steps(again, before, taken, options.reverse, options.chunked.unroll)
        old = tuple(map(partial(_shifted, options.reverse), before, steps[:num_carry]))
        h = _dropped(old[-1], inputs.dropout_h).astype(options.operand_h)
        summed_h = _product(h, recurrent_kernel) if saved == "carry" else steps[num_carry]
        coefficients = derivative.linearize(small, old, summed_h, projected)

        def step(state: Any, step_inputs: Any) -> tuple[Any, Any]:
            d_carry, d_dropout = state
            d_h, coefficients, hold, old_h = step_inputs
            if d_h is not None:
                d_carry = (*d_carry[:-1], d_carry[-1] + d_h)
            d_new = tuple(map(_let_go, hold, d_carry))
            d_summed, d_old, kept = derivative.pull_back(small, coefficients, d_new)
            d_h = _product(d_summed.astype(options.operand_h), transposed)
            if inputs.dropout_h is not None:
                d_dropout = d_dropout + d_h * old_h
                d_h = d_h * inputs.dropout_h
            d_old = (*d_old[:-1], d_h if d_old[-1] is None else d_h + d_old[-1])
            return (tuple(map(_held_back, hold, d_carry, d_old)), d_dropout), (d_summed, kept)

        old_h = None if inputs.dropout_h is None else old[-1]
        (d_carry, d_dropout), (d_summed_h, kept) = scan_steps(
            step,
            (d_carry, d_dropout),
            (d_hs, coefficients, hold, old_h),
            not options.reverse,
            options.chunked.unroll,
        )
        by_name, d_projected = derivative.gradients(small, coefficients, kept)
        d_small, d_summed_x = project_back(d_projected)
        for name, gradient in by_name.items():
            d_small = d_small._replace(**{name: getattr(d_small, name) + gradient})
        d_summed_h = d_summed_h.astype(options.operand_h)
        d_summed_x = d_summed_x.astype(options.operand)
        d_params = jax.tree.map(
            jnp.add,
            d_params,
            d_small._replace(
                kernel=_kernel_gradient(xs, d_summed_x),
                recurrent_kernel=_kernel_gradient(h, d_summed_h),
            ),
        )
        return (d_carry, d_params, d_dropout), _product_back(d_summed_x, kernel)

    zeros = jax.tree.map(jnp.zeros_like, (params, inputs.dropout_h))
    (d_carry, d_params, d_dropout), d_pieces = _chunks(
        chunk,
        (d_carry, *zeros),
        (inputs.xs, inputs.hold, d_hs),
        options,
        not options.reverse,
        pieces,
    )
    d_xs = [_flat(piece) if is_head else piece for is_head, piece in d_pieces]
    d_xs = d_xs[0] if len(d_xs) == 1 else jnp.concatenate(d_xs)
    d_hold = (None,) * len(inputs.hold)
    return d_params, _Inputs(d_carry, d_xs.astype(inputs.xs.dtype), d_dropout, d_hold)


_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


def _instantiated(cotangents: Any) -> Any:
    return tuple(
        jnp.zeros(leaf.aval.shape, leaf.aval.dtype) if isinstance(leaf, SymbolicZero) else leaf
        for leaf in cotangents
    )


def _chunks(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: PyTree,
    options: _Options,
    reverse: bool,
    pieces: Sequence[Any] | None = None,
) -> tuple[Any, list[tuple[bool, Any]]]:
    """Runs `body` over chunks of time, those of full length in a loop.

    Args:
      body: (carry, chunk of xs) -> (carry, output); with `pieces` the chunk is (*xs, piece).
      xs: leaves (T, ...).
      pieces: for each piece that is returned, in their order, what its chunks get as it is.

    Returns:
      The carry, and in the order of time one or two pieces (is_head, outputs): the head has the
      outputs of the full chunks stacked, the tail is the rest, shorter than a chunk.
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    length = min(options.chunked.length, steps)
    count = steps // length
    extra = [()] * 2 if pieces is None else [(piece,) for piece in pieces]
    outputs: list[tuple[bool, Any]] = []

    def head(carry: Any) -> Any:
        full = jax.tree.map(
            lambda leaf: leaf[: count * length].reshape(count, length, *leaf.shape[1:]), xs
        )
        carry, out = jax.lax.scan(body, carry, (*full, *extra[0]), reverse=reverse)
        outputs.append((True, out))
        return carry

    def tail(carry: Any) -> Any:
        rest = jax.tree.map(lambda leaf: leaf[count * length :], xs)
        carry, out = body(carry, (*rest, *extra[1]))
        outputs.append((False, out))
        return carry

    parts = [head, tail] if count * length < steps else [head]
    for part in reversed(parts) if reverse else parts:
        carry = part(carry)
    return carry, outputs[::-1] if reverse else outputs


def _product(x: Array, kernel: Array) -> Array:
    """(..., N) with (N, M): summed in at least float32."""
    return jnp.matmul(x, kernel, preferred_element_type=statistics_dtype(x.dtype))


def _product_back(d_summed: Array, kernel: Array) -> Array:
    """(..., M) with (N, M): the cotangent of the left operand, (..., N)."""
    dimensions = (((d_summed.ndim - 1,), (1,)), ((), ()))
    wide = statistics_dtype(d_summed.dtype)
    return jax.lax.dot_general(d_summed, kernel, dimensions, preferred_element_type=wide)


def _kernel_gradient(x: Array, d_summed: Array) -> Array:
    """(K, B, N) with (K, B, M): the cotangent of the kernel, (N, M)."""
    rows = tuple(range(x.ndim - 1))
    wide = statistics_dtype(x.dtype)
    return jax.lax.dot_general(x, d_summed, ((rows, rows), ((), ())), preferred_element_type=wide)


def _without_kernels(params: Any) -> Any:
    """`params` without the two that only products use, so that they get no zeros as gradients."""
    return params._replace(kernel=None, recurrent_kernel=None)


def _dropped(h: Array, dropout_h: Array | None) -> Array:
    return h if dropout_h is None else h * jnp.broadcast_to(dropout_h, h.shape)


def _held(hold: Array | None, old: Array, new: Array) -> Array:
    return new if hold is None else jnp.where(jnp.broadcast_to(hold, new.shape), old, new)


def _let_go(hold: Array | None, d_carry: Array) -> Array:
    """The cotangent of the new value: none where the old one is kept."""
    if hold is None:
        return d_carry
    return jnp.where(jnp.broadcast_to(hold, d_carry.shape), jnp.zeros_like(d_carry), d_carry)


def _held_back(hold: Array | None, d_carry: Array, d_old: Array) -> Array:
    """The cotangent of the old value: what came through the step, and what was kept."""
    if hold is None:
        return d_old
    # Where all is held, so are the summed inputs' cotangents zero: a row in the padding, say.
    return d_old + jnp.where(
        jnp.broadcast_to(hold, d_carry.shape), d_carry, jnp.zeros_like(d_carry)
    )


def _shifted(reverse: bool, before: Array, after: Array) -> Array:
    """The values before each step of a chunk, of that before its first and those after each."""
    if reverse:
        return jnp.concatenate([after[1:], before[None]])
    return jnp.concatenate([before[None], after[:-1]])


def _flat(chunks: Array) -> Array:
    return chunks.reshape(-1, *chunks.shape[2:])

r"""Nats of words under a softmax over a large vocabulary, a few words at a time.

.. math::
    -\log p_n = \log \sum_v \exp(h_n \cdot W_v + b_v) - (h_n \cdot W_{y_n} + b_{y_n})

The logits of a whole batch would be its largest array by far: 20,000 numbers for each of some
thousand words, twice. So they are made for `rows` words at once, and only for words that are real:
those are brought to the front, and the loop ends behind the last of them. What `total` needs for
its gradient it computes while the logits are there, so no logits are made twice and none are kept.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lnjax.typing import Array, DType


class Readout(NamedTuple):
    """The output layer, shared by all decoders."""

    kernel: Array  # (H, V)
    bias: Array  # (V,)


class _Packed(NamedTuple):
    """Words with the real ones in front, padded to whole chunks."""

    hidden: Array  # (C * rows, H)
    targets: Array  # (C * rows,)
    real: Array  # (C * rows,) bool
    order: Array  # (N,) where word i of the packed ones was
    num_chunks: Array  # () that hold real words


def nats(
    readout: Readout,
    hidden: Array,
    targets: Array,
    mask: Array,
    *,
    rows: int,
    dtype: DType | None = None,
) -> Array:
    """-log p of every word, without a gradient.

    Args:
      readout: kernel (H, V) and bias (V,).
      hidden: (N, H) states that the words are predicted from.
      targets: (N,) ids from 0 to V - 1.
      mask: (N,) bool, True = a real word; what stands elsewhere, NaN included, reaches nothing.
      rows: words whose logits are there at once.
      dtype: of the operands of the product; None: as they are.

    Returns:
      (N,) float32, 0 where there is no word.
    """
    packed = _pack(hidden, targets, mask, rows)

    def chunk(i: Array, out: Array) -> Array:
        h, targets, real = _chunk(packed, i, rows)
        logits = _logits(readout, h, dtype)
        lost = jax.nn.logsumexp(logits, axis=-1) - _of_targets(logits, targets)
        return jax.lax.dynamic_update_slice_in_dim(out, jnp.where(real, lost, 0), i * rows, axis=0)

    out = jnp.zeros(packed.targets.shape, jnp.float32)
    out = jax.lax.fori_loop(0, packed.num_chunks, chunk, out)[: len(targets)]
    return jnp.zeros_like(out).at[packed.order].set(out)


@partial(jax.custom_vjp, nondiff_argnames=("rows", "floor", "dtype"))
def total(
    readout: Readout,
    hidden: Array,
    targets: Array,
    mask: Array,
    rows: int,
    floor: float = 0.0,
    dtype: DType | None = None,
) -> Array:
    """What is minimized: the sum of -log(p + floor) over the real words, (); arguments as `nats`.

    Its gradient reaches the readout and the hidden states, in reverse mode.
    """
    lost = nats(readout, hidden, targets, mask, rows=rows, dtype=dtype)
    return jnp.sum(_with_floor(lost, floor)[0] * mask)


def _forward(
    readout: Readout,
    hidden: Array,
    targets: Array,
    mask: Array,
    rows: int,
    floor: float,
    dtype: DType | None,
) -> tuple[Array, tuple]:
    packed = _pack(hidden, targets, mask, rows)

    def chunk(i: Array, carry: tuple) -> tuple:
        sum_, d_kernel, d_bias, d_hidden = carry
        h, targets, real = _chunk(packed, i, rows)
        logits = _logits(readout, h, dtype)
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        lost, slope = _with_floor(log_sum - _of_targets(logits, targets), floor)
        slope = jnp.where(real, slope, 0)[:, None]
        d_logits = slope * jnp.exp(logits - log_sum[:, None])
        d_logits = d_logits.at[jnp.arange(rows), targets].add(-slope[:, 0])
        kernel, h, d_logits = (_cast(x, dtype) for x in (readout.kernel, h, d_logits))
        d_h = _product(d_logits, kernel.T)
        return (
            sum_ + jnp.sum(jnp.where(real, lost, 0)),
            d_kernel + _product(h.T, d_logits),
            d_bias + jnp.sum(d_logits, axis=0, dtype=d_bias.dtype),
            jax.lax.dynamic_update_slice_in_dim(
                d_hidden, d_h.astype(d_hidden.dtype), i * rows, axis=0
            ),
        )

    start = (
        jnp.zeros((), jnp.float32),
        jnp.zeros(readout.kernel.shape, jnp.float32),
        jnp.zeros(readout.bias.shape, jnp.float32),
        jnp.zeros_like(packed.hidden),
    )
    sum_, d_kernel, d_bias, d_hidden = jax.lax.fori_loop(0, packed.num_chunks, chunk, start)
    d_hidden = d_hidden[: len(targets)]
    d_hidden = jnp.zeros_like(d_hidden).at[packed.order].set(d_hidden)
    d_kernel, d_bias = d_kernel.astype(readout.kernel.dtype), d_bias.astype(readout.bias.dtype)
    return sum_, (Readout(d_kernel, d_bias), d_hidden)


def _backward(rows: int, floor: float, dtype: DType | None, gradients: tuple, d: Array) -> tuple:
    d_readout, d_hidden = jax.tree.map(lambda leaf: (leaf * d).astype(leaf.dtype), gradients)
    return d_readout, d_hidden, None, None


total.defvjp(_forward, _backward)


def _with_floor(lost: Array, floor: float) -> tuple[Array, Array]:
    """-log(p + floor) of -log p, and its derivative."""
    if floor == 0:
        return lost, jnp.ones_like(lost)
    p = jnp.exp(-lost)
    return -jnp.log(p + floor), p / (p + floor)


def _pack(hidden: Array, targets: Array, mask: Array, rows: int) -> _Packed:
    order = jnp.argsort(~mask, stable=True)
    extra = -len(targets) % rows
    hidden = jnp.where(mask[:, None], hidden, 0)[order]
    count = jnp.sum(mask, dtype=jnp.int32)
    return _Packed(
        hidden=jnp.pad(hidden, ((0, extra), (0, 0))),
        targets=jnp.pad(jnp.where(mask, targets, 0)[order], (0, extra)),
        real=jnp.arange(len(targets) + extra) < count,
        order=order,
        num_chunks=(count + rows - 1) // rows,
    )


def _chunk(packed: _Packed, i: Array, rows: int) -> tuple[Array, Array, Array]:
    at = i * rows
    return (
        jax.lax.dynamic_slice_in_dim(packed.hidden, at, rows),
        jax.lax.dynamic_slice_in_dim(packed.targets, at, rows),
        jax.lax.dynamic_slice_in_dim(packed.real, at, rows),
    )


def _logits(readout: Readout, hidden: Array, dtype: DType | None) -> Array:
    products = _product(_cast(hidden, dtype), _cast(readout.kernel, dtype))
    return products + readout.bias.astype(products.dtype)[None, :]


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _cast(x: Array, dtype: DType | None) -> Array:
    return x if dtype is None else x.astype(dtype)


def _of_targets(logits: Array, targets: Array) -> Array:
    return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]

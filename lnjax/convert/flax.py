r"""Flax: `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` and `SimpleCell` of flax.linen and of flax.nnx.

From Linen the tree of one cell's parameters: ``variables["params"]`` of the cell, or
``variables["params"]["cell"]`` of a `flax.linen.RNN` over it. From NNX the same as a pure dict:
``nnx.to_pure_dict(nnx.state(cell, nnx.Param))``. Both go out as nested dicts of NumPy arrays; into
NNX by ``nnx.replace_by_pure_dict(state, tree); nnx.update(cell, state)``.

======================  =====================================================================
cell                    tree
======================  =====================================================================
linen LSTMCell, and     ii, if, ig, io: kernel (D, H);
OptimizedLSTMCell       hi, hf, hg, ho: kernel (H, H), bias (H,)
nnx LSTMCell            the same, with "if_" for "if"
nnx OptimizedLSTMCell   dense_i: kernel (D, 4H); dense_h: kernel (H, 4H), bias (4H,)
linen GRUCell           ir, iz, in: kernel (D, H), bias (H,);
                        hr, hz: kernel (H, H); hn: kernel (H, H), bias (H,)
nnx GRUCell             dense_i: kernel (D, 3H), bias (3H,); dense_h: kernel (H, 3H)
linen SimpleCell        i: kernel (D, H), bias (H,); h: kernel (H, H)
nnx SimpleCell          dense_i: kernel (D, H), bias (H,); dense_h: kernel (H, H)
======================  =====================================================================

All become cells with ``norm=None``. The GRU's z keeps the old h where it is 1, and is turned. The
GRU of NNX has no bias on the recurrent candidate: an lnjax GRU whose `bias_h` is not zero is
refused there.

`gate_fn`, and an `activation_fn` other than tanh, are not in the tree: the gated cells of lnjax
have no other, a `SimpleCell` takes one. ``SimpleCell(residual=True)`` adds h to the summed inputs:
add the identity to the recurrent kernel that comes out.

>>> import jax, jax.numpy as jnp
>>> from flax import linen as nn
>>> theirs, x = nn.GRUCell(features=4), jnp.ones((2, 3))
>>> carry = theirs.initialize_carry(jax.random.key(0), x.shape)
>>> variables = theirs.init(jax.random.key(1), carry, x)
>>> converted = from_linen_gru(variables["params"])
>>> _, y = converted.cell.apply(converted.variables, carry, x)
>>> bool(jnp.allclose(y, theirs.apply(variables, carry, x)[1], atol=1e-6))
True
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lnjax.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, SimpleCell, SimpleParams
from lnjax.convert.base import (
    Converted,
    Shape,
    check_cell,
    check_mapping,
    converted,
    no_bias_h,
    read,
    stacked,
    turn,
)


def from_linen_lstm(params: Mapping[str, Any]) -> Converted:
    """A Linen `LSTMCell` or `OptimizedLSTMCell`, as an `LSTMCell` with ``norm=None``.

    Raises:
      ValueError: names or shapes are not those of these cells.
    """
    return _from_blocks("from_linen_lstm", params, "if")


def to_linen_lstm(cell: LSTMCell, params: LSTMParams) -> dict[str, Any]:
    """The tree of a Linen `LSTMCell` or `OptimizedLSTMCell`.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    return _to_blocks(check_cell("to_linen_lstm", "Flax's LSTM", cell, params, LSTMCell), "if")


def from_nnx_lstm(params: Mapping[str, Any]) -> Converted:
    """An NNX `LSTMCell` or `OptimizedLSTMCell`, as an `LSTMCell` with ``norm=None``.

    Raises:
      ValueError: names or shapes are those of neither.
    """
    check_mapping("from_nnx_lstm", params)
    if "dense_i" not in params:
        return _from_blocks("from_nnx_lstm", params, "if_")
    shapes: dict[str, Shape] = {
        "dense_h/kernel": ("H", "4H"),
        "dense_h/bias": ("4H",),
        "dense_i/kernel": ("D", "4H"),
    }
    p = read("from_nnx_lstm", _flat("from_nnx_lstm", params), shapes)
    own = LSTMParams(p["dense_i/kernel"], p["dense_h/kernel"], p["dense_h/bias"])
    return converted(LSTMCell, own, norm=None)


def to_nnx_lstm(cell: LSTMCell, params: LSTMParams, *, optimized: bool = False) -> dict[str, Any]:
    """The tree of an NNX `LSTMCell`, or of an `OptimizedLSTMCell`.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    p = check_cell("to_nnx_lstm", "Flax's LSTM", cell, params, LSTMCell)
    if not optimized:
        return _to_blocks(p, "if_")
    return {
        "dense_i": {"kernel": p.kernel},
        "dense_h": {"kernel": p.recurrent_kernel, "bias": p.bias},
    }


def from_linen_gru(params: Mapping[str, Any]) -> Converted:
    """A Linen `GRUCell`, as a `GRUCell` with ``norm=None``.

    Raises:
      ValueError: names or shapes are not those of that cell.
    """
    shapes: dict[str, Shape] = {f"h{gate}/kernel": ("H", "H") for gate in "rzn"}
    shapes |= {f"i{gate}/kernel": ("D", "H") for gate in "rzn"}
    shapes |= {f"i{gate}/bias": ("H",) for gate in "rzn"}
    p = read("from_linen_gru", _flat("from_linen_gru", params), {**shapes, "hn/bias": ("H",)})
    own = GRUParams(
        kernel=turn(_joined(p, "ir", "iz", "in")),
        recurrent_kernel=turn(_joined(p, "hr", "hz", "hn")),
        bias=turn(_joined(p, "ir", "iz", "in", leaf="bias")),
        bias_h=p["hn/bias"],
    )
    return converted(GRUCell, own, norm=None)


def to_linen_gru(cell: GRUCell, params: GRUParams) -> dict[str, Any]:
    """The tree of a Linen `GRUCell`.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    p = check_cell("to_linen_gru", "Flax's GRU", cell, params, GRUCell)
    tree = _split(("ir", "iz", "in"), kernel=turn(p.kernel), bias=turn(p.bias))
    tree |= _split(("hr", "hz", "hn"), kernel=turn(p.recurrent_kernel))
    tree["hn"]["bias"] = p.bias_h
    return tree


def from_nnx_gru(params: Mapping[str, Any]) -> Converted:
    """An NNX `GRUCell`, as a `GRUCell` with ``norm=None`` and a `bias_h` of zero.

    Raises:
      ValueError: names or shapes are not those of that cell.
    """
    kernel, recurrent_kernel, bias = _dense("from_nnx_gru", params, 3)
    bias_h = np.zeros_like(recurrent_kernel[:, 0])
    own = GRUParams(turn(kernel), turn(recurrent_kernel), turn(bias), bias_h)
    return converted(GRUCell, own, norm=None)


def to_nnx_gru(cell: GRUCell, params: GRUParams) -> dict[str, Any]:
    """The tree of an NNX `GRUCell`.

    Raises:
      ValueError: the cell has a norm, `bias_h` is not zero, or the parameters are not its own.
    """
    p = check_cell("to_nnx_gru", "Flax's GRU", cell, params, GRUCell)
    no_bias_h("to_nnx_gru", "flax.nnx.GRUCell", p)
    return {
        "dense_i": {"kernel": turn(p.kernel), "bias": turn(p.bias)},
        "dense_h": {"kernel": turn(p.recurrent_kernel)},
    }


def from_linen_simple(
    params: Mapping[str, Any], *, activation: Callable[..., Any] = jnp.tanh
) -> Converted:
    """A Linen `SimpleCell`, as a `SimpleCell` with ``norm=None`` and this activation.

    Raises:
      ValueError: names or shapes are not those of that cell.
    """
    own = SimpleParams(*_dense("from_linen_simple", params, 1, prefix=""))
    return converted(SimpleCell, own, norm=None, activation=activation)


def to_linen_simple(
    cell: SimpleCell, params: SimpleParams, *, activation: Callable[..., Any] = jnp.tanh
) -> dict[str, Any]:
    """The tree of a Linen `SimpleCell` that has this `activation_fn`, as the cell must.

    Raises:
      ValueError: the cell has a norm or another activation, or the parameters are not its own.
    """
    return _to_simple("to_linen_simple", cell, params, activation, prefix="")


def from_nnx_simple(
    params: Mapping[str, Any], *, activation: Callable[..., Any] = jnp.tanh
) -> Converted:
    """An NNX `SimpleCell`, as a `SimpleCell` with ``norm=None`` and this activation.

    Raises:
      ValueError: names or shapes are not those of that cell.
    """
    own = SimpleParams(*_dense("from_nnx_simple", params, 1))
    return converted(SimpleCell, own, norm=None, activation=activation)


def to_nnx_simple(
    cell: SimpleCell, params: SimpleParams, *, activation: Callable[..., Any] = jnp.tanh
) -> dict[str, Any]:
    """The tree of an NNX `SimpleCell` that has this `activation_fn`, as the cell must.

    Raises:
      ValueError: the cell has a norm or another activation, or the parameters are not its own.
    """
    return _to_simple("to_nnx_simple", cell, params, activation, prefix="dense_")


def _flat(function: str, tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{"hn": {"bias": b}} as {"hn/bias": b}; leaves that are None are left out."""
    check_mapping(function, tree)
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(function, value, f"{path}{name}/")
        elif value is not None:  # NNX keeps a place for a bias that is not there
            flat[f"{path}{name}"] = value
    return flat


def _joined(p: Mapping[str, Any], *layers: str, leaf: str = "kernel") -> Any:
    return np.concatenate([p[f"{layer}/{leaf}"] for layer in layers], axis=-1)


def _split(layers: tuple[str, ...], **stacked: np.ndarray) -> dict[str, dict[str, Any]]:
    """Cuts stacked arrays into one block for each layer: {layer: {name: block}}."""
    blocks = {name: np.split(array, len(layers), axis=-1) for name, array in stacked.items()}
    return {
        layer: {name: np.ascontiguousarray(block[i]) for name, block in blocks.items()}
        for i, layer in enumerate(layers)
    }


def _from_blocks(function: str, tree: Mapping[str, Any], forget: str) -> Converted:
    inputs, hiddens = ("ii", forget, "ig", "io"), ("hi", "hf", "hg", "ho")
    shapes: dict[str, Shape] = {f"{layer}/kernel": ("H", "H") for layer in hiddens}
    shapes |= {f"{layer}/bias": ("H",) for layer in hiddens}
    shapes |= {f"{layer}/kernel": ("D", "H") for layer in inputs}
    p = read(function, _flat(function, tree), shapes)
    own = LSTMParams(
        kernel=_joined(p, *inputs),
        recurrent_kernel=_joined(p, *hiddens),
        bias=_joined(p, *hiddens, leaf="bias"),
    )
    return converted(LSTMCell, own, norm=None)


def _to_blocks(p: LSTMParams, forget: str) -> dict[str, Any]:
    tree = _split(("ii", forget, "ig", "io"), kernel=np.asarray(p.kernel))
    hidden = {"kernel": np.asarray(p.recurrent_kernel), "bias": np.asarray(p.bias)}
    return tree | _split(("hi", "hf", "hg", "ho"), **hidden)


def _dense(
    function: str, tree: Mapping[str, Any], gates: int, prefix: str = "dense_"
) -> tuple[Any, Any, Any]:
    """Kernel, recurrent kernel and bias of a cell that has one layer i and one layer h."""
    names = f"{prefix}i/kernel", f"{prefix}h/kernel", f"{prefix}i/bias"
    width = stacked(gates)
    shapes: dict[str, Shape] = {names[1]: ("H", width), names[0]: ("D", width), names[2]: (width,)}
    p = read(function, _flat(function, tree), shapes)
    return p[names[0]], p[names[1]], p[names[2]]


def _to_simple(
    function: str, cell: SimpleCell, params: SimpleParams, activation: Any, prefix: str
) -> dict[str, Any]:
    target = "Flax's SimpleCell"
    p = check_cell(function, target, cell, params, SimpleCell, activation=activation)
    return {
        f"{prefix}i": {"kernel": p.kernel, "bias": p.bias},
        f"{prefix}h": {"kernel": p.recurrent_kernel},
    }

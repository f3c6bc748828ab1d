r"""haste (lmnt-com/haste): `LSTM`, `GRU` and `LayerNormLSTM` of haste_pytorch.

A ``state_dict`` comes in (of the layer alone: its tensors, or arrays of the same names), and a dict
of NumPy arrays goes out. haste is not imported.

==============  =======================================================================  ==========
layer           names and shapes                                                         gates
==============  =======================================================================  ==========
LSTM            kernel (D, 4H), recurrent_kernel (H, 4H), bias (4H,)                     i, g, f, o
LayerNormLSTM   those, and gamma (2, 4H), of the input side and of the recurrent one;    i, g, f, o
                gamma_h (H,) and beta_h (H,), of the cell
GRU             kernel (D, 3H), recurrent_kernel (H, 3H), bias (3H,),                    z, r, h
                recurrent_bias (3H,)
==============  =======================================================================  ==========

`LayerNormLSTM` is the paper's function with an epsilon of 1e-5: the betas of its two projections
are in its bias. The GRU's z keeps the old h where it is 1, and is turned.

`LayerNormGRU` is refused in both directions: it has one norm over all 3H summed inputs of a
projection, lnjax (as the paper) one over the 2H of the gates and another over the H of the
candidate, so that the statistics differ and no weights make them equal.

Zoneout and DropConnect are no weights; a layer that was trained with zoneout holds a share of the
old h at inference too, which is `lnjax.cells.Zoneout` around the cell.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> shapes = {"kernel": (3, 8), "recurrent_kernel": (2, 8), "bias": 8}
>>> shapes |= {"gamma": (2, 8), "gamma_h": 2, "beta_h": 2}
>>> state = {name: rng.normal(size=shape) for name, shape in shapes.items()}
>>> cell, params = from_haste_layer_norm_lstm(state)
>>> back = to_haste_layer_norm_lstm(cell, params)
>>> all((back[name] == state[name]).all() for name in state)
True
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lnjax.cells import GRUCell, GRUParams, LSTMCell, LSTMParams
from lnjax.cells.lstm import SITES
from lnjax.convert.base import (
    Converted,
    Shape,
    check_cell,
    check_mapping,
    converted,
    read,
    reorder,
    turn,
)

EPSILON = 1e-5  # of F.layer_norm, which its CPU path calls, and of its kernels

LSTM: dict[str, Shape] = {
    "recurrent_kernel": ("H", "4H"),
    "kernel": ("D", "4H"),
    "bias": ("4H",),
}
LAYER_NORM_LSTM: dict[str, Shape] = {
    **LSTM,
    "gamma": (2, "4H"),
    "gamma_h": ("H",),
    "beta_h": ("H",),
}
GRU: dict[str, Shape] = {
    "recurrent_kernel": ("H", "3H"),
    "kernel": ("D", "3H"),
    "bias": ("3H",),
    "recurrent_bias": ("3H",),
}
ONE_NORM = (
    "haste's LayerNormGRU has one norm over all 3H summed inputs, lnjax one over the 2H of the "
    "gates and another over the H of the candidate; the statistics differ, and no weights make "
    "them equal"
)


def from_haste_lstm(state: Mapping[str, Any]) -> Converted:
    """haste's `LSTM`, as an `LSTMCell` with ``norm=None``.

    Raises:
      ValueError: names or shapes are not those of that layer.
    """
    check_mapping("from_haste_lstm", state)
    if "gamma" in state:
        raise ValueError(
            "from_haste_lstm: gamma is the gain of a norm, so that this is a LayerNormLSTM; use "
            "from_haste_layer_norm_lstm"
        )
    p = read("from_haste_lstm", state, LSTM)
    return converted(LSTMCell, LSTMParams(**_ordered(p, "igfo", "ifgo")), norm=None)


def to_haste_lstm(cell: LSTMCell, params: LSTMParams) -> dict[str, np.ndarray]:
    """The state of haste's `LSTM`.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    hint = "With the paper's norms there is to_haste_layer_norm_lstm"
    p = check_cell("to_haste_lstm", "haste's LSTM", cell, params, LSTMCell, hint=hint)
    return _ordered({name: getattr(p, name) for name in LSTM}, "ifgo", "igfo")


def from_haste_layer_norm_lstm(state: Mapping[str, Any]) -> Converted:
    """haste's `LayerNormLSTM`, as an `LSTMCell` with the paper's three norms.

    Raises:
      ValueError: names or shapes are not those of that layer.
    """
    p = read("from_haste_layer_norm_lstm", state, LAYER_NORM_LSTM)
    scale_x, scale_h = reorder(p["gamma"], "igfo", "ifgo")
    params = LSTMParams(
        **_ordered({name: p[name] for name in LSTM}, "igfo", "ifgo"),
        scale_x=scale_x,
        scale_h=scale_h,
        scale_c=p["gamma_h"],
        bias_c=p["beta_h"],
    )
    return converted(LSTMCell, params, norm="layer", sites=SITES, epsilon=EPSILON)


def to_haste_layer_norm_lstm(cell: LSTMCell, params: LSTMParams) -> dict[str, np.ndarray]:
    """The state of haste's `LayerNormLSTM`.

    Raises:
      ValueError: the cell's norm, sites or epsilon are others, or the parameters are not its own.
    """
    p = check_cell(
        "to_haste_layer_norm_lstm",
        "haste's LayerNormLSTM",
        cell,
        params,
        LSTMCell,
        sites=SITES,
        epsilon=EPSILON,
    )
    gates = {name: getattr(p, name) for name in LSTM}
    gates["gamma"] = np.stack([p.scale_x, p.scale_h])
    return {**_ordered(gates, "ifgo", "igfo"), "gamma_h": p.scale_c, "beta_h": p.bias_c}


def from_haste_gru(state: Mapping[str, Any]) -> Converted:
    """haste's `GRU`, as a `GRUCell` with ``norm=None``.

    Raises:
      ValueError: names or shapes are not those of that layer, or it is a `LayerNormGRU`.
    """
    check_mapping("from_haste_gru", state)
    if "gamma" in state:
        raise ValueError(f"from_haste_gru: {ONE_NORM}")
    p = _ordered(read("from_haste_gru", state, GRU), "zrn", "rzn")
    gates = 2 * len(p["recurrent_kernel"])
    x, h = p["bias"], p["recurrent_bias"]
    params = GRUParams(
        kernel=turn(p["kernel"]),
        recurrent_kernel=turn(p["recurrent_kernel"]),
        bias=turn(np.concatenate([(x + h)[:gates], x[gates:]])),
        bias_h=h[gates:].copy(),
    )
    return converted(GRUCell, params, norm=None)


def to_haste_gru(cell: GRUCell, params: GRUParams) -> dict[str, np.ndarray]:
    """The state of haste's `GRU`; its recurrent_bias is zero but for the candidate's.

    Raises:
      ValueError: the cell has a norm (see the head of this module), or the parameters are not its
        own.
    """
    p = check_cell("to_haste_gru", "haste's GRU", cell, params, GRUCell, hint=ONE_NORM)
    bias_h = np.concatenate([np.zeros_like(p.bias_h, shape=2 * len(p.bias_h)), p.bias_h])
    arrays = {"kernel": turn(p.kernel), "recurrent_kernel": turn(p.recurrent_kernel)}
    arrays |= {"bias": turn(p.bias), "recurrent_bias": bias_h}
    return _ordered(arrays, "rzn", "zrn")


def _ordered(arrays: Mapping[str, Any], source: str, target: str) -> dict[str, Any]:
    return {name: reorder(array, source, target) for name, array in arrays.items()}

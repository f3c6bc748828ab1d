r"""The authors' Theano layers: lstm, lnlstm, gru and lngru of ryankiros/layer-norm, layers.py.

Their checkpoints are one ``.npz`` for a whole model, where each name is a layer's prefix, "_", and:

========  =======================================================================================
layer     names and shapes
========  =======================================================================================
lstm      W (D, 4H), U (H, 4H), b (4H)
lnlstm    those, and LN (b1, s1) of the input side (4H), (b2, s2) of the recurrent one (4H),
          (b3, s3) of the cell (H)
gru       W (D, 2H), U (H, 2H), b (2H), Wx (D, H), Ux (H, H), bx (H)
lngru     those, and LN (b1, s1) of the gates' input side (2H), (b2, s2) of the candidate's (H),
          (b3, s3) of the gates' recurrent side (2H), (b4, s4) of the candidate's (H)
========  =======================================================================================

Gates lie in the order i, f, o, g (of the GRU r, u), epsilon is 1e-5, and

.. math::
    \mathtt{lstm}:&\quad h U + (x W + b) + b \\
    \mathtt{lnlstm}:&\quad \mathrm{LN}(h U) s_2 + b_2 + \mathrm{LN}(x W + b) s_1 + b_1 + b \\
    \mathtt{lngru}:&\quad (r, u) = \mathrm{LN}(h U) s_3 + b_3 + \mathrm{LN}(x W + b) s_1 + b_1 \\
        &\quad n = \tanh(\mathrm{LN}(x W_x + b_x) s_2 + b_2
            + \sigma(r) (\mathrm{LN}(h U_x) s_4 + b_4)) \\
        &\quad h' = \sigma(u) h + (1 - \sigma(u)) n

so that the LSTM's b enters twice, and the GRU's u is the 1 - z of the paper and of `lnjax.GRUCell`.

**The bias inside of the norm.** b (and bx) stand inside an LN, and `lnjax` has no bias there. If
all entries within one norm are equal, as they are at the start of training, the norm removes them
and the layer converts as it is. A trained b changes the statistics, by itself and by its
correlation with x W: no gain, bias or kernel over the same inputs does that. With
``bias_as_input=True`` the conversion is exact all the same: b becomes a last row of the kernel, and
the converted cell takes inputs of width D + 1, of which the last is 1::

    xs = np.concatenate([xs, np.ones((*xs.shape[:-1], 1), xs.dtype)], axis=-1)

The learned initial state ``h0`` of an LSTM is no weight of a cell, and is refused: take it out of
the mapping and give the carry ``(zeros, h0)``.

>>> import jax, numpy as np
>>> rng = np.random.default_rng(0)
>>> file = {"enc_W": rng.normal(size=(3, 8)), "enc_U": rng.normal(size=(2, 8))}
>>> file |= {"enc_b": np.zeros(8)}
>>> file |= {f"enc_{name}": rng.normal(size=8) for name in ("b1", "s1", "b2", "s2")}
>>> file |= {f"enc_{name}": rng.normal(size=2) for name in ("b3", "s3")}
>>> cell, params = from_theano_lnlstm(file, "enc")  # or np.load("model.npz")
>>> carry = cell.initialize_carry(jax.random.key(0), (5, 3))
>>> carry, y = cell.step(params, carry, np.ones((5, 3), np.float32))
>>> y.shape, sorted(to_theano_lnlstm(cell, params, "enc")) == sorted(file)
((5, 2), True)
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lnjax.cells import GRUCell, GRUParams, LSTMCell, LSTMParams
from lnjax.cells.lstm import SITES
from lnjax.convert.base import (
    Converted,
    Shape,
    Weight,
    check_cell,
    check_mapping,
    converted,
    no_bias_h,
    read,
    reorder,
    turn,
)

EPSILON = 1e-5

LSTM: dict[str, Shape] = {"U": ("H", "4H"), "W": ("D", "4H"), "b": ("4H",)}
LNLSTM: dict[str, Shape] = {
    **LSTM,
    **dict.fromkeys(("b1", "s1", "b2", "s2"), ("4H",)),
    **dict.fromkeys(("b3", "s3"), ("H",)),
}
GRU: dict[str, Shape] = {
    "Ux": ("H", "H"),
    "Wx": ("D", "H"),
    "bx": ("H",),
    "U": ("H", "2H"),
    "W": ("D", "2H"),
    "b": ("2H",),
}
LNGRU: dict[str, Shape] = {
    **GRU,
    **dict.fromkeys(("b1", "s1", "b3", "s3"), ("2H",)),
    **dict.fromkeys(("b2", "s2", "b4", "s4"), ("H",)),
}


def from_theano_lstm(arrays: Mapping[str, Any], prefix: str = "lstm") -> Converted:
    """An `lstm`, as an `LSTMCell` with ``norm=None``; its b counts twice, as it does there.

    Args:
      arrays: the opened ``.npz``, or any mapping; names of other layers may stand in it.
      prefix: of the layer.

    Raises:
      ValueError: a name is missing, a shape is wrong, or the layer is an lnlstm or has an h0.
    """
    p = _read("from_theano_lstm", arrays, prefix, LSTM)
    params = LSTMParams(
        kernel=reorder(p["W"], "ifog", "ifgo"),
        recurrent_kernel=reorder(p["U"], "ifog", "ifgo"),
        bias=reorder(p["b"] + p["b"], "ifog", "ifgo"),
    )
    return converted(LSTMCell, params, norm=None)


def to_theano_lstm(cell: LSTMCell, params: LSTMParams, prefix: str = "lstm") -> dict[str, Any]:
    """The arrays of an `lstm`, named with `prefix`: b is half of the bias, since it counts twice.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    name = "to_theano_lstm"
    hint = "For the paper's norms there is to_theano_lnlstm"
    p = check_cell(name, "the authors' lstm", cell, params, LSTMCell, hint=hint)
    arrays = {
        "W": reorder(p.kernel, "ifgo", "ifog"),
        "U": reorder(p.recurrent_kernel, "ifgo", "ifog"),
        "b": reorder(p.bias / 2, "ifgo", "ifog"),
    }
    return _named(prefix, arrays)


def from_theano_lnlstm(
    arrays: Mapping[str, Any], prefix: str = "lnlstm", *, bias_as_input: bool = False
) -> Converted:
    """An `lnlstm`, as an `LSTMCell` with the paper's three norms.

    Args:
      arrays: the opened ``.npz``, or any mapping; names of other layers may stand in it.
      prefix: of the layer.
      bias_as_input: makes b a last row of the kernel; the cell then takes inputs with a 1 appended.

    Raises:
      ValueError: a name is missing, a shape is wrong, there is an h0, or b is not constant and
        `bias_as_input` is False: see the head of this module.
    """
    p = _read("from_theano_lnlstm", arrays, prefix, LNLSTM)
    kernel = _kernel("from_theano_lnlstm", prefix, bias_as_input, p["W"], b=p["b"])
    gates = {
        "kernel": kernel,
        "recurrent_kernel": p["U"],
        "bias": p["b"] + p["b1"] + p["b2"],
        "scale_x": p["s1"],
        "scale_h": p["s2"],
    }
    ordered: dict[str, Any] = {key: reorder(a, "ifog", "ifgo") for key, a in gates.items()}
    params = LSTMParams(**ordered, scale_c=p["s3"], bias_c=p["b3"])
    return converted(LSTMCell, params, norm="layer", sites=SITES, epsilon=EPSILON)


def to_theano_lnlstm(
    cell: LSTMCell, params: LSTMParams, prefix: str = "lnlstm", *, bias_as_input: bool = False
) -> dict[str, Any]:
    """The arrays of an `lnlstm`, named with `prefix`.

    The bias becomes b1; b and b2 are zero. With `bias_as_input` the last row of the kernel, whose
    input is always 1, becomes b, and b1 is what remains of the bias.

    Raises:
      ValueError: the cell's norm, sites or epsilon are others, or the parameters are not its own.
    """
    p = check_cell(
        "to_theano_lnlstm",
        "the authors' lnlstm",
        cell,
        params,
        LSTMCell,
        sites=SITES,
        epsilon=EPSILON,
        hint="A cell without norm goes to to_theano_lstm",
    )
    p = LSTMParams(*(reorder(a, "ifgo", "ifog") for a in p[:5]), scale_c=p.scale_c, bias_c=p.bias_c)
    W, b = _split_row("to_theano_lnlstm", p.kernel, bias_as_input)
    arrays = {
        "W": W,
        "U": p.recurrent_kernel,
        "b": b,
        "b1": p.bias - b,
        "s1": p.scale_x,
        "b2": np.zeros_like(p.bias),
        "s2": p.scale_h,
        "b3": p.bias_c,
        "s3": p.scale_c,
    }
    return _named(prefix, arrays)


def from_theano_gru(arrays: Mapping[str, Any], prefix: str = "gru") -> Converted:
    """A `gru`, as a `GRUCell` with ``norm=None``.

    Args:
      arrays: the opened ``.npz``, or any mapping; names of other layers may stand in it.
      prefix: of the layer.

    Raises:
      ValueError: a name is missing, a shape is wrong, or the layer is an lngru.
    """
    p = _read("from_theano_gru", arrays, prefix, GRU)
    params = GRUParams(
        kernel=turn(_join(p["W"], p["Wx"])),
        recurrent_kernel=turn(_join(p["U"], p["Ux"])),
        bias=turn(_join(p["b"], p["bx"])),
        bias_h=np.zeros_like(p["bx"]),
    )
    return converted(GRUCell, params, norm=None)


def to_theano_gru(cell: GRUCell, params: GRUParams, prefix: str = "gru") -> dict[str, Any]:
    """The arrays of a `gru`, named with `prefix`.

    Raises:
      ValueError: the cell has a norm, its bias_h is not zero (there is none in a `gru`), or the
        parameters are not its own.
    """
    name, target = "to_theano_gru", "the authors' gru"
    hint = "For the paper's norms there is to_theano_lngru"
    p = check_cell(name, target, cell, params, GRUCell, hint=hint)
    no_bias_h(name, target, p)
    (W, Wx), (U, Ux), (b, bx) = (_cut(turn(a)) for a in (p.kernel, p.recurrent_kernel, p.bias))
    return _named(prefix, {"W": W, "Wx": Wx, "U": U, "Ux": Ux, "b": b, "bx": bx})


def from_theano_lngru(
    arrays: Mapping[str, Any], prefix: str = "lngru", *, bias_as_input: bool = False
) -> Converted:
    """An `lngru`, as a `GRUCell` with the paper's four norms.

    Args:
      arrays: the opened ``.npz``, or any mapping; names of other layers may stand in it.
      prefix: of the layer.
      bias_as_input: makes b and bx a last row of the kernel; the cell then takes inputs with a 1
        appended.

    Raises:
      ValueError: a name is missing, a shape is wrong, or b or bx is not constant and
        `bias_as_input` is False: see the head of this module.
    """
    p = _read("from_theano_lngru", arrays, prefix, LNGRU)
    kernel = _join(p["W"], p["Wx"])
    # r and u share a norm, so that u's sign is turned behind it: in gains and biases.
    params = GRUParams(
        kernel=_kernel("from_theano_lngru", prefix, bias_as_input, kernel, b=p["b"], bx=p["bx"]),
        recurrent_kernel=_join(p["U"], p["Ux"]),
        bias=turn(_join(p["b1"] + p["b3"], p["b2"])),
        bias_h=p["b4"],
        scale_x=turn(_join(p["s1"], p["s2"])),
        scale_h=turn(_join(p["s3"], p["s4"])),
    )
    return converted(GRUCell, params, norm="layer", epsilon=EPSILON)


def to_theano_lngru(
    cell: GRUCell, params: GRUParams, prefix: str = "lngru", *, bias_as_input: bool = False
) -> dict[str, Any]:
    """The arrays of an `lngru`, named with `prefix`.

    The bias becomes b1 and b2; b3 is zero. b and bx are zero, or with `bias_as_input` the last row
    of the kernel, whose input is always 1. Another epsilon than 1e-5 goes into the kernels.

    Raises:
      ValueError: the cell's norm is another, its epsilon is 0, or the parameters are not its own.
    """
    p = check_cell(
        "to_theano_lngru",
        "the authors' lngru",
        cell,
        params,
        GRUCell,
        sites=SITES,
        hint="A cell without norm goes to to_theano_gru",
    )
    if cell.epsilon <= 0:
        raise ValueError(
            f"to_theano_lngru: the cell has epsilon={cell.epsilon!r}; the authors' lngru has 1e-5, "
            "and only a positive one can be turned into it by scaling the kernels"
        )
    if cell.epsilon != EPSILON:
        # LN of k a with epsilon k^2 e is LN of a with e. (The LSTM's norm of c allows no such k.)
        factor = math.sqrt(EPSILON / cell.epsilon)
        p = p._replace(kernel=p.kernel * factor, recurrent_kernel=p.recurrent_kernel * factor)
    kernel, row = _split_row("to_theano_lngru", p.kernel, bias_as_input)
    (W, Wx), (U, Ux), (b, bx) = (_cut(a) for a in (kernel, p.recurrent_kernel, row))
    (b1, b2), (s1, s2), (s3, s4) = (_cut(turn(a)) for a in (p.bias, p.scale_x, p.scale_h))
    arrays = {"W": W, "Wx": Wx, "U": U, "Ux": Ux, "b": b, "bx": bx}
    arrays |= {"b1": b1, "b2": b2, "b3": np.zeros_like(b1), "b4": p.bias_h}
    arrays |= {"s1": s1, "s2": s2, "s3": s3, "s4": s4}
    return _named(prefix, arrays)


def _read(
    function: str, arrays: Mapping[str, Any], prefix: str, shapes: Mapping[str, Shape]
) -> dict[str, Any]:
    """The arrays of one layer, by their names without prefix.

    Other layers of the file may have prefixes that begin with this one ("encoder", "encoder_r"), so
    that unknown names behind it are let be, but for those that would change this layer.
    """
    check_mapping(function, arrays)
    if f"{prefix}_h0" in arrays:
        raise ValueError(
            f"{function}: {prefix}_h0 is a learned initial state and no weight of a cell; take it "
            "out of the mapping and start the cell from the carry (zeros, h0)"
        )
    if "s1" not in shapes and f"{prefix}_s1" in arrays:
        raise ValueError(
            f"{function}: {prefix}_s1 is the gain of a norm, so that this layer is a normalized "
            f"one; use {function.replace('theano_', 'theano_ln')}"
        )
    names = {f"{prefix}_{name}": shape for name, shape in shapes.items()}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(
            f"{function}: found no {', '.join(missing)}; the names are "
            f"{', '.join(arrays) or 'none'}. A layer with the prefix {prefix!r} has "
            f"{', '.join(names)}: is it another prefix?"
        )
    p = read(function, {name: arrays[name] for name in names}, names)
    return {name: p[f"{prefix}_{name}"] for name in shapes}


def _named(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": np.ascontiguousarray(array) for name, array in arrays.items()}


def _join(gates: Weight, candidate: Weight) -> Weight:
    return np.concatenate([gates, candidate], axis=-1)


def _cut(stacked: np.ndarray) -> list[np.ndarray]:
    return np.split(stacked, [stacked.shape[-1] // 3 * 2], axis=-1)


def _kernel(
    function: str, prefix: str, bias_as_input: bool, kernel: Weight, **biases: Weight
) -> Weight:
    """The kernel, with the biases that stand inside of its norms as a last row if so asked."""
    if bias_as_input:
        return np.concatenate([kernel, np.concatenate(list(biases.values()))[None]], axis=0)
    for name, bias in biases.items():
        if np.any(bias != bias[0]):  # a constant is what the norm's mean takes away
            raise ValueError(
                f"{function}: {prefix}_{name} stands inside of the input's layer norm and is not "
                "constant, so that it changes the norm's statistics, which no weight of an lnjax "
                "cell over the same inputs does. With bias_as_input=True it becomes a row of the "
                "kernel, and the conversion is exact for inputs with a 1 appended"
            )
    return kernel


def _split_row(function: str, kernel: Weight, bias_as_input: bool) -> tuple[Weight, Weight]:
    """The inverse of `_kernel`: the kernel, and the biases inside of the norms or zeros."""
    if not bias_as_input:
        return kernel, np.zeros_like(kernel[0])
    if len(kernel) < 2:
        raise ValueError(
            f"{function}: with bias_as_input=True the last row of the kernel is the bias, and the "
            f"kernel has {len(kernel)} rows"
        )
    return kernel[:-1], kernel[-1]

r"""PyTorch: `nn.LSTM`, `nn.GRU`, `nn.RNN`, their cells, and `LayerNormLSTMCell` of custom_lstms.py.

A ``state_dict`` comes in (of the layer alone: its tensors, on any device, or arrays of the same
names), and a dict of NumPy arrays goes out, for
``module.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()})``. PyTorch itself
is not imported.

===================  ==============================  ==============================================
name                 shape (G = 4 LSTM, 3 GRU, 1)    order of gates
===================  ==============================  ==============================================
weight_ih_l{k}       (GH, D), or (GH, H) or (GH, 2H)  i, f, g, o; r, z, n
                     behind one or two directions
weight_hh_l{k}       (GH, H)
bias_ih_l{k}         (GH,); absent with bias=False
bias_hh_l{k}         (GH,); absent with bias=False
===================  ==============================  ==============================================

A backward direction has the same names with ``_reverse`` behind them, a cell has them without
``_l{k}``. The two biases are added, but for the GRU's candidate, whose second bias the reset gate
scales (`bias_h`). The GRU's z keeps the old h where it is 1; its sign is turned. What goes out has
both biases, the second of them zero where one says the same, so the module needs ``bias=True``.

Layers are a tuple of layers, each of which is a tuple of directions: ``((converted,),)`` for one
layer in one direction, ``((forward, backward), (forward, backward))`` for two in both. Dropout
between layers, and `batch_first`, are no weights. ``proj_size`` is refused: lnjax has no cell whose
h is a projection.

`LayerNormLSTMCell` (benchmarks/fastrnns/custom_lstms.py) has weight_ih (4H, D), weight_hh (4H, H)
and three norms, each with a weight and a bias: layernorm_i and layernorm_h (4H), layernorm_c (H):

.. math::
    (i, f, g, o) = \mathrm{LN}_i(W_{ih} x) + \mathrm{LN}_h(W_{hh} h), \quad
    c' = \mathrm{LN}_c(\sigma(f) c + \sigma(i) \tanh g), \quad h' = \sigma(o) \tanh c'

The normalized c is what it carries, so it becomes an `LSTMCell` with the site "carried_cell".
Stacks of it (`script_lnlstm`) convert cell by cell: ``stack.layers[0].cell.state_dict()``.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> state = {"weight_ih_l0": rng.normal(size=(8, 3)), "weight_hh_l0": rng.normal(size=(8, 2))}
>>> state |= {"bias_ih_l0": rng.normal(size=8), "bias_hh_l0": rng.normal(size=8)}
>>> ((forward,),) = from_torch_lstm(state)  # or nn.LSTM(3, 2).state_dict()
>>> forward.cell.features, forward.params.kernel.shape, sorted(to_torch_lstm(((forward,),)))
(2, (3, 8), ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0'])
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, SimpleCell, SimpleParams
from lnjax.convert.base import (
    Converted,
    Shape,
    check_cell,
    check_mapping,
    converted,
    read,
    stacked,
    turn,
)

Layers = tuple[tuple[Converted, ...], ...]  # [layer][direction]
Nonlinearity = Literal["tanh", "relu"]

ACTIVATIONS: dict[str, Callable[..., Any]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
CARRIED_SITES = ("recurrent", "input", "carried_cell")


def from_torch_lstm(state: Mapping[str, Any]) -> Layers:
    """An `nn.LSTM`, as `LSTMCell` with ``norm=None`` for each layer and direction.

    Raises:
      ValueError: names or shapes are not those of an `nn.LSTM`, or it has a `proj_size`.
    """
    return _from_layers("from_torch_lstm", state, 4, _lstm)


def from_torch_gru(state: Mapping[str, Any]) -> Layers:
    """An `nn.GRU`, as `GRUCell` with ``norm=None`` for each layer and direction.

    Raises:
      ValueError: names or shapes are not those of an `nn.GRU`.
    """
    return _from_layers("from_torch_gru", state, 3, _gru)


def from_torch_rnn(state: Mapping[str, Any], *, nonlinearity: Nonlinearity = "tanh") -> Layers:
    """An `nn.RNN`, as `SimpleCell` with ``norm=None`` for each layer and direction.

    Args:
      state: of the layer.
      nonlinearity: that of the `nn.RNN`, which its state does not tell.

    Raises:
      ValueError: names or shapes are not those of an `nn.RNN`.
    """
    activation = _activation("from_torch_rnn", nonlinearity)
    return _from_layers("from_torch_rnn", state, 1, lambda p: _rnn(p, activation))


def from_torch_lstm_cell(state: Mapping[str, Any]) -> Converted:
    """An `nn.LSTMCell`, as `LSTMCell` with ``norm=None``; raises as `from_torch_lstm` does."""
    return _lstm(_read("from_torch_lstm_cell", state, "", 4))


def from_torch_gru_cell(state: Mapping[str, Any]) -> Converted:
    """An `nn.GRUCell`, as `GRUCell` with ``norm=None``; raises as `from_torch_gru` does."""
    return _gru(_read("from_torch_gru_cell", state, "", 3))


def from_torch_rnn_cell(
    state: Mapping[str, Any], *, nonlinearity: Nonlinearity = "tanh"
) -> Converted:
    """An `nn.RNNCell`, as `SimpleCell` with ``norm=None``; see `from_torch_rnn`."""
    activation = _activation("from_torch_rnn_cell", nonlinearity)
    return _rnn(_read("from_torch_rnn_cell", state, "", 1), activation)


def to_torch_lstm(layers: Sequence[Sequence[tuple[Any, Any]]]) -> dict[str, np.ndarray]:
    """The state of an `nn.LSTM` from (cell, params) for each layer and direction.

    Raises:
      ValueError: a cell has a norm, its parameters are not its own, or layers do not fit together.
    """
    return _to_layers("to_torch_lstm", layers, to_torch_lstm_cell)


def to_torch_gru(layers: Sequence[Sequence[tuple[Any, Any]]]) -> dict[str, np.ndarray]:
    """The state of an `nn.GRU` from (cell, params) for each layer and direction.

    Raises:
      ValueError: a cell has a norm, its parameters are not its own, or layers do not fit together.
    """
    return _to_layers("to_torch_gru", layers, to_torch_gru_cell)


def to_torch_rnn(
    layers: Sequence[Sequence[tuple[Any, Any]]], *, nonlinearity: Nonlinearity = "tanh"
) -> dict[str, np.ndarray]:
    """The state of an `nn.RNN` from (cell, params) for each layer and direction.

    Args:
      layers: see the head of this module.
      nonlinearity: of the `nn.RNN`, which must be the activation of the cells.

    Raises:
      ValueError: a cell has a norm or another activation, its parameters are not its own, or layers
        do not fit together.
    """

    def to_cell(cell: SimpleCell, params: SimpleParams) -> dict[str, np.ndarray]:
        return to_torch_rnn_cell(cell, params, nonlinearity=nonlinearity)

    return _to_layers("to_torch_rnn", layers, to_cell)


def to_torch_lstm_cell(cell: LSTMCell, params: LSTMParams) -> dict[str, np.ndarray]:
    """The state of an `nn.LSTMCell`; its bias_hh is zero.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    hint = "To carry the normalized c there is to_torch_layer_norm_lstm_cell"
    p = check_cell("to_torch_lstm_cell", "PyTorch's LSTM", cell, params, LSTMCell, hint=hint)
    return _state(p.kernel, p.recurrent_kernel, p.bias, np.zeros_like(p.bias))


def to_torch_gru_cell(cell: GRUCell, params: GRUParams) -> dict[str, np.ndarray]:
    """The state of an `nn.GRUCell`; its bias_hh is zero but for the candidate's.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    p = check_cell("to_torch_gru_cell", "PyTorch's GRU", cell, params, GRUCell)
    bias_hh = np.concatenate([np.zeros_like(p.bias_h, shape=2 * len(p.bias_h)), p.bias_h])
    return _state(turn(p.kernel), turn(p.recurrent_kernel), turn(p.bias), bias_hh)


def to_torch_rnn_cell(
    cell: SimpleCell, params: SimpleParams, *, nonlinearity: Nonlinearity = "tanh"
) -> dict[str, np.ndarray]:
    """The state of an `nn.RNNCell` with this nonlinearity; its bias_hh is zero.

    Raises:
      ValueError: the cell has a norm or another activation, or the parameters are not its own.
    """
    name = "to_torch_rnn_cell"
    activation = _activation(name, nonlinearity)
    target = f"PyTorch's RNN with nonlinearity={nonlinearity!r}"
    p = check_cell(name, target, cell, params, SimpleCell, activation=activation)
    return _state(p.kernel, p.recurrent_kernel, p.bias, np.zeros_like(p.bias))


def from_torch_layer_norm_lstm_cell(
    state: Mapping[str, Any], *, decompose_layernorm: bool = False
) -> Converted:
    """A `LayerNormLSTMCell` of custom_lstms.py, as an `LSTMCell` that carries the normalized c.

    Args:
      state: of the cell.
      decompose_layernorm: as the cell was made. True: its norms have no epsilon, and neither has
        the result; like it, it is NaN from the first step if h starts at zero.

    Raises:
      ValueError: names or shapes are not those of that cell.
    """
    p = read("from_torch_layer_norm_lstm_cell", state, _layer_norm_shapes())
    params = LSTMParams(
        *_kernels(p),
        bias=p["layernorm_i.bias"] + p["layernorm_h.bias"],
        scale_x=p["layernorm_i.weight"],
        scale_h=p["layernorm_h.weight"],
        scale_c=p["layernorm_c.weight"],
        bias_c=p["layernorm_c.bias"],
    )
    epsilon = _epsilon(decompose_layernorm)
    return converted(LSTMCell, params, norm="layer", sites=CARRIED_SITES, epsilon=epsilon)


def to_torch_layer_norm_lstm_cell(
    cell: LSTMCell, params: LSTMParams, *, decompose_layernorm: bool = False
) -> dict[str, np.ndarray]:
    """The state of a `LayerNormLSTMCell` of custom_lstms.py; its layernorm_h.bias is zero.

    Raises:
      ValueError: the cell's norm, sites or epsilon (1e-5, or 0 with `decompose_layernorm`) are
        others, or the parameters are not its own.
    """
    p = check_cell(
        "to_torch_layer_norm_lstm_cell",
        "LayerNormLSTMCell of custom_lstms.py",
        cell,
        params,
        LSTMCell,
        sites=CARRIED_SITES,
        epsilon=_epsilon(decompose_layernorm),
    )
    return {
        "weight_ih": np.ascontiguousarray(p.kernel.T),
        "weight_hh": np.ascontiguousarray(p.recurrent_kernel.T),
        "layernorm_i.weight": p.scale_x,
        "layernorm_i.bias": p.bias,
        "layernorm_h.weight": p.scale_h,
        "layernorm_h.bias": np.zeros_like(p.bias),
        "layernorm_c.weight": p.scale_c,
        "layernorm_c.bias": p.bias_c,
    }


def _epsilon(decompose_layernorm: bool) -> float:
    return 0.0 if decompose_layernorm else 1e-5


def _layer_norm_shapes() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"weight_hh": ("4H", "H"), "weight_ih": ("4H", "D")}
    for norm, size in (("layernorm_i", "4H"), ("layernorm_h", "4H"), ("layernorm_c", "H")):
        shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    return shapes


def _activation(function: str, nonlinearity: str) -> Callable[..., Any]:
    if nonlinearity not in ACTIVATIONS:
        raise ValueError(f"{function}: nonlinearity={nonlinearity!r} is neither 'tanh' nor 'relu'")
    return ACTIVATIONS[nonlinearity]


def _lstm(p: Mapping[str, Any]) -> Converted:
    return converted(LSTMCell, LSTMParams(*_kernels(p), p["bias_ih"] + p["bias_hh"]), norm=None)


def _gru(p: Mapping[str, Any]) -> Converted:
    kernel, recurrent_kernel = _kernels(p)
    features = len(recurrent_kernel)
    bias = p["bias_ih"].copy()
    bias[: 2 * features] += p["bias_hh"][: 2 * features]
    params = GRUParams(
        turn(kernel), turn(recurrent_kernel), turn(bias), p["bias_hh"][2 * features :]
    )
    return converted(GRUCell, params, norm=None)


def _rnn(p: Mapping[str, Any], activation: Callable[..., Any]) -> Converted:
    params = SimpleParams(*_kernels(p), p["bias_ih"] + p["bias_hh"])
    return converted(SimpleCell, params, norm=None, activation=activation)


def _kernels(p: Mapping[str, Any]) -> tuple[Any, Any]:
    return np.ascontiguousarray(p["weight_ih"].T), np.ascontiguousarray(p["weight_hh"].T)


def _state(kernel: Any, recurrent_kernel: Any, bias_ih: Any, bias_hh: Any) -> dict[str, Any]:
    weights = (np.ascontiguousarray(kernel.T), np.ascontiguousarray(recurrent_kernel.T))
    return dict(zip(NAMES, (*weights, bias_ih, bias_hh), strict=True))


def _read(function: str, state: Mapping[str, Any], suffix: str, gates: int) -> dict[str, Any]:
    """The four arrays of one layer and direction; without biases, zeros stand for them."""
    check_mapping(function, state)
    if any("weight_hr" in name for name in state):
        raise ValueError(
            f"{function}: weight_hr is the projection of h by proj_size; lnjax has no cell that "
            "projects its h, and no choice of weights of the others does the same"
        )
    width = stacked(gates)
    shapes: dict[str, Shape] = {"weight_hh": (width, "H"), "weight_ih": (width, "D")}
    if any(name.startswith("bias") for name in state):
        shapes |= {"bias_ih": (width,), "bias_hh": (width,)}
    named = read(function, state, {name + suffix: shape for name, shape in shapes.items()})
    p = {name: named[name + suffix] for name in shapes}
    zeros = np.zeros_like(p["weight_ih"][:, 0])
    return {"bias_ih": zeros, "bias_hh": zeros, **p}


def _from_layers(
    function: str,
    state: Mapping[str, Any],
    gates: int,
    convert: Callable[[Mapping[str, Any]], Converted],
) -> Layers:
    check_mapping(function, state)
    if "weight_ih_l0" not in state:
        raise ValueError(
            f"{function}: found {', '.join(map(str, state)) or 'no names'}; expected "
            "weight_ih_l0, weight_hh_l0 and so on. Pass the state_dict of the layer alone; "
            f"that of a cell goes to {function}_cell"
        )
    directions = ["", "_reverse"] if "weight_ih_l0_reverse" in state else [""]
    rest, layers = dict(state), []
    while rest:
        suffixes = [f"_l{len(layers)}{direction}" for direction in directions]
        layer = []
        for suffix in suffixes:
            names = [name for name in rest if name.endswith(suffix)]
            # What no layer claims is reported with the next one that should have been there.
            own = {name: rest.pop(name) for name in names} or dict(rest)
            layer.append(convert(_read(function, own, suffix, gates)))
        layers.append(tuple(layer))
    _check_fit(function, layers)
    return tuple(layers)


def _to_layers(
    function: str,
    layers: Sequence[Sequence[tuple[Any, Any]]],
    to_cell: Callable[[Any, Any], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    try:
        pairs = [[Converted(*pair) for pair in layer] for layer in layers]
    except TypeError as error:
        raise ValueError(
            f"{function} takes a tuple of layers, each a tuple of one or two (cell, params): "
            "((converted,),) for one layer"
        ) from error
    state = {}
    for k, layer in enumerate(pairs):
        for direction, (cell, params) in zip(("", "_reverse"), layer, strict=False):
            weights = to_cell(cell, params)
            state |= {f"{name}_l{k}{direction}": array for name, array in weights.items()}
    _check_fit(function, pairs)
    return state


def _check_fit(function: str, layers: Sequence[Sequence[Converted]]) -> None:
    """Refuses layers of which one does not feed the next, or whose directions are not alike."""
    numbers = {len(layer) for layer in layers}
    if len(numbers) != 1 or not numbers <= {1, 2}:
        raise ValueError(
            f"{function}: the layers have {[len(layer) for layer in layers]} directions; "
            "PyTorch has one or two, the same in all of its layers"
        )
    (directions,) = numbers
    features = layers[0][0].cell.features
    first = layers[0][0].params.kernel.shape[0]
    for k, layer in enumerate(layers):
        width = directions * features if k else first
        for cell, params in layer:
            if (params.kernel.shape[0], cell.features) != (width, features):
                raise ValueError(
                    f"{function}: layer {k} has {params.kernel.shape[0]} inputs and "
                    f"{cell.features} features; in PyTorch it has {width} and {features}, since "
                    "all its layers are of one width and each reads the directions of that before"
                )

r"""Keras: `LSTM`, `GRU`, `SimpleRNN` and their cells; TF-Addons: its two layer-normalized cells.

Weights come in as the list that ``layer.get_weights()`` returns, or as a mapping of the names below
to arrays; they go out as that list, for ``layer.set_weights(...)``. Keras is not imported.

=======================  ===========================================================  ===========
layer                    names and shapes, in the order of the list                   gates
=======================  ===========================================================  ===========
LSTM                     kernel (D, 4H), recurrent_kernel (H, 4H), bias (4H,)         i, f, c, o
GRU                      kernel (D, 3H), recurrent_kernel (H, 3H), bias (2, 3H)       z, r, h
SimpleRNN                kernel (D, H), recurrent_kernel (H, H), bias (H,)
LayerNormLSTMCell        those of LSTM, and gamma and beta of kernel_norm (4H),       i, f, c, o
                         recurrent_norm (4H) and state_norm (H): "kernel_norm/gamma"
LayerNormSimpleRNNCell   those of SimpleRNN, and "layernorm/gamma" (H,)
=======================  ===========================================================  ===========

Without the bias (``use_bias=False``) a zero stands for it; what goes out always has it.

The `LSTM` and `SimpleRNN` are the plain cells. The `GRU` with ``reset_after=True``, the default of
Keras, multiplies by the reset gate behind the recurrent product, as lnjax does; its z keeps the old
h where it is 1, and is turned. With ``reset_after=False`` it is :math:`(r \odot h) W`, which no
weights of the other form compute; it is refused.

TF-Addons' LSTM carries the normalized c, so that it becomes an `LSTMCell` with the site
"carried_cell"; its epsilon is 1e-3 unless it was made with another. Its forget gate's offset is in
the values of the bias. Its simple RNN is the paper's Eq. 4, :math:`f(\mathrm{LN}(x W + h U) \odot
\gamma + b)`, with an epsilon of 1e-5.

Activations other than the defaults (tanh, sigmoid) are no weights: a `SimpleCell` takes one as its
`activation`, the gated cells have no other, and a Keras layer with another converts wrongly.
Dropout is no weight either.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> weights = [rng.normal(size=shape) for shape in ((3, 6), (2, 6), (2, 6))]
>>> cell, params = from_keras_gru(weights)  # or keras.layers.GRU(2)(...).get_weights()
>>> [weight.shape for weight in to_keras_gru(cell, params)]
[(3, 6), (2, 6), (2, 6)]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lnjax.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, SimpleCell, SimpleParams
from lnjax.convert.base import Converted, Shape, check_cell, converted, read, reorder, stacked, turn

Weights = Sequence[Any] | Mapping[str, Any]

KERNELS = ("kernel", "recurrent_kernel")
NORMS = ("kernel_norm", "recurrent_norm", "state_norm")
CARRIED_SITES = ("recurrent", "input", "carried_cell")
RESET_BEFORE = (
    "reset_after=False multiplies h by the reset gate before the recurrent product, and lnjax "
    "after it; the product mixes the entries of h, so that no weights of the one compute the "
    "other. Train the layer with reset_after=True"
)


def from_keras_lstm(weights: Weights) -> Converted:
    """An `LSTM` or `LSTMCell`, as an `LSTMCell` with ``norm=None``.

    Raises:
      ValueError: number, names or shapes of the weights are not those of an LSTM.
    """
    return converted(LSTMCell, LSTMParams(**_read("from_keras_lstm", weights, 4)), norm=None)


def to_keras_lstm(cell: LSTMCell, params: LSTMParams) -> list[np.ndarray]:
    """The weights of an `LSTM`.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    hint = "To carry the normalized c there is to_tfa_layer_norm_lstm"
    p = check_cell("to_keras_lstm", "Keras's LSTM", cell, params, LSTMCell, hint=hint)
    return [p.kernel, p.recurrent_kernel, p.bias]


def from_keras_gru(weights: Weights, *, reset_after: bool = True) -> Converted:
    """A `GRU` or `GRUCell` with ``reset_after=True``, as a `GRUCell` with ``norm=None``.

    Args:
      weights: see the head of this module.
      reset_after: of the Keras layer. The shape of its bias tells too; without a bias nothing does.

    Raises:
      ValueError: `reset_after` is False or the bias says so, or number, names or shapes of the
        weights are not those of a GRU.
    """
    p = _named("from_keras_gru", weights, (*KERNELS, "bias"))
    if not reset_after or np.ndim(p.get("bias", np.zeros((2, 0)))) == 1:
        raise ValueError(f"from_keras_gru: {RESET_BEFORE}")
    p = _read("from_keras_gru", p, 3, bias=(2, "3H"))
    features = len(p["recurrent_kernel"])
    both = np.broadcast_to(p["bias"], (2, 3 * features))
    x, h = (reorder(bias, "zrn", "rzn") for bias in both)
    bias = np.concatenate([(x + h)[: 2 * features], x[2 * features :]])
    params = GRUParams(
        kernel=turn(reorder(p["kernel"], "zrn", "rzn")),
        recurrent_kernel=turn(reorder(p["recurrent_kernel"], "zrn", "rzn")),
        bias=turn(bias),
        bias_h=h[2 * features :].copy(),
    )
    return converted(GRUCell, params, norm=None)


def to_keras_gru(cell: GRUCell, params: GRUParams) -> list[np.ndarray]:
    """The weights of a `GRU` with ``reset_after=True``; of its second bias only that of h is not 0.

    Raises:
      ValueError: the cell has a norm, or the parameters are not its own.
    """
    p = check_cell("to_keras_gru", "Keras's GRU", cell, params, GRUCell)
    bias_h = np.concatenate([np.zeros_like(p.bias_h, shape=2 * len(p.bias_h)), p.bias_h])
    arrays = (turn(p.kernel), turn(p.recurrent_kernel), np.stack([turn(p.bias), bias_h]))
    return [reorder(array, "rzn", "zrn") for array in arrays]


def from_keras_simple_rnn(
    weights: Weights, *, activation: Callable[..., Any] = jnp.tanh
) -> Converted:
    """A `SimpleRNN` or `SimpleRNNCell`, as a `SimpleCell` with ``norm=None`` and this activation.

    Raises:
      ValueError: number, names or shapes of the weights are not those of a SimpleRNN.
    """
    params = SimpleParams(**_read("from_keras_simple_rnn", weights, 1))
    return converted(SimpleCell, params, norm=None, activation=activation)


def to_keras_simple_rnn(
    cell: SimpleCell, params: SimpleParams, *, activation: Callable[..., Any] = jnp.tanh
) -> list[np.ndarray]:
    """The weights of a `SimpleRNN` that has this activation, as the cell must.

    Raises:
      ValueError: the cell has a norm or another activation, or the parameters are not its own.
    """
    hint = "For one norm of the sum there is to_tfa_layer_norm_simple_rnn"
    p = check_cell(
        "to_keras_simple_rnn",
        "Keras's SimpleRNN",
        cell,
        params,
        SimpleCell,
        activation=activation,
        hint=hint,
    )
    return [p.kernel, p.recurrent_kernel, p.bias]


def from_tfa_layer_norm_lstm(weights: Weights, *, epsilon: float = 1e-3) -> Converted:
    """TF-Addons' `LayerNormLSTMCell`, as an `LSTMCell` that carries the normalized c.

    Args:
      weights: see the head of this module.
      epsilon: the `norm_epsilon` of the TF-Addons cell.

    Raises:
      ValueError: number, names or shapes of the weights are not those of that cell.
    """
    sizes = ("4H", "4H", "H")
    norms: dict[str, Shape] = {
        f"{norm}/{name}": (size,)
        for norm, size in zip(NORMS, sizes, strict=True)
        for name in ("gamma", "beta")
    }
    p = _read("from_tfa_layer_norm_lstm", weights, 4, norms)
    params = LSTMParams(
        kernel=p["kernel"],
        recurrent_kernel=p["recurrent_kernel"],
        bias=p["bias"] + p["kernel_norm/beta"] + p["recurrent_norm/beta"],
        scale_x=p["kernel_norm/gamma"],
        scale_h=p["recurrent_norm/gamma"],
        scale_c=p["state_norm/gamma"],
        bias_c=p["state_norm/beta"],
    )
    return converted(LSTMCell, params, norm="layer", sites=CARRIED_SITES, epsilon=epsilon)


def to_tfa_layer_norm_lstm(
    cell: LSTMCell, params: LSTMParams, *, epsilon: float = 1e-3
) -> list[np.ndarray]:
    """The weights of a `LayerNormLSTMCell`; the betas of kernel_norm and recurrent_norm are zero.

    Args:
      cell: with the sites "recurrent", "input" and "carried_cell".
      params: its parameters.
      epsilon: the `norm_epsilon` of the TF-Addons cell, which must be that of `cell`.

    Raises:
      ValueError: the cell's norm, sites or epsilon are others, or the parameters are not its own.
    """
    p = check_cell(
        "to_tfa_layer_norm_lstm",
        "TF-Addons' LayerNormLSTMCell",
        cell,
        params,
        LSTMCell,
        sites=CARRIED_SITES,
        epsilon=epsilon,
    )
    zeros = np.zeros_like(p.bias)
    norms = [p.scale_x, zeros, p.scale_h, zeros.copy(), p.scale_c, p.bias_c]
    return [p.kernel, p.recurrent_kernel, p.bias, *norms]


def from_tfa_layer_norm_simple_rnn(
    weights: Weights, *, epsilon: float = 1e-5, activation: Callable[..., Any] = jnp.tanh
) -> Converted:
    """TF-Addons' `LayerNormSimpleRNNCell`, as a `SimpleCell` that normalizes the sum.

    Args:
      weights: see the head of this module.
      epsilon: the `layernorm_epsilon` of the TF-Addons cell.
      activation: of the TF-Addons cell.

    Raises:
      ValueError: number, names or shapes of the weights are not those of that cell.
    """
    norms: dict[str, Shape] = {"layernorm/gamma": ("H",)}
    p = _read("from_tfa_layer_norm_simple_rnn", weights, 1, norms)
    params = SimpleParams(p["kernel"], p["recurrent_kernel"], p["bias"], scale=p["layernorm/gamma"])
    choices: dict[str, Any] = {"sites": ("sum",), "epsilon": epsilon, "activation": activation}
    return converted(SimpleCell, params, norm="layer", **choices)


def to_tfa_layer_norm_simple_rnn(
    cell: SimpleCell,
    params: SimpleParams,
    *,
    epsilon: float = 1e-5,
    activation: Callable[..., Any] = jnp.tanh,
) -> list[np.ndarray]:
    """The weights of a `LayerNormSimpleRNNCell` with this `layernorm_epsilon` and activation.

    Raises:
      ValueError: the cell's norm, sites, epsilon or activation are others, or the parameters are
        not its own.
    """
    p = check_cell(
        "to_tfa_layer_norm_simple_rnn",
        "TF-Addons' LayerNormSimpleRNNCell",
        cell,
        params,
        SimpleCell,
        sites=("sum",),
        epsilon=epsilon,
        activation=activation,
    )
    return [p.kernel, p.recurrent_kernel, p.bias, p.scale]


def _named(function: str, weights: Weights, names: Sequence[str]) -> dict[str, Any]:
    """The weights by name; a list has all of them in order, or all but the bias."""
    if isinstance(weights, Mapping):
        return dict(weights)
    if not isinstance(weights, Sequence):
        raise ValueError(
            f"{function} takes the list of layer.get_weights(), or a mapping of names to arrays, "
            f"not a {type(weights).__name__}"
        )
    if len(weights) == len(names) - 1:
        names = [name for name in names if name != "bias"]
    if len(weights) != len(names):
        raise ValueError(
            f"{function}: found {len(weights)} weights, of the shapes "
            f"{[np.shape(weight) for weight in weights]}; expected {len(names)}: "
            f"{', '.join(names)} (or all but the bias)"
        )
    return dict(zip(names, weights, strict=True))


def _read(
    function: str,
    weights: Weights,
    gates: int,
    norms: Mapping[str, Shape] | None = None,
    bias: Shape | None = None,
) -> dict[str, Any]:
    """The checked weights by name; without a bias, zeros stand for it."""
    width = stacked(gates)
    norms = norms or {}
    p = _named(function, weights, (*KERNELS, "bias", *norms))
    shapes: dict[str, Shape] = {"recurrent_kernel": ("H", width), "kernel": ("D", width)}
    if "bias" in p:
        shapes["bias"] = bias or (width,)
    p = read(function, p, {**shapes, **norms})
    return {"bias": np.zeros_like(p["kernel"][0]), **p}

"""Weights in and out: the authors' Theano layers, PyTorch, Keras, TF-Addons, haste, Flax.

Every ``from_*`` takes weights as their framework keeps them and gives `Converted`, a Linen cell and
its parameters that together compute what the source computes; every ``to_*`` takes a cell and its
parameters and gives weights for the framework. All arrays are NumPy, in the dtype they came in; no
other framework is imported. What has no exact counterpart is refused with a `ValueError` that says
why.

====================================  ====================================  ========================
layer                                 functions from_ and to_               as
====================================  ====================================  ========================
the authors' lstm, gru                theano_lstm, theano_gru               norm=None (1)
the authors' lnlstm, lngru            theano_lnlstm, theano_lngru           norm="layer" (2)
PyTorch LSTM, GRU, RNN                torch_lstm, torch_gru, torch_rnn      norm=None
PyTorch LSTMCell, GRUCell, RNNCell    torch_lstm_cell, ...                  norm=None
PyTorch custom_lstms                  torch_layer_norm_lstm_cell            "carried_cell" (3)
LayerNormLSTMCell
Keras LSTM, GRU, SimpleRNN            keras_lstm, keras_gru,                norm=None (4)
                                      keras_simple_rnn
TF-Addons LayerNormLSTMCell           tfa_layer_norm_lstm                   "carried_cell" (3)
TF-Addons LayerNormSimpleRNNCell      tfa_layer_norm_simple_rnn             sites=("sum",)
haste LSTM, GRU                       haste_lstm, haste_gru                 norm=None
haste LayerNormLSTM                   haste_layer_norm_lstm                 norm="layer"
Flax Linen cells                      linen_lstm, linen_gru, linen_simple   norm=None
Flax NNX cells                        nnx_lstm, nnx_gru, nnx_simple         norm=None (1)
====================================  ====================================  ========================

1. A GRU goes out only if its `bias_h` is zero: those of the authors and of NNX have no such bias.
2. A bias inside of the input's norm that is not constant: only with ``bias_as_input=True``.
3. These carry the normalized c, and so does an `LSTMCell` with ``sites=("recurrent", "input",
   "carried_cell")``; the paper's cell does not go there.
4. A GRU only with ``reset_after=True``.

What is refused, or has no function because nothing could come of it:

====================================  ==============================================================
layer                                 why
====================================  ==============================================================
haste LayerNormGRU                    one norm over 3H; lnjax, as the paper: over 2H and over H
Keras GRU, reset_after=False          the reset gate before the recurrent product, not behind it
PyTorch LSTM with proj_size           h is a projection
tf.contrib LayerNormBasicLSTMCell,    the sum of both projections is normalized, gate by gate: four
supercell and magenta                 statistics of H summed inputs each, where lnjax has two of 4H
LayerNormLSTMCell                     and never that of the sum
the authors' Torch LSTM_LN.lua        its epsilon is outside of the root, added to the deviation;
                                      far above 1e-5 an LSTMCell with sites=("cell",) is near it
anything with norm="rms"              no framework here has such a cell
====================================  ==============================================================

Where two cells differ only in conventions the conversion is exact, to rounding: gates are put in
order; two biases that are added become one; a GRU's z that keeps the old h where it is 1, as
everywhere but in the paper and in lnjax, is turned by the sign of its kernels and bias, or behind a
norm by that of its gains and bias.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> state = {"weight_ih": rng.normal(size=(6, 3)), "weight_hh": rng.normal(size=(6, 2))}
>>> state |= {"bias_ih": rng.normal(size=6), "bias_hh": rng.normal(size=6)}
>>> cell, params = from_torch_gru_cell(state)
>>> linen = to_linen_gru(cell, params)  # from PyTorch to Flax
>>> {name: block["kernel"].shape for name, block in linen.items()}
{'ir': (3, 2), 'iz': (3, 2), 'in': (3, 2), 'hr': (2, 2), 'hz': (2, 2), 'hn': (2, 2)}
"""

from lnjax.convert.base import Converted as Converted
from lnjax.convert.flax import from_linen_gru as from_linen_gru
from lnjax.convert.flax import from_linen_lstm as from_linen_lstm
from lnjax.convert.flax import from_linen_simple as from_linen_simple
from lnjax.convert.flax import from_nnx_gru as from_nnx_gru
from lnjax.convert.flax import from_nnx_lstm as from_nnx_lstm
from lnjax.convert.flax import from_nnx_simple as from_nnx_simple
from lnjax.convert.flax import to_linen_gru as to_linen_gru
from lnjax.convert.flax import to_linen_lstm as to_linen_lstm
from lnjax.convert.flax import to_linen_simple as to_linen_simple
from lnjax.convert.flax import to_nnx_gru as to_nnx_gru
from lnjax.convert.flax import to_nnx_lstm as to_nnx_lstm
from lnjax.convert.flax import to_nnx_simple as to_nnx_simple
from lnjax.convert.haste import from_haste_gru as from_haste_gru
from lnjax.convert.haste import from_haste_layer_norm_lstm as from_haste_layer_norm_lstm
from lnjax.convert.haste import from_haste_lstm as from_haste_lstm
from lnjax.convert.haste import to_haste_gru as to_haste_gru
from lnjax.convert.haste import to_haste_layer_norm_lstm as to_haste_layer_norm_lstm
from lnjax.convert.haste import to_haste_lstm as to_haste_lstm
from lnjax.convert.keras import from_keras_gru as from_keras_gru
from lnjax.convert.keras import from_keras_lstm as from_keras_lstm
from lnjax.convert.keras import from_keras_simple_rnn as from_keras_simple_rnn
from lnjax.convert.keras import from_tfa_layer_norm_lstm as from_tfa_layer_norm_lstm
from lnjax.convert.keras import from_tfa_layer_norm_simple_rnn as from_tfa_layer_norm_simple_rnn
from lnjax.convert.keras import to_keras_gru as to_keras_gru
from lnjax.convert.keras import to_keras_lstm as to_keras_lstm
from lnjax.convert.keras import to_keras_simple_rnn as to_keras_simple_rnn
from lnjax.convert.keras import to_tfa_layer_norm_lstm as to_tfa_layer_norm_lstm
from lnjax.convert.keras import to_tfa_layer_norm_simple_rnn as to_tfa_layer_norm_simple_rnn
from lnjax.convert.theano import from_theano_gru as from_theano_gru
from lnjax.convert.theano import from_theano_lngru as from_theano_lngru
from lnjax.convert.theano import from_theano_lnlstm as from_theano_lnlstm
from lnjax.convert.theano import from_theano_lstm as from_theano_lstm
from lnjax.convert.theano import to_theano_gru as to_theano_gru
from lnjax.convert.theano import to_theano_lngru as to_theano_lngru
from lnjax.convert.theano import to_theano_lnlstm as to_theano_lnlstm
from lnjax.convert.theano import to_theano_lstm as to_theano_lstm
from lnjax.convert.torch import from_torch_gru as from_torch_gru
from lnjax.convert.torch import from_torch_gru_cell as from_torch_gru_cell
from lnjax.convert.torch import from_torch_layer_norm_lstm_cell as from_torch_layer_norm_lstm_cell
from lnjax.convert.torch import from_torch_lstm as from_torch_lstm
from lnjax.convert.torch import from_torch_lstm_cell as from_torch_lstm_cell
from lnjax.convert.torch import from_torch_rnn as from_torch_rnn
from lnjax.convert.torch import from_torch_rnn_cell as from_torch_rnn_cell
from lnjax.convert.torch import to_torch_gru as to_torch_gru
from lnjax.convert.torch import to_torch_gru_cell as to_torch_gru_cell
from lnjax.convert.torch import to_torch_layer_norm_lstm_cell as to_torch_layer_norm_lstm_cell
from lnjax.convert.torch import to_torch_lstm as to_torch_lstm
from lnjax.convert.torch import to_torch_lstm_cell as to_torch_lstm_cell
from lnjax.convert.torch import to_torch_rnn as to_torch_rnn
from lnjax.convert.torch import to_torch_rnn_cell as to_torch_rnn_cell

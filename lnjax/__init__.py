"""Layer normalization in recurrent and feed-forward networks, for JAX and Flax.

Importing lnjax loads jax and flax. What trains and what reads data (`lnjax.training`, `lnjax.data`)
is imported by name, and needs the extra ``lnjax[tasks]``.
"""

from lnjax import analysis as analysis
from lnjax import convert as convert
from lnjax import nnx as nnx
from lnjax.cells import BatchNormLSTMCell as BatchNormLSTMCell
from lnjax.cells import BatchNormLSTMParams as BatchNormLSTMParams
from lnjax.cells import Chunked as Chunked
from lnjax.cells import GRUCell as GRUCell
from lnjax.cells import GRUParams as GRUParams
from lnjax.cells import LearnedCarry as LearnedCarry
from lnjax.cells import LSTMCell as LSTMCell
from lnjax.cells import LSTMParams as LSTMParams
from lnjax.cells import Noise as Noise
from lnjax.cells import RecurrentDropout as RecurrentDropout
from lnjax.cells import SimpleCell as SimpleCell
from lnjax.cells import SimpleParams as SimpleParams
from lnjax.cells import Zoneout as Zoneout
from lnjax.cells import forget_gate_bias as forget_gate_bias
from lnjax.cells.batch_norm_lstm import batch_norm_lstm as batch_norm_lstm
from lnjax.cells.gru import gru as gru
from lnjax.cells.lstm import lstm as lstm
from lnjax.cells.simple_rnn import simple_rnn as simple_rnn
from lnjax.nn import RNN as RNN
from lnjax.nn import Bidirectional as Bidirectional
from lnjax.nn import Conv as Conv
from lnjax.nn import Dense as Dense
from lnjax.nn import Normalize as Normalize
from lnjax.nn import Residual as Residual
from lnjax.nn import Stack as Stack
from lnjax.ops import batch_norm as batch_norm
from lnjax.ops import batch_statistics as batch_statistics
from lnjax.ops import group_norm as group_norm
from lnjax.ops import instance_norm as instance_norm
from lnjax.ops import layer_norm as layer_norm
from lnjax.ops import rms_norm as rms_norm
from lnjax.ops import weight_norm as weight_norm

__version__ = "0.1.0"

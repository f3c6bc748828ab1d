"""Normalized recurrent cells, one file each: equations, parameters, pure functions, Linen class.

The function of a sequence shares the name of its module: it is ``lnjax.lstm``, and here
``lnjax.cells.lstm`` is the module.
"""

from lnjax.cells.base import Cell as Cell
from lnjax.cells.base import NormalizedCell as NormalizedCell
from lnjax.cells.batch_norm_lstm import BatchNormLSTMCell as BatchNormLSTMCell
from lnjax.cells.batch_norm_lstm import BatchNormLSTMParams as BatchNormLSTMParams
from lnjax.cells.chunked import Chunked as Chunked
from lnjax.cells.gru import GRUCell as GRUCell
from lnjax.cells.gru import GRUParams as GRUParams
from lnjax.cells.lstm import LSTMCell as LSTMCell
from lnjax.cells.lstm import LSTMParams as LSTMParams
from lnjax.cells.lstm import forget_gate_bias as forget_gate_bias
from lnjax.cells.running import Noise as Noise
from lnjax.cells.simple_rnn import SimpleCell as SimpleCell
from lnjax.cells.simple_rnn import SimpleParams as SimpleParams
from lnjax.cells.wrappers import LearnedCarry as LearnedCarry
from lnjax.cells.wrappers import RecurrentDropout as RecurrentDropout
from lnjax.cells.wrappers import Zoneout as Zoneout

# The laws in tests/cells/test_common.py run over these.
ALL_CELLS = (LSTMCell, GRUCell, SimpleCell, BatchNormLSTMCell)

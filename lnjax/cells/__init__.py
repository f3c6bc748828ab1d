"""Normalized recurrent cells, one file each: equations, parameters, pure functions, Linen class.

The function of a sequence shares the name of its module: it is ``lnjax.lstm``, and here
``lnjax.cells.lstm`` is the module.
"""

from lnjax.cells.base import Cell as Cell
from lnjax.cells.base import NormalizedCell as NormalizedCell
from lnjax.cells.gru import GRUCell as GRUCell
from lnjax.cells.gru import GRUParams as GRUParams
from lnjax.cells.lstm import LSTMCell as LSTMCell
from lnjax.cells.lstm import LSTMParams as LSTMParams
from lnjax.cells.lstm import forget_gate_bias as forget_gate_bias
from lnjax.cells.running import Noise as Noise
from lnjax.cells.simple_rnn import SimpleCell as SimpleCell
from lnjax.cells.simple_rnn import SimpleParams as SimpleParams

ALL_CELLS = (LSTMCell, GRUCell, SimpleCell)  # tests/cells/test_common.py runs its laws over them

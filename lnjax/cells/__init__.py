"""Normalized recurrent cells, one file each: equations, parameters, pure functions, Linen class.

The function of a sequence shares the name of its module: it is ``lnjax.lstm``, and here
``lnjax.cells.lstm`` is the module.
"""

from lnjax.cells.base import Cell as Cell
from lnjax.cells.lstm import LSTMCell as LSTMCell
from lnjax.cells.lstm import LSTMParams as LSTMParams

ALL_CELLS = (LSTMCell,)  # the laws in tests/cells/test_common.py run over this list

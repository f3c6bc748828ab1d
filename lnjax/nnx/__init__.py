"""The cells and layers for Flax NNX: the same parameters, names and shapes, the same functions.

    Linen {"params": {"cell": {"kernel": ...}}}     NNX rnn.cell.kernel

A module here holds `nnx.Param`s (and `nnx.BatchStat`s) and no mathematics: `linen` gives the module
of the same name and attributes in `lnjax`, and a call applies it to the variables. What an
attribute means is said there. `train()` and `eval()` set `deterministic` and `use_running_average`,
as everywhere in NNX.

>>> import jax.numpy as jnp
>>> from flax import nnx
>>> import lnjax.nnx
>>> rnn = lnjax.nnx.RNN(lnjax.nnx.LSTMCell(3, 8, norm="layer", rngs=nnx.Rngs(0)))
>>> rnn(jnp.ones((2, 5, 3)), seq_lengths=jnp.array([5, 2])).shape, rnn.cell.kernel.shape
((2, 5, 8), (3, 32))
"""

from lnjax.nnx.cells import BatchNormLSTMCell as BatchNormLSTMCell
from lnjax.nnx.cells import GRUCell as GRUCell
from lnjax.nnx.cells import LearnedCarry as LearnedCarry
from lnjax.nnx.cells import LSTMCell as LSTMCell
from lnjax.nnx.cells import RecurrentDropout as RecurrentDropout
from lnjax.nnx.cells import SimpleCell as SimpleCell
from lnjax.nnx.cells import Zoneout as Zoneout
from lnjax.nnx.layers import RNN as RNN
from lnjax.nnx.layers import Bidirectional as Bidirectional
from lnjax.nnx.layers import Conv as Conv
from lnjax.nnx.layers import Dense as Dense
from lnjax.nnx.layers import Normalize as Normalize
from lnjax.nnx.layers import Residual as Residual
from lnjax.nnx.layers import Stack as Stack

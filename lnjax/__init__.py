"""Layer normalization in recurrent and feed-forward networks, for JAX and Flax.

Importing lnjax loads jax and flax. What trains and what reads data (`lnjax.training`, `lnjax.data`)
is imported by name, and needs the extra ``lnjax[tasks]``.
"""

from lnjax.cells import LSTMCell as LSTMCell
from lnjax.cells import LSTMParams as LSTMParams
from lnjax.cells.lstm import lstm as lstm
from lnjax.nn import RNN as RNN
from lnjax.ops import layer_norm as layer_norm

__version__ = "0.1.0"

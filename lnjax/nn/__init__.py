"""Flax Linen layers that are no cells."""

from lnjax.nn.bidirectional import Bidirectional as Bidirectional
from lnjax.nn.conv import Conv as Conv
from lnjax.nn.dense import Dense as Dense
from lnjax.nn.normalize import Normalize as Normalize
from lnjax.nn.residual import Residual as Residual
from lnjax.nn.rnn import RNN as RNN
from lnjax.nn.stack import Stack as Stack

"""Flax Linen layers that are no cells."""

from lnjax.nn.conv import Conv as Conv
from lnjax.nn.dense import Dense as Dense
from lnjax.nn.normalize import Normalize as Normalize
from lnjax.nn.rnn import RNN as RNN

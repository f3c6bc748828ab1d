"""Flax Linen layers that are no cells."""

from lnjax.nn.rnn import RNN as RNN

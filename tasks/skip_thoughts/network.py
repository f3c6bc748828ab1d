r"""Skip-thoughts (Kiros et al. 2015) over layer-normalized GRUs.

.. math::
    s &= \mathrm{GRU}_e(E_{w_1}, \ldots, E_{w_L}, E_0)_{L+1} \\
    h^d_t &= \mathrm{GRU}_d(x_t, h^d_{t-1}), \qquad h^d_0 = s, \qquad x_1 = 0,\ x_t = E_{y_{t-1}} \\
    P_d(y_t) &= \mathrm{softmax}(h^d_t W + b)_{y_t}, \qquad d = \text{previous, next}

s, the final state of the encoder, is the vector of a sentence. Each decoder predicts a neighbour of
it word by word up to the 0 that ends it. The decoders have a GRU each and share the table E, which
is the encoder's too, and the output layer.

That is the public code, which the paper used. With `conditioned`, x_t is [x_t, s]: every gate of a
decoder sees s at every step, the matrices C of the 2015 paper.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import lnjax
from lnjax.cells.gru import Norm
from lnjax.ops import lengths_to_mask
from lnjax.typing import Array, DType
from tasks.skip_thoughts.softmax import Readout

DECODERS = ("previous", "next")


class SkipThoughts(nn.Module):
    """The network. Batches are (B, T), the lengths (B,) count the 0 that ends a sentence.

    Attributes:
      vocabulary_size: V, ids from 0.
      embedding_features: width of E.
      features: units of each GRU, the width of s.
      norm: "layer", "rms" or None.
      conditioned: whether the decoders see s at every step.
      init_scale: E, W and the kernels of inputs start uniform between - and + this.
      dtype: of the products; None: float32.
    """

    vocabulary_size: int
    embedding_features: int
    features: int
    norm: Norm
    conditioned: bool
    init_scale: float
    dtype: DType | None = None

    def setup(self) -> None:
        uniform = _uniform(self.init_scale)
        # The authors' rule for square matrices.
        square = self.embedding_features == self.features
        encoder_init = nn.initializers.orthogonal() if square else uniform

        def rnn(kernel_init: Any) -> lnjax.RNN:
            cell = lnjax.GRUCell(
                self.features, norm=self.norm, dtype=self.dtype, kernel_init=kernel_init
            )
            return lnjax.RNN(cell, time_major=True, return_carry=True)

        table = (self.vocabulary_size, self.embedding_features)
        self.embedding = self.param("embedding", uniform, table)
        self.encoder = rnn(encoder_init)
        decoder_init = uniform if self.conditioned else encoder_init
        self.previous, self.next = (rnn(decoder_init) for _ in DECODERS)
        self.kernel = self.param("kernel", uniform, (self.features, self.vocabulary_size))
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.vocabulary_size,))

    def __call__(
        self,
        centre: tuple[Array, Array],
        previous: tuple[Array, Array],
        next: tuple[Array, Array],
    ) -> tuple[Array, Array]:
        """Ids (B, T) and lengths (B,) of three sentences -> the two decoders' states (T, B, H)."""
        return self.decode(self.encode(*centre), previous, next)

    def encode(self, ids: Array, lengths: Array) -> Array:
        """Ids (B, T), lengths (B,) -> s (B, H), zeros for a row of length 0."""
        return self.encode_words(self.embedding[ids], lengths)

    def encode_words(self, words: Array, lengths: Array) -> Array:
        """As `encode`, of rows of a table (B, T, E) in place of ids."""
        words = jnp.swapaxes(words, 0, 1)
        vectors, _ = self.encoder(words, mask=lengths_to_mask(lengths, len(words)))
        return vectors

    def decode(
        self, vectors: Array, previous: tuple[Array, Array], next: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """s (B, H), ids (B, T) and lengths (B,) of its neighbours -> states (T, B, H) of both."""
        return (
            self._states(self.previous, vectors, *previous),
            self._states(self.next, vectors, *next),
        )

    def _states(self, decoder: lnjax.RNN, vectors: Array, ids: Array, lengths: Array) -> Array:
        words = self.embedding[jnp.swapaxes(ids, 0, 1)]
        # The decoder sees word t - 1 when it predicts word t; before the first stands a zero.
        inputs = jnp.pad(words[:-1], ((1, 0), (0, 0), (0, 0)))
        if self.conditioned:
            shape = (*inputs.shape[:2], vectors.shape[-1])
            at_every_step = jnp.broadcast_to(vectors[None], shape).astype(inputs.dtype)
            inputs = jnp.concatenate([inputs, at_every_step], axis=-1)
        mask = lengths_to_mask(lengths, len(inputs))
        _, states = decoder(inputs, initial_carry=vectors, mask=mask)
        return states

    def readout(self) -> Readout:
        """The output layer that both decoders share."""
        return Readout(self.kernel, self.bias)


def _uniform(scale: float) -> Any:
    def init(rng: Array, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -scale, scale)

    return init

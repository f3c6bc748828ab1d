r"""Captions and images into one space: a layer-normalized GRU beside a linear map (paper 6.1).

.. math::
    h_t = \mathrm{GRU}(W_e[w_t], h_{t-1}), \quad h_0 = 0, \qquad
    f_c = \frac{h_L}{\lVert h_L \rVert}, \qquad
    f_i = \frac{W_i v + b_i}{\lVert W_i v + b_i \rVert}

where :math:`w_L` is the mark of a sentence's end and v the fixed features of an image. Order
embeddings are the absolute values of both. Nothing stands between the GRU's last state and its
embedding.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

import lnjax
from lnjax.cells.lstm import Norm
from lnjax.typing import Array, DType, PRNGKey
from tasks.order_embeddings.order import unit


def symmetric_uniform(rng: PRNGKey, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
    """Uniform between -0.1 and 0.1: words and input kernels of the authors' code."""
    return jax.random.uniform(rng, shape, dtype, minval=-0.1, maxval=0.1)


class OrderNetwork(nn.Module):
    """Both encoders.

    Attributes:
      features: D of the embeddings, and units of the GRU.
      num_words: ids of words, with those of the end and of unknown words.
      word_features: width of a word's vector.
      norm: "layer", "rms" or None.
      absolute: leave the signs out, as an order needs.
      dtype: of the products; embeddings are at least float32.
    """

    features: int
    num_words: int
    word_features: int
    norm: Norm
    absolute: bool
    dtype: DType = jnp.float32

    def setup(self) -> None:
        self.words = nn.Embed(
            self.num_words, self.word_features, embedding_init=symmetric_uniform, dtype=self.dtype
        )
        # The recurrent kernels start orthogonal, each gate's for itself, as all of lnjax do.
        cell = lnjax.GRUCell(
            self.features, norm=self.norm, kernel_init=symmetric_uniform, dtype=self.dtype
        )
        self.sentence = lnjax.RNN(cell, return_carry=True)
        self.image = lnjax.Dense(
            self.features,
            norm=None,
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
        )

    def captions(self, tokens: Array, lengths: Array) -> Array:
        """tokens (..., T) int32, lengths (...) with the end's step -> (..., D); length 0: zeros."""
        start = jnp.zeros((*lengths.shape, self.features), self._wide)
        last, _ = self.sentence(self.words(tokens), initial_carry=start, seq_lengths=lengths)
        return self._embedding(last)

    def images(self, features: Array) -> Array:
        """(..., F) -> (..., D)."""
        return self._embedding(self.image(features))

    def __call__(self, tokens: Array, lengths: Array, features: Array) -> tuple[Array, Array]:
        return self.captions(tokens, lengths), self.images(features)

    def _embedding(self, x: Array) -> Array:
        x = unit(x.astype(self._wide))
        return jnp.abs(x) if self.absolute else x

    @property
    def _wide(self) -> DType:
        return jnp.promote_types(self.dtype, jnp.float32)

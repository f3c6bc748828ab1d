r"""The attentive reader as it was trained for the paper's Fig. 2: the states of an LSTM over the
passage, weighed by the question (Hermann et al. 2015; Cooijmans et al. 2017; Ba et al. 2016, 6.2).

.. math::
    h_t &= \mathrm{LSTM}(E[\mathrm{passage}])_t, \qquad
    q = \mathrm{LSTM}_q(E[\mathrm{question}])_{\mathrm{last}} \\
    s_t &= \langle h_t W_{bi},\, q W_{bi} \rangle \\
    m_t &= \tanh(h_t W_c + b_c + q W_q + s_t \mathbf{1}) \\
    \alpha &= \mathrm{softmax}_t(v \cdot m_t), \qquad
    r = \sum_t \alpha_t h_t, \qquad \bar h = \mathrm{mean}_t\, h_t \\
    G &= \mathrm{dropout}(\tanh(r W_{or} + b_o + q W_{oq} + \bar h W_{od})) \\
    \mathrm{logits} &= G W_l + b_l

The LSTMs run one way; embeddings are shared and dropped out, too. A norm is inside the LSTMs;
"batch_everywhere" also normalizes the summed inputs of the five affine maps W_c, W_q, W_or, W_oq
and W_od over the batch (W_c over the real steps, too), with gains of 0.1; b_c and b_o then stand
behind their norms.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

import lnjax
from lnjax.cells.lstm import Norm
from lnjax.ops import lengths_to_mask, zero_padding
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, Batch, DType, PRNGKey

CELL_NORMS: Mapping[str, Norm] = {"layer": "layer", "rms": "rms", "none": None}
NORMS = (*CELL_NORMS, "batch", "batch_everywhere")
LSTMS = ("passage_lstm", "question_lstm")
BATCH_NORM_GAIN = 0.1  # Cooijmans et al.; with 1 the gradient of tanh vanishes
Initializer = Callable[..., Array]


class ReaderNetwork(nn.Module):
    """The network.

    Attributes:
      vocabulary_size: rows of the embedding table.
      num_answers: width of the logits.
      features: units of each LSTM and of everything else.
      norm: one of `NORMS`.
      dropout: share of the embeddings and of G that is dropped in training.
      initial_gain: of the norms "layer" and "rms" at the start.
      forget_offset: the bias of the forget gates at the start.
      square_init: square kernels start as this times an orthogonal matrix.
      embedding_init: deviation of the embeddings at the start; 0: as other kernels.
      identical_gates: the four gate blocks of all kernels of the LSTMs start alike, as in the
        public code, where each initial kernel is drawn from the same seed.
      max_steps: steps with population statistics of their own, for "batch".
      dtype: of products and activations; the softmax of the attention is float32 at least.
    """

    vocabulary_size: int
    num_answers: int
    features: int
    norm: str
    dropout: float
    initial_gain: float
    forget_offset: float
    square_init: float
    embedding_init: float
    identical_gates: bool
    max_steps: int
    dtype: DType

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> tuple[Array, Array]:
        """Reads a batch, see `tasks.attentive_reader.questions`.

        Returns:
          The logits (B, num_answers) and the attention (B, T), which is 0 behind a passage's end.
        """
        scale = self.embedding_init
        embed = nn.Embed(
            self.vocabulary_size,
            self.features,
            embedding_init=nn.initializers.normal(scale) if scale else uniform,
            dtype=self.dtype,
            name="embedding",
        )
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        real = lengths_to_mask(batch["passage_length"], batch["passage"].shape[1]).T

        passage, question = (dropout(embed(batch[name])) for name in ("passage", "question"))
        _, h = self.lstm("passage_lstm", train)(passage, batch["passage_length"])
        q, _ = self.lstm("question_lstm", train)(question, batch["question_length"])

        both = self.param("similarity_kernel", self.kernel_init, (self.features, self.features))
        both = both.astype(h.dtype)
        asked = jnp.matmul(jnp.matmul(q, both), both.T)  # <h W, q W> = <h, q W W^T>
        similarity = jnp.einsum("bth,bh->bt", h, asked)
        rows = batch["mask"]
        wide = statistics_dtype(h.dtype)  # of sums over the steps, one of them in the derivative
        m = self.affine("attention_passage", h, train, real, use_bias=True).astype(wide)
        m += self.affine("attention_question", q, train, rows).astype(wide)[:, None]
        m += similarity.astype(wide)[..., None]
        v = self.param("attention_kernel", vector, (self.features,)).astype(h.dtype)
        scores = jnp.einsum("bth,h->bt", jnp.tanh(m).astype(h.dtype), v)
        alpha = masked_softmax(scores.astype(wide), real)
        attended = jnp.einsum("bt,bth->bh", alpha.astype(h.dtype), h)
        steps = jnp.maximum(batch["passage_length"], 1).astype(wide)[:, None]
        total = jnp.sum(zero_padding(h, real), axis=1, dtype=wide)
        mean = (total / steps).astype(h.dtype)

        g = self.affine("output_attended", attended, train, rows, use_bias=True)
        g += self.affine("output_question", q, train, rows)
        g += self.affine("output_mean", mean, train, rows)
        logits = lnjax.Dense(
            self.num_answers, norm=None, kernel_init=uniform, dtype=self.dtype, name="logits"
        )(dropout(jnp.tanh(g)))
        return logits, alpha

    @property
    def kernel_init(self) -> Initializer:
        return kernel(self.square_init)

    def lstm(self, name: str, train: bool) -> Callable[[Array, Array], tuple[Array, Array]]:
        """A layer from a learned state: inputs (B, T, D), lengths (B,) -> last h (B, H), all."""
        start = fixed(self.kernel_init) if self.identical_gates else self.kernel_init
        shared = {
            "kernel_init": start,
            "recurrent_kernel_init": start,
            "bias_init": lnjax.forget_gate_bias(self.forget_offset),
            "parent": None,  # it becomes a part of the layer below
            "dtype": self.dtype,
        }
        if self.norm.startswith("batch"):
            cell = lnjax.BatchNormLSTMCell(
                self.features,
                max_steps=self.max_steps,
                use_running_average=not train,
                scale_init=nn.initializers.constant(BATCH_NORM_GAIN),
                **shared,
            )
        else:
            cell = lnjax.LSTMCell(
                self.features,
                norm=CELL_NORMS[self.norm],
                scale_init=nn.initializers.constant(self.initial_gain),
                **shared,
            )
        rnn = lnjax.RNN(cell, return_carry=True, name=name)
        initial_h = self.param(f"{name}_h", nn.initializers.zeros_init(), (self.features,))

        def run(xs: Array, lengths: Array) -> tuple[Array, Array]:
            c, h, *rest = cell.initialize_carry(jax.random.key(0), xs[:, 0].shape)
            h = jnp.broadcast_to(initial_h.astype(h.dtype), h.shape)
            carry, ys = rnn(xs, seq_lengths=lengths, initial_carry=(c, h, *rest))
            return carry[1].astype(ys.dtype), ys

        return run

    def affine(
        self, name: str, x: Array, train: bool, mask: Array, *, use_bias: bool = False
    ) -> Array:
        """One of the maps that "batch_everywhere" normalizes: (..., H) -> (..., H)."""
        everywhere = self.norm == "batch_everywhere"
        layer = lnjax.Dense(
            self.features,
            norm="batch" if everywhere else None,
            use_bias=use_bias,
            kernel_init=self.kernel_init,
            scale_init=nn.initializers.constant(BATCH_NORM_GAIN),
            use_running_average=not train if everywhere else None,
            dtype=self.dtype,
            name=name,
        )
        return layer(x, mask=mask)


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Softmax of (B, T) over the steps where `mask` is True; 0 elsewhere, and in an empty row."""
    highest = jnp.max(jnp.where(mask, scores, -jnp.inf), axis=1, keepdims=True)
    shifted = scores - jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    weights = zero_padding(jnp.exp(jnp.where(mask, shifted, 0)), mask)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def uniform(rng: PRNGKey, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
    """The public code's for kernels that are not square: between +- sqrt(6 / (in + out + 1))."""
    limit = math.sqrt(6 / (sum(shape) + 1))
    return jax.random.uniform(rng, tuple(shape), dtype, -limit, limit)


def vector(rng: PRNGKey, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
    """The public code's for the vector v (H,): between +- sqrt(1 / H)."""
    limit = math.sqrt(1 / shape[0])
    return jax.random.uniform(rng, tuple(shape), dtype, -limit, limit)


def kernel(square: float) -> Initializer:
    """`square` times an orthogonal matrix for square kernels, `uniform` for others."""
    orthogonal = nn.initializers.orthogonal(square)

    def init(rng: PRNGKey, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        return (orthogonal if shape[0] == shape[1] else uniform)(rng, shape, dtype)

    return init


def fixed(init: Initializer) -> Initializer:
    """`init` with one seed wherever it is called."""

    def fixed_init(rng: PRNGKey, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        return init(jax.random.key(123), shape, dtype)

    return fixed_init

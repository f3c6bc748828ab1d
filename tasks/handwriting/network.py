r"""Graves' synthesis network (2013, Section 5) over layer-normalized LSTMs.

.. math::
    h^1_t &= \mathrm{LSTM}_1([x_t, w_{t-1}], h^1_{t-1}) \\
    (\hat\alpha, \hat\beta, \hat\kappa)_t &= W_p h^1_t + b_p, \qquad
        \kappa_t = \kappa_{t-1} + \exp(\hat\kappa_t) \\
    \phi(t, u) &= \sum_k \alpha_k \exp(-\beta_k (\kappa_k - u)^2), \qquad
        w_t = \sum_u \phi(t, u)\, c_u \\
    h^n_t &= \mathrm{LSTM}_n([x_t, h^{n-1}_t, w_t], h^n_{t-1}), \qquad n = 2, 3, \ldots \\
    \hat y_t &= b_y + \sum_n W_n h^n_t

The input and the window reach every layer and every layer reaches the output. Only the first layer
waits for the window of the step before; the others see whole sequences.

Training, evaluation and sampling call the same network: a sample is a sequence fed one step at a
time, with the carry handed on.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import lnjax
from lnjax.cells.lstm import Norm
from lnjax.ops import scan_sequence
from lnjax.typing import Array, DType, PyTree
from tasks.handwriting.mixture import num_outputs

# The window's u runs from 1 to U; kappa starts at 0, just before the first character.
WINDOW_START = 0.0


class Carry(NamedTuple):
    """What the network remembers between two points. One (c, h) per layer."""

    cells: tuple[PyTree, ...]
    kappa: Array  # (B, K) where the window stands, in characters
    window: Array  # (B, A) the soft letter of the step before


class Outputs(NamedTuple):
    """For every point, time-major."""

    mixture: Array  # (T, B, 6M + 1) parameters of the next offset's density
    phi: Array  # (T, B, U + 1) window weights; the last one is for the place after the text's end


def gaussian_window(alpha: Array, beta: Array, kappa: Array, num_places: int) -> Array:
    """phi (B, U): the weight of each place u = 1..U under K Gaussians with parameters (B, K)."""
    places = jnp.arange(1, num_places + 1, dtype=kappa.dtype)[None, None, :]
    distance = kappa[:, :, None] - places
    return jnp.sum(alpha[:, :, None] * jnp.exp(-beta[:, :, None] * jnp.square(distance)), axis=1)


class WindowedCell(nn.Module):
    """The first layer and its window, which feed each other and so run in one loop."""

    cell: Any
    num_components: int
    step_bias: float  # initial b_p of kappa: log of characters per point

    @nn.compact
    def __call__(
        self, carry: tuple, xs: Array, letters: Array, mask: Array | None
    ) -> tuple[tuple, tuple[Array, Array, Array]]:
        """xs (T, B, 3), letters (B, U, A) -> carry, (h (T, B, H), w (T, B, A), phi (T, B, U+1))."""
        num_letters = letters.shape[-1]
        params = self.cell.parameters(xs.shape[-1] + num_letters)
        width = 3 * self.num_components
        kernel = self.param(
            "window_kernel", nn.initializers.lecun_normal(), (self.cell.features, width)
        )

        def start(rng: Array, shape: tuple[int, ...]) -> Array:
            alpha, beta, kappa = jnp.split(jnp.zeros(shape), 3)
            return jnp.concatenate([alpha, beta, kappa + self.step_bias])

        bias = self.param("window_bias", start, (width,))

        def step(carry: tuple, x: Array) -> tuple[tuple, tuple]:
            state, kappa, window = carry
            inputs = jnp.concatenate([x, window.astype(x.dtype)], axis=-1)
            state, h = self.cell.step(params, state, inputs)
            hats = jnp.matmul(h.astype(bias.dtype), kernel) + bias[None, :]
            alpha, beta, advance = jnp.split(jnp.exp(hats), 3, axis=-1)
            kappa = kappa + advance
            phi = gaussian_window(alpha, beta, kappa, letters.shape[1] + 1)
            window = jnp.einsum("bu,bua->ba", phi[:, :-1], letters)
            return (state, kappa, window), (h, window, phi)

        return scan_sequence(step, carry, xs, mask, remat=True)


class SynthesisNetwork(nn.Module):
    """The network. Batches are time-major here: the task transposes.

    Attributes:
      features: units per LSTM layer.
      num_layers: LSTM layers, at least 1.
      num_letters: A, the size of the alphabet.
      window_components: K.
      mixture_components: M.
      points_per_letter: the pace at which the window is expected to move; sets its first bias.
      norm: "layer" or None.
      dtype: of the products but the window's, and of the activations; None: float32.
    """

    features: int
    num_layers: int
    num_letters: int
    window_components: int
    mixture_components: int
    points_per_letter: float
    norm: Norm
    dtype: DType | None = None

    def setup(self) -> None:
        def cell() -> lnjax.LSTMCell:
            return lnjax.LSTMCell(self.features, norm=self.norm, dtype=self.dtype)

        self.first = WindowedCell(cell(), self.window_components, -math.log(self.points_per_letter))
        self.rest = [
            lnjax.RNN(cell(), time_major=True, return_carry=True)
            for _ in range(self.num_layers - 1)
        ]
        self.readout = lnjax.Dense(
            num_outputs(self.mixture_components), norm=None, dtype=self.dtype
        )

    def __call__(
        self, carry: Carry, xs: Array, text: Array, text_mask: Array, mask: Array | None = None
    ) -> tuple[Carry, Outputs]:
        """Reads points, tells the density of each next one.

        Args:
          carry: from `initial_carry` or an earlier call.
          xs: (T, B, 3) normalized offsets and pen lifts.
          text: (B, U) int32 letters.
          text_mask: (B, U) bool, True = a letter.
          mask: (T, B) bool, True = a point.
        """
        letters = jax.nn.one_hot(text, self.num_letters) * text_mask[..., None]
        xs = lnjax.ops.zero_padding(xs, mask)
        start = (carry.cells[0], carry.kappa, carry.window)
        (state, kappa, window), (h, windows, phi) = self.first(start, xs, letters, mask)
        states, hiddens = [state], [h]
        for rnn, state in zip(self.rest, carry.cells[1:], strict=True):
            inputs = jnp.concatenate([xs, hiddens[-1], windows.astype(xs.dtype)], axis=-1)
            state, h = rnn(inputs, initial_carry=state, mask=mask)
            states.append(state)
            hiddens.append(h)
        mixture = self.readout(jnp.concatenate(hiddens, axis=-1))
        return Carry(tuple(states), kappa, window), Outputs(mixture, phi)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        """All zeros: nothing written, the window before the first letter."""
        zeros = jnp.zeros((batch, self.features))
        return Carry(
            cells=((zeros, zeros),) * self.num_layers,
            kappa=jnp.full((batch, self.window_components), WINDOW_START),
            window=jnp.zeros((batch, self.num_letters)),
        )

r"""DRAW (Gregor et al. 2015) over LSTMs with layer norm on the cell (Ba et al. 2016, Eq. 29-31).

.. math::
    \hat x_t &= x - s(c_{t-1}) \\
    h^{enc}_t &= \mathrm{LSTM}_{enc}(h^{enc}_{t-1},\,
        [\mathrm{read}(x, \hat x_t, h^{dec}_{t-1}), h^{dec}_{t-1}]) \\
    (\mu_t, \log\sigma_t) &= W h^{enc}_t + b, \qquad z_t = \mu_t + \sigma_t \epsilon_t \\
    h^{dec}_t &= \mathrm{LSTM}_{dec}(h^{dec}_{t-1}, z_t) \\
    c_t &= c_{t-1} + \mathrm{write}(h^{dec}_t)

for t = 1..T from zeros; s is the sigmoid and the canvas c holds logits. With attention, read and
write go through windows of `attention`, each placed by a linear map of :math:`h^{dec}` of its own;
without, ``read = [x, xhat]`` and write is linear.

The noise is drawn before the loop and handed in. What depends on the image alone is computed once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import lnjax
from lnjax.cells.lstm import LSTMCarry, LSTMParams, Norm
from lnjax.cells.running import product
from lnjax.ops import scan_sequence
from lnjax.typing import Array, DType
from tasks.draw import attention, bound


class Affine(NamedTuple):
    """A linear map with its bias."""

    kernel: Array  # (D, F)
    bias: Array  # (F,)


class Decoder(NamedTuple):
    """Parameters of what draws."""

    lstm: LSTMParams
    write: Affine
    window: Affine | None  # None: without attention


class Carry(NamedTuple):
    """What goes from glimpse to glimpse."""

    canvas: Array  # (batch, B, A) logits
    encoder: LSTMCarry
    decoder: LSTMCarry


class Nats(NamedTuple):
    """The terms of the bound, per image: see `bound`."""

    reconstruction: Array  # (batch,)
    kl: Array  # (T, batch)
    log_ratio: Array  # (T, batch) log p(z) - log q(z | x) of the sampled z


class Traced(NamedTuple):
    """How images were drawn, time-major. Frames as in `attention.frame`."""

    canvases: Array  # (T, batch, B, A) logits after each glimpse
    write: Array | None  # (T, batch, 5) where it wrote; None without attention
    read: Array | None  # (T, batch, 5) where it read; None without attention or image


class DrawNetwork(nn.Module):
    """The network.

    Attributes:
      features: units of each LSTM.
      latents: Z, numbers in each z_t.
      glimpses: T.
      shape: (B, A), height and width of the images.
      attention: whether read and write go through windows.
      read_size, write_size: N of the windows, at least 2; not used without attention.
      norm: "layer", "rms" or None.
      init_std: deviation of the Gaussian that every kernel starts with; biases start at 0.
      dtype: of the products; None: float32. Windows, filters and canvas are float32 at least.
    """

    features: int
    latents: int
    glimpses: int
    shape: tuple[int, int]
    attention: bool
    read_size: int
    write_size: int
    norm: Norm
    init_std: float
    dtype: DType | None = None

    def setup(self) -> None:
        start = nn.initializers.normal(self.init_std)

        def cell() -> lnjax.LSTMCell:
            return lnjax.LSTMCell(
                self.features,
                norm=self.norm,
                sites=("cell",),
                dtype=self.dtype,
                kernel_init=start,
                recurrent_kernel_init=start,
            )

        def affine(name: str, width: int) -> Affine:
            return Affine(
                self.param(f"{name}_kernel", start, (self.features, width)),
                self.param(f"{name}_bias", nn.initializers.zeros_init(), (width,)),
            )

        height, width = self.shape
        self.encoder, self.decoder = cell(), cell()
        self.posterior = affine("posterior", 2 * self.latents)
        self.write = affine("write", self.write_size**2 if self.attention else height * width)
        if self.attention:
            self.read_window = affine("read_window", attention.NUM_PARAMETERS)
            self.write_window = affine("write_window", attention.NUM_PARAMETERS)

    def __call__(self, images: Array, noise: Array) -> Nats:
        """The terms of the bound.

        Args:
          images: (batch, B, A) of 0 and 1, floating point.
          noise: (T, batch, Z) standard normal.
        """
        step = self._infer(images)

        def terms(carry: Carry, epsilon: Array) -> tuple[Carry, tuple[Array, Array]]:
            carry, (mean, log_deviation, z), _ = step(carry, epsilon)
            ratio = bound.log_ratio(z, epsilon, log_deviation)
            return carry, (bound.kl(mean, log_deviation), ratio)

        # What a glimpse computes is computed again in the backward pass: 64 of them would be kept.
        carry, (kl, ratio) = scan_sequence(terms, self._start(images), noise, remat=True)
        return Nats(bound.reconstruction(carry.canvas, images), kl, ratio)

    def reconstruct(self, images: Array, noise: Array) -> Traced:
        """Draws what it saw: arguments as above."""
        step = self._infer(images)

        def trace(carry: Carry, epsilon: Array) -> tuple[Carry, Traced]:
            carry, _, frames = step(carry, epsilon)
            return carry, Traced(carry.canvas, *frames)

        return scan_sequence(trace, self._start(images), noise)[1]

    def generate(self, z: Array) -> Traced:
        """Draws from z (T, batch, Z), which the prior makes standard normal."""
        params = self._decoder()

        def trace(carry: tuple[Array, LSTMCarry], z: Array) -> tuple[tuple, Traced]:
            canvas, state, written = self._draw(params, *carry, z)
            return (canvas, state), Traced(canvas, written, None)

        start = self._start(jnp.zeros((z.shape[1], *self.shape), z.dtype))
        return scan_sequence(trace, (start.canvas, start.decoder), z)[1]

    # ---- one glimpse --------------------------------------------------------------------------

    def _infer(self, images: Array) -> Callable[..., Any]:
        """A glimpse: (carry, noise (batch, Z)) -> carry, (mean, log deviation, z), frames."""
        decoder = self._decoder()
        see, encoder = self._look(images) if self.attention else self._stare(images)
        posterior, functions = self.posterior, self.encoder.functions(encoder)

        def step(carry: Carry, epsilon: Array) -> tuple[Carry, tuple, tuple]:
            projected, seen = see(carry.canvas, carry.decoder[1])
            state, _ = functions.step(encoder, carry.encoder, projected)
            mean, log_deviation = jnp.split(self._affine(posterior, state[1]), 2, axis=-1)
            z = mean + jnp.exp(log_deviation) * epsilon
            canvas, decoder_state, written = self._draw(decoder, carry.canvas, carry.decoder, z)
            carry = Carry(canvas, state, decoder_state)
            return carry, (mean, log_deviation, z), (written, seen)

        return step

    def _look(self, images: Array) -> tuple[Callable[..., tuple[Array, Array]], LSTMParams]:
        """With attention: (canvas, h_dec) -> input side of the encoder's gates, frame."""
        size = self.read_size
        params, place = self.encoder.parameters(2 * size**2 + self.features), self.read_window
        project = self.encoder.functions(params).project_inputs

        def see(canvas: Array, h: Array) -> tuple[Array, Array]:
            at = attention.window(self._affine(place, h), size, self.shape)
            both = jnp.stack([images, images - jax.nn.sigmoid(canvas)], axis=1)
            patches = attention.read(both, at, size).reshape(len(images), -1)
            inputs = jnp.concatenate([patches, h], axis=-1)
            return project(params, inputs), attention.frame(at, size)

        return see, params

    def _stare(self, images: Array) -> tuple[Callable[..., tuple[Array, None]], LSTMParams]:
        """Without attention: as `_look`, of the whole image.

        ``[x, x - s(c), h] K + b`` is linear, as this cell has no norm on its input side: what x
        contributes, through both of its places, is the same at every glimpse.
        """
        flat = images.reshape(len(images), -1)
        pixels = flat.shape[-1]
        params = self.encoder.parameters(2 * pixels + self.features)
        of_x, of_error, of_h = jnp.split(params.kernel, [pixels, 2 * pixels])
        project = self.encoder.functions(params).project_inputs
        fixed = project(params._replace(kernel=of_x + of_error), flat)
        moving = jnp.concatenate([-of_error, of_h])

        def see(canvas: Array, h: Array) -> tuple[Array, None]:
            painted = jax.nn.sigmoid(canvas).reshape(flat.shape)
            inputs = jnp.concatenate([painted, h], axis=-1)
            return fixed + product(inputs, moving, self.dtype), None

        return see, params

    def _draw(
        self, params: Decoder, canvas: Array, state: LSTMCarry, z: Array
    ) -> tuple[Array, LSTMCarry, Array | None]:
        """One z (batch, Z) onto the canvas, and the frame of where it went."""
        state, _ = self.decoder.step(params.lstm, state, z)
        paint = self._affine(params.write, state[1])
        if params.window is None:
            return canvas + paint.reshape(canvas.shape), state, None
        size = self.write_size
        at = attention.window(self._affine(params.window, state[1]), size, self.shape)
        patch = paint.reshape(-1, size, size)
        added = attention.write(patch, at, self.shape)
        return canvas + added, state, attention.frame(at, size)

    def _decoder(self) -> Decoder:
        lstm = self.decoder.parameters(self.latents)
        return Decoder(lstm, self.write, self.write_window if self.attention else None)

    def _affine(self, params: Affine, h: Array) -> Array:
        summed = product(h, params.kernel, self.dtype)
        return summed + params.bias[None, :]

    def _start(self, images: Array) -> Carry:
        zeros = jnp.zeros((len(images), self.features), images.dtype)
        return Carry(jnp.zeros_like(images), (zeros, zeros), (zeros, zeros))

r"""The layer-normalized LSTM (Ba et al. 2016, Eq. 20-22).

.. math::
    (i, f, g, o)_t &= \mathrm{LN}(h_{t-1} W_h) \odot s_h + \mathrm{LN}(x_t W_x) \odot s_x + b \\
    c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
    h_t &= \sigma(o_t) \odot \tanh(\mathrm{LN}(c_t) \odot s_c + b_c)

with ``norm=None`` the same without LN, :math:`s` and :math:`b_c`.

Conventions, because six different functions go by this name:

* Each projection is normalized apart, over all 4H summed inputs jointly, not gate by gate.
* The carried ``c`` is *not* normalized; only the copy of it that feeds the output is.
* One bias: the paper's two betas and its b are added together, so one vector says the same.
  (Counted as the paper writes them there would be 8H more parameters.)
* Gates lie in the order i, f, g, o. No peepholes. No offset on the forget gate.
* Gain 1, bias 0 at the start; epsilon 1e-5 inside the root.
* Summed inputs, statistics and gates are at least float32, whatever `dtype` the products and
  outputs have. The carry keeps the dtype that it starts with, float32 unless it is given another.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.base import Cell, Implementation, check_choice, per_gate, product
from lnjax.ops import layer_norm, scan_sequence, zero_padding
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, DType, PRNGKey

Norm = Literal["layer"] | None
LSTMCarry = tuple[Array, Array]  # (c, h), both (B, H), in Flax's order


class LSTMParams(NamedTuple):
    """Parameters of an LSTM over inputs of width D; the last four are None without a norm."""

    kernel: Array  # (D, 4H)
    recurrent_kernel: Array  # (H, 4H)
    bias: Array  # (4H,)
    scale_x: Array | None = None  # (4H,)
    scale_h: Array | None = None  # (4H,)
    scale_c: Array | None = None  # (H,)
    bias_c: Array | None = None  # (H,)


def project_inputs(
    params: LSTMParams,
    xs: Array,
    *,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
) -> Array:
    """The input side of the gates, (..., D) -> (..., 4H), for any number of time steps at once."""
    _check_norm(params, norm)
    summed_x = product(xs, params.kernel, dtype)
    if norm == "layer":
        summed_x = layer_norm(summed_x, params.scale_x, epsilon=epsilon)
    bias = jnp.broadcast_to(params.bias, summed_x.shape)
    return summed_x + bias.astype(summed_x.dtype)


def step(
    params: LSTMParams,
    carry: LSTMCarry,
    projected_x: Array,
    *,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
) -> tuple[LSTMCarry, Array]:
    """One step: carry (c, h) each (B, H), projected_x (B, 4H) -> new carry, output h (B, H)."""
    _check_norm(params, norm)
    c, h = carry
    summed_h = product(h, params.recurrent_kernel, dtype)
    if norm == "layer":
        summed_h = layer_norm(summed_h, params.scale_h, epsilon=epsilon)
    i, f, g, o = jnp.split(summed_h + projected_x, 4, axis=-1)
    new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    cell = new_c
    if norm == "layer":
        cell = layer_norm(new_c, params.scale_c, params.bias_c, epsilon=epsilon)
    new_h = jax.nn.sigmoid(o) * jnp.tanh(cell)
    return (new_c.astype(c.dtype), new_h.astype(h.dtype)), new_h


def lstm(
    params: LSTMParams,
    xs: Array,
    carry: LSTMCarry | None = None,
    *,
    mask: Array | None = None,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    reverse: bool = False,
    unroll: int = 1,
    implementation: Implementation = "auto",
) -> tuple[LSTMCarry, Array]:
    """Runs the LSTM over a time-major sequence.

    Args:
      params: an `LSTMParams`.
      xs: (T, B, D); further batch axes may follow B.
      carry: initial (c, h), each (B, H); None means zeros, in at least float32.
      mask: (T, B) bool, True = real. A step that is not real holds the carry and outputs zero.
      norm: "layer" or None.
      epsilon: of the layer norms.
      dtype: of the operands of the products and of the outputs. None: the products are taken in the
        common dtype of inputs and parameters, and the outputs have that of the inputs (that of the
        parameters if the inputs are integers).
      reverse: from the last step to the first; outputs stay at the time of their input.
      unroll: steps per iteration of the compiled loop.
      implementation: "scan", the plain scan over `step`; or "auto", the best path there is: today
        the scan that recomputes each step in the backward pass.

    Returns:
      The final carry (c, h), and the outputs h (T, B, H).

    Raises:
      ValueError: `norm` or `implementation` is not known, or the parameters are of another norm.
      AssertionError: shapes or the mask's dtype are not those above.

    >>> import jax, jax.numpy as jnp
    >>> cell = LSTMCell(features=5)
    >>> xs = jax.random.normal(jax.random.key(0), (7, 2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(1), xs[0].shape)
    >>> variables = cell.init(jax.random.key(2), carry, xs[0])
    >>> (c, h), ys = lstm(LSTMParams(**variables["params"]), xs)
    >>> c.shape, ys.shape, bool((h == ys[-1]).all())
    ((2, 5), (7, 2, 5), True)
    """
    _check_norm(params, norm)
    check_choice("implementation", implementation, ("auto", "scan"))
    params, xs = _as_arrays(params, xs)
    chex.assert_axis_dimension(params.kernel, 0, xs.shape[-1])
    if mask is not None:
        chex.assert_shape(mask, xs.shape[:-1])
        chex.assert_type(mask, bool)
    if carry is None:
        features = params.recurrent_kernel.shape[0]
        zeros = jnp.zeros((*xs.shape[1:-1], features), statistics_dtype(xs.dtype))
        carry = (zeros, zeros)
    carry = jax.tree.map(jnp.asarray, carry)
    xs = zero_padding(xs, mask)
    projected = project_inputs(params, xs, norm=norm, epsilon=epsilon, dtype=dtype)
    one_step = partial(step, params, norm=norm, epsilon=epsilon, dtype=dtype)
    carry, ys = scan_sequence(
        one_step,
        carry,
        projected,
        mask,
        reverse=reverse,
        unroll=unroll,
        remat=implementation == "auto",
    )
    return carry, ys.astype(xs.dtype if dtype is None else dtype)


def _check_norm(params: LSTMParams, norm: Norm) -> None:
    """Refuses an unknown norm, and one that the parameters were not made for."""
    check_choice("norm", norm, ("layer", None))
    if (params.scale_h is None) != (norm is None):
        have = "no scales" if params.scale_h is None else "scales"
        raise ValueError(f"norm={norm!r}, but the parameters have {have}")


def _as_arrays(params: LSTMParams, xs: Array) -> tuple[LSTMParams, Array]:
    """NumPy becomes jax (float64 falls to float32 unless x64 is on), integer inputs floats."""
    params, xs = jax.tree.map(jnp.asarray, (params, xs))
    is_float = jnp.issubdtype(xs.dtype, jnp.floating)
    return params, xs if is_float else xs.astype(params.kernel.dtype)


class LSTMCell(Cell):
    """LSTM cell with layer normalization; equations and conventions at the head of this module.

    Called as `flax.linen.LSTMCell` is, with the same carry ``(c, h)``; it works under
    `flax.linen.RNN` as under `lnjax.RNN`.

    Attributes:
      features: H.
      norm: "layer", or None for the plain LSTM.
      epsilon: of the layer norms.
      dtype: of the operands of the products and of the outputs; None: see `lnjax.lstm`.
      param_dtype: of the parameters, and of the initial carry.
      kernel_init: for each (D, H) gate block of `kernel`.
      recurrent_kernel_init: for each (H, H) gate block of `recurrent_kernel`.
      scale_init: for the gains.
      bias_init: for the biases.
      carry_init: for c and h.

    >>> import jax, jax.numpy as jnp
    >>> cell = LSTMCell(features=4)
    >>> x = jnp.ones((2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
    >>> (carry, y), variables = cell.init_with_output(jax.random.key(1), carry, x)
    >>> y.shape, sorted(variables["params"])
    ((2, 4), ['bias', 'bias_c', 'kernel', 'recurrent_kernel', 'scale_c', 'scale_h', 'scale_x'])
    """

    features: int
    norm: Norm = "layer"
    epsilon: float = 1e-5
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    recurrent_kernel_init: Callable[..., Array] = nn.initializers.orthogonal()
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()
    carry_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def parameters(self, in_features: int) -> LSTMParams:
        """Declares (or finds) the parameters for inputs (..., in_features)."""
        check_choice("norm", self.norm, ("layer", None))
        width, gates, dtype = self.features, 4 * self.features, self.param_dtype
        kernel_init = per_gate(self.kernel_init, 4)
        recurrent_init = per_gate(self.recurrent_kernel_init, 4)
        params = LSTMParams(
            kernel=self.param("kernel", kernel_init, (in_features, gates), dtype),
            recurrent_kernel=self.param("recurrent_kernel", recurrent_init, (width, gates), dtype),
            bias=self.param("bias", self.bias_init, (gates,), dtype),
        )
        if self.norm is None:
            return params
        return params._replace(
            scale_x=self.param("scale_x", self.scale_init, (gates,), dtype),
            scale_h=self.param("scale_h", self.scale_init, (gates,), dtype),
            scale_c=self.param("scale_c", self.scale_init, (width,), dtype),
            bias_c=self.param("bias_c", self.bias_init, (width,), dtype),
        )

    def __call__(self, carry: LSTMCarry, inputs: Array) -> tuple[LSTMCarry, Array]:
        """One step: carry (c, h) each (..., H), inputs (..., D) -> new carry, output (..., H)."""
        return self.step(self.parameters(inputs.shape[-1]), carry, inputs)

    def step(self, params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
        """One step as a pure function: carry (c, h), x (..., D) -> new carry, output (..., H)."""
        params, x = _as_arrays(params, x)
        carry = jax.tree.map(jnp.asarray, carry)
        projected = project_inputs(
            params, x, norm=self.norm, epsilon=self.epsilon, dtype=self.dtype
        )
        carry, y = step(
            params, carry, projected, norm=self.norm, epsilon=self.epsilon, dtype=self.dtype
        )
        return carry, y.astype(x.dtype if self.dtype is None else self.dtype)

    def run(
        self,
        params: LSTMParams,
        carry: LSTMCarry,
        xs: Array,
        mask: Array | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ) -> tuple[LSTMCarry, Array]:
        """The whole sequence: xs (T, B, D), mask (T, B) -> final (c, h), outputs (T, B, H)."""
        return lstm(
            params,
            xs,
            carry,
            mask=mask,
            norm=self.norm,
            epsilon=self.epsilon,
            dtype=self.dtype,
            reverse=reverse,
            unroll=unroll,
            implementation=implementation,
        )

    @nn.nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> LSTMCarry:
        """The initial (c, h) for inputs of `input_shape` (..., D): each (..., H) in param_dtype."""
        shape = (*input_shape[:-1], self.features)
        rng_c, rng_h = jax.random.split(rng)
        return (
            self.carry_init(rng_c, shape, self.param_dtype),
            self.carry_init(rng_h, shape, self.param_dtype),
        )

    @property
    def num_feature_axes(self) -> int:
        return 1

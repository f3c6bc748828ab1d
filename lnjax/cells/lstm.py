r"""The layer-normalized LSTM (Ba et al. 2016, Eq. 20-22).

.. math::
    (i, f, g, o)_t &= \mathrm{LN}(h_{t-1} W_h) \odot s_h + \mathrm{LN}(x_t W_x) \odot s_x + b \\
    c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
    h_t &= \sigma(o_t) \odot \tanh(\mathrm{LN}(c_t) \odot s_c + b_c)

`sites` says which of the norms there are: "recurrent", "input" and "cell" are the three above, from
left to right. ``sites=("cell",)`` is the LSTM of the paper's DRAW experiment (Eq. 29-31). The site
"carried_cell" in place of "cell" carries the normalized c, which is another function: it is what
TF-Addons and PyTorch's benchmark compute. With ``norm="rms"`` the root mean square stands for LN;
with ``norm=None`` there is no norm, no :math:`s` and no :math:`b_c`.

Conventions, because six different functions go by this name:

* Each projection is normalized apart, over all 4H summed inputs jointly, not gate by gate.
* The carried ``c`` is *not* normalized; only the copy of it that feeds the output is.
* One bias: the paper's two betas and its b are added together, so one vector says the same.
  (Counted as the paper writes them there would be 8H more parameters.)
* Gates lie in the order i, f, g, o. No peepholes. No offset on the forget gate, unless
  ``bias_init=lnjax.forget_gate_bias(1.0)`` asks for one.
* Gain 1, bias 0 at the start; epsilon 1e-5 inside the root.
* Summed inputs, statistics and gates are at least float32, whatever `dtype` the products and
  outputs have. The carry keeps the dtype that it starts with: that of the parameters, but
  at least float32, unless it is given another.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells import norm_derivative
from lnjax.cells.base import NormalizedCell
from lnjax.cells.chunked import Derivative
from lnjax.cells.norm_derivative import Normalized, after_centring, centre, over_rows
from lnjax.cells.running import (
    NO_NOISE,
    Functions,
    Implementation,
    Noise,
    Norm,
    add_bias,
    check_norm,
    check_parameters,
    normalize,
    product,
    recurrent_product,
    run_sequence,
)
from lnjax.typing import Array, DType, PRNGKey

SITES = ("recurrent", "input", "cell")
LSTMCarry = tuple[Array, Array]  # (c, h), both (B, H), in Flax's order


class LSTMParams(NamedTuple):
    """Parameters of an LSTM over inputs of width D; those of a site that has no norm are None."""

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
    return project(params, product(xs, params.kernel, dtype), norm=norm, epsilon=epsilon)


def project(params: LSTMParams, summed_x: Array, *, norm: Norm, epsilon: float) -> Array:
    """What of `project_inputs` is behind its product: (..., 4H) -> (..., 4H)."""
    return add_bias(normalize(norm, epsilon, summed_x, params.scale_x), params.bias)


def step(
    params: LSTMParams,
    carry: LSTMCarry,
    projected_x: Array,
    *,
    norm: Norm = "layer",
    sites: Sequence[str] = SITES,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    dropout_h: Array | None = None,
) -> tuple[LSTMCarry, Array]:
    """One step: carry (c, h) each (B, H), projected_x (B, 4H) -> new carry, output h (B, H)."""
    c, h = carry
    summed_h = recurrent_product(h, params.recurrent_kernel, dtype, dropout_h)
    new_c, new_h = update(
        params,
        carry,
        summed_h,
        projected_x,
        norm=norm,
        cell_norm=norm,
        sites=sites,
        epsilon=epsilon,
    )
    return (new_c.astype(c.dtype), new_h.astype(h.dtype)), new_h


def update(
    params: LSTMParams,
    carry: LSTMCarry,
    summed_h: Array,
    projected_x: Array,
    *,
    norm: Norm,
    cell_norm: Norm,
    sites: Sequence[str],
    epsilon: float,
) -> LSTMCarry:
    """What of a step is behind its product: summed_h, projected_x (..., 4H) -> new (c, h)."""
    i, f, g, o = gates_of(params, summed_h, projected_x, norm=norm, epsilon=epsilon)
    new_c = f * carry[0] + i * g
    cell = normalize(cell_norm, epsilon, new_c, params.scale_c)
    if params.bias_c is not None:
        cell = add_bias(cell, params.bias_c)
    return cell if "carried_cell" in sites else new_c, o * jnp.tanh(cell)


def gates_of(
    params: LSTMParams, summed_h: Array, projected_x: Array, *, norm: Norm, epsilon: float
) -> tuple[Array, Array, Array, Array]:
    """i, f, g and o of the two sides of a step, each (..., 4H)."""
    return gates(normalize(norm, epsilon, summed_h, params.scale_h) + projected_x)


def gates(summed: Array) -> tuple[Array, Array, Array, Array]:
    """i, f, g and o of their summed inputs (..., 4H)."""
    i, f, g, o = jnp.split(summed, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


class Coefficients(NamedTuple):
    """The linearized step; what belongs to a norm is None without it."""

    gates: Array  # (..., 4H): of the summed inputs in c (i, f, g) and in h (o)
    forget: Array  # (..., H): of the old c in the new
    cell: Array  # (..., H): of what enters the last tanh in h
    summed_h: Normalized | None
    c: Normalized | None


def linearize(
    params: LSTMParams,
    carry: LSTMCarry,
    summed_h: Array,
    projected_x: Array,
    *,
    norm: Norm,
    cell_norm: Norm,
    epsilon: float,
) -> Coefficients:
    """`update` at this point, for any leading axes."""
    summed_h, of_h = norm_derivative.normalize(norm, epsilon, summed_h, params.scale_h)
    i, f, g, o = gates(summed_h + projected_x)
    c = carry[0]
    cell, of_c = norm_derivative.normalize(cell_norm, epsilon, f * c + i * g, params.scale_c)
    if params.bias_c is not None:
        cell = add_bias(cell, params.bias_c)
    y = jnp.tanh(cell)
    slopes = [g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), y * o * (1 - o)]
    return Coefficients(jnp.concatenate(slopes, axis=-1), f, o * (1 - y * y), of_h, of_c)


def pull_back(
    params: LSTMParams,
    at: Coefficients,
    d_carry: LSTMCarry,
    *,
    norm: Norm,
    cell_norm: Norm,
    sites: Sequence[str],
) -> tuple[Array, tuple[Array, None], tuple[Array, Array, Array | None]]:
    """One step back: cotangents of summed_h, of the old carry, and of what `gradients` needs."""
    d_c, d_h = d_carry
    d_cell = d_h * at.cell
    if "carried_cell" in sites:
        d_cell, d_c = d_cell + d_c, jnp.zeros_like(d_c)
    d_c = d_c + norm_derivative.pull_back(cell_norm, at.c, d_cell, params.scale_c)
    d_summed = jnp.concatenate([d_c, d_c, d_c, d_h], axis=-1) * at.gates
    d_summed = norm_derivative.pull_back(norm, at.summed_h, d_summed, params.scale_h)
    kept = d_c, d_h, d_cell if "carried_cell" in sites else None
    return d_summed, (d_c * at.forget, None), kept


def gradients(
    params: LSTMParams, at: Coefficients, kept: tuple[Array, Array, Array | None]
) -> tuple[dict[str, Array], Array]:
    """Of gains and biases behind the products, summed over a chunk; and of projected_x."""
    d_c, d_h, d_cell = kept
    d_summed = jnp.concatenate([d_c, d_c, d_c, d_h], axis=-1) * at.gates
    by_name = {}
    if at.summed_h is not None:
        by_name["scale_h"] = over_rows(d_summed * at.summed_h.values)
    if at.c is not None:
        d_cell = d_h * at.cell if d_cell is None else d_cell
        by_name |= {"scale_c": over_rows(d_cell * at.c.values), "bias_c": over_rows(d_cell)}
    return by_name, d_summed


def lstm(
    params: LSTMParams,
    xs: Array,
    carry: LSTMCarry | None = None,
    *,
    mask: Array | None = None,
    norm: Norm = "layer",
    sites: Sequence[str] = SITES,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    noise: Noise = NO_NOISE,
    reverse: bool = False,
    unroll: int = 1,
    implementation: Implementation = "auto",
) -> tuple[LSTMCarry, Array]:
    """Runs the LSTM over a time-major sequence.

    Args:
      params: an `LSTMParams`.
      xs: (T, B, D); further batch axes may follow B, in the mask and the carry too.
      carry: initial (c, h), each (B, H); None means zeros, in the dtype of the
        parameters but at least float32.
      mask: (T, B) bool, True = real. A step that is not real holds the carry and outputs zero.
      norm: "layer", "rms" or None.
      sites: where the norm stands.
      epsilon: of the norms.
      dtype: of the operands of the products and of the outputs. None: each product is taken in the
        common dtype of its two operands, and the outputs have that of the inputs. (Integer inputs
        become that of the parameters, but at least float32.)
      noise: dropout and zoneout masks, drawn beforehand.
      reverse: from the last step to the first; outputs stay at the time of their input.
      unroll: steps per iteration of the compiled loop.
      implementation: "scan", the plain scan over `step`, for derivatives of every mode; "chunked",
        the fast path, which has no forward mode, or a `Chunked` that says how; or "auto", the fast
        path where there is one, else a scan that computes each step again in the backward pass.

    Returns:
      The final carry (c, h), and the outputs h (T, B, H).

    Raises:
      ValueError: `norm`, a site or `implementation` is not known, the parameters are of another
        norm or other sites, or a shape or dtype is not one of those above.
      TypeError: the parameters are no `LSTMParams`, or the inputs are not real numbers.

    >>> import jax, jax.numpy as jnp
    >>> cell = LSTMCell(features=5)
    >>> xs = jax.random.normal(jax.random.key(0), (7, 2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(1), xs[0].shape)
    >>> variables = cell.init(jax.random.key(2), carry, xs[0])
    >>> (c, h), ys = lstm(LSTMParams(**variables["params"]), xs)
    >>> c.shape, ys.shape, bool((h == ys[-1]).all())
    ((2, 5), (7, 2, 5), True)
    """
    return run_sequence(
        functions(params, norm, sites, epsilon, dtype),
        params,
        carry,
        xs,
        mask,
        noise,
        carry_names=("c", "h"),
        dtype=dtype,
        reverse=reverse,
        unroll=unroll,
        implementation=implementation,
    )


def functions(
    params: LSTMParams, norm: Norm, sites: Sequence[str], epsilon: float, dtype: DType | None
) -> Functions:
    """The halves of a step for these choices; refuses parameters that are of others."""
    _check_sites(norm, sites)
    cell = "cell" in sites or "carried_cell" in sites
    check_parameters(
        params,
        LSTMParams,
        f"norm={norm!r}, sites={tuple(sites)!r}",
        scale_x=norm is not None and "input" in sites,
        scale_h=norm is not None and "recurrent" in sites,
        scale_c=norm is not None and cell,
        bias_c=norm is not None and cell,
    )
    options = {"norm": norm, "epsilon": epsilon, "dtype": dtype}
    return Functions(
        partial(project_inputs, **options),
        partial(step, sites=sites, **options),
        _derivative(norm, tuple(sites), epsilon),
    )


def _derivative(norm: Norm, sites: tuple[str, ...], epsilon: float) -> Derivative:
    centred = after_centring(norm)
    options = {"norm": centred, "cell_norm": norm}

    def centre_kernels(params: LSTMParams) -> LSTMParams:
        if norm == "layer" and "input" in sites:
            params = params._replace(kernel=centre(params.kernel))
        if norm == "layer" and "recurrent" in sites:
            params = params._replace(recurrent_kernel=centre(params.recurrent_kernel))
        return params

    return Derivative(
        centre_kernels,
        partial(project, norm=centred, epsilon=epsilon),
        partial(update, sites=sites, epsilon=epsilon, **options),
        partial(linearize, epsilon=epsilon, **options),
        partial(pull_back, sites=sites, **options),
        gradients,
    )


def _check_sites(norm: Norm, sites: Sequence[str]) -> None:
    check_norm(norm, sites, (*SITES, "carried_cell"))
    if "cell" in sites and "carried_cell" in sites:
        raise ValueError(f"sites={sites!r}: the cell is normalized once, so name one of the two")


class LSTMCell(NormalizedCell):
    """LSTM cell with layer normalization; equations and conventions at the head of this module.

    Its call is that of `flax.linen.LSTMCell`, with the same carry ``(c, h)``; it works under
    `flax.linen.RNN` as under `lnjax.RNN`.

    Attributes:
      features: H.
      norm: "layer", "rms", or None for the plain LSTM.
      epsilon, dtype, param_dtype, kernel_init, recurrent_kernel_init, scale_init, bias_init,
        carry_init: see `NormalizedCell`.
      sites: where the norm stands, if there is one: of "recurrent", "input", and "cell" or
        "carried_cell".

    >>> import jax, jax.numpy as jnp
    >>> cell = LSTMCell(features=4)
    >>> x = jnp.ones((2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
    >>> (carry, y), variables = cell.init_with_output(jax.random.key(1), carry, x)
    >>> y.shape, sorted(variables["params"])
    ((2, 4), ['bias', 'bias_c', 'kernel', 'recurrent_kernel', 'scale_c', 'scale_h', 'scale_x'])
    """

    carry_names: ClassVar[tuple[str, ...]] = ("c", "h")
    sites: Sequence[str] = SITES

    @nn.compact
    def parameters(self, in_features: int) -> LSTMParams:
        """Declares (or finds) the parameters for inputs (..., in_features)."""
        _check_sites(self.norm, self.sites)
        params = LSTMParams(**self.weights(in_features, 4))
        if self.norm is None:
            return params
        if "input" in self.sites:
            params = params._replace(scale_x=self.scale("scale_x", 4 * self.features))
        if "recurrent" in self.sites:
            params = params._replace(scale_h=self.scale("scale_h", 4 * self.features))
        if "cell" in self.sites or "carried_cell" in self.sites:
            params = params._replace(
                scale_c=self.scale("scale_c", self.features),
                bias_c=self.zeros("bias_c", self.features),
            )
        return params

    def functions(self, params: Any) -> Functions:
        return functions(params, self.norm, self.sites, self.epsilon, self.dtype)


def forget_gate_bias(offset: float) -> Callable[..., Array]:
    """An initializer for the bias of an LSTM: `offset` on the forget gate, zero elsewhere.

    With a positive offset the cell remembers from the start (Gers et al. 2000; Jozefowicz et al.
    2015). The paper's cells have none; the authors' Torch module for DRAW has one of -4.

    >>> cell = LSTMCell(features=2, bias_init=forget_gate_bias(1.0))
    >>> forget_gate_bias(1.0)(None, (8,)).tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    def init(rng: PRNGKey | None, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        (gates,) = shape
        if gates % 4:
            raise ValueError(f"the bias of an LSTM has a length 4H, not {gates}")
        return jnp.zeros(shape, dtype).at[gates // 4 : gates // 2].set(offset)

    return init

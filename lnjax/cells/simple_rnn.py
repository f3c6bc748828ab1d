r"""The layer-normalized simple (Elman) RNN (Ba et al. 2016, Eq. 4).

.. math::
    h_t = \tanh\bigl(\mathrm{LN}(h_{t-1} W_h + x_t W_x) \odot s + b\bigr)

with ``sites=("sum",)``, the paper's form and the default: the sum is normalized once. With
``sites=("recurrent", "input")`` each projection is normalized apart, as in the paper's gated cells:

.. math::
    h_t = \tanh\bigl(\mathrm{LN}(h_{t-1} W_h) \odot s_h + \mathrm{LN}(x_t W_x) \odot s_x + b\bigr)

and either of the two sites may stand alone. With ``norm="rms"`` the root mean square stands for LN;
with ``norm=None`` there is no norm and no :math:`s`.

Conventions:

* `activation` takes the place of tanh.
* Gain 1, bias 0 at the start; epsilon 1e-5 inside the root.
* Summed inputs and statistics are at least float32, whatever `dtype` the products and outputs have.
  The carry keeps the dtype that it starts with: that of the parameters, but at least float32,
  unless it is given another.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

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
from lnjax.typing import Array, DType

SITES = ("sum",)
Activation = Callable[[Array], Array]


class SimpleParams(NamedTuple):
    """Parameters of a simple RNN over inputs of width D; those of a site without norm are None."""

    kernel: Array  # (D, H)
    recurrent_kernel: Array  # (H, H)
    bias: Array  # (H,)
    scale: Array | None = None  # (H,), of the sum
    scale_x: Array | None = None  # (H,)
    scale_h: Array | None = None  # (H,)


def project_inputs(
    params: SimpleParams,
    xs: Array,
    *,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
) -> Array:
    """The input side, (..., D) -> (..., H), for any number of time steps at once."""
    return project(params, product(xs, params.kernel, dtype), norm=norm, epsilon=epsilon)


def project(params: SimpleParams, summed_x: Array, *, norm: Norm, epsilon: float) -> Array:
    """What of `project_inputs` is behind its product: (..., H) -> (..., H)."""
    return normalize(norm, epsilon, summed_x, params.scale_x)


def step(
    params: SimpleParams,
    h: Array,
    projected_x: Array,
    *,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    activation: Activation = jnp.tanh,
    dtype: DType | None = None,
    dropout_h: Array | None = None,
) -> tuple[Array, Array]:
    """One step: carry h (B, H), projected_x (B, H) -> new carry, output h (B, H)."""
    summed_h = recurrent_product(h, params.recurrent_kernel, dtype, dropout_h)
    (new_h,) = update(
        params, (h,), summed_h, projected_x, norm=norm, epsilon=epsilon, activation=activation
    )
    return new_h.astype(h.dtype), new_h


def update(
    params: SimpleParams,
    carry: tuple[Array],
    summed_h: Array,
    projected_x: Array,
    *,
    norm: Norm,
    epsilon: float,
    activation: Activation,
) -> tuple[Array]:
    """What of a step is behind its product: summed_h, projected_x (..., H) -> new (h,)."""
    summed = normalize(norm, epsilon, summed_h, params.scale_h) + projected_x
    summed = normalize(norm, epsilon, summed, params.scale)
    return (activation(add_bias(summed, params.bias)),)


class Coefficients(NamedTuple):
    """The linearized step; what belongs to a norm is None without it."""

    activation: Array  # (..., H): its slope
    summed_h: Normalized | None
    summed: Normalized | None


def linearize(
    params: SimpleParams,
    carry: tuple[Array],
    summed_h: Array,
    projected_x: Array,
    *,
    norm: Norm,
    epsilon: float,
    activation: Activation,
) -> Coefficients:
    """`update` at this point, for any leading axes."""
    summed_h, of_h = norm_derivative.normalize(norm, epsilon, summed_h, params.scale_h)
    summed, of_sum = norm_derivative.normalize(norm, epsilon, summed_h + projected_x, params.scale)
    summed = add_bias(summed, params.bias)
    _, slope = jax.jvp(activation, (summed,), (jnp.ones_like(summed),))
    return Coefficients(slope, of_h, of_sum)


def pull_back(
    params: SimpleParams, at: Coefficients, d_carry: tuple[Array], *, norm: Norm
) -> tuple[Array, tuple[None], tuple[Array, Array]]:
    """One step back: cotangents of summed_h, of the old carry, and of what `gradients` needs."""
    d_active = d_carry[0] * at.activation
    d_summed = norm_derivative.pull_back(norm, at.summed, d_active, params.scale)
    d_summed_h = norm_derivative.pull_back(norm, at.summed_h, d_summed, params.scale_h)
    return d_summed_h, (None,), (d_active, d_summed)


def gradients(
    params: SimpleParams, at: Coefficients, kept: tuple[Array, Array]
) -> tuple[dict[str, Array], Array]:
    """Of gains and bias behind the product, summed over a chunk; and of projected_x."""
    d_active, d_summed = kept
    by_name = {"bias": over_rows(d_active)}
    if at.summed is not None:
        by_name["scale"] = over_rows(d_active * at.summed.values)
    if at.summed_h is not None:
        by_name["scale_h"] = over_rows(d_summed * at.summed_h.values)
    return by_name, d_summed


def simple_rnn(
    params: SimpleParams,
    xs: Array,
    carry: Array | None = None,
    *,
    mask: Array | None = None,
    norm: Norm = "layer",
    sites: Sequence[str] = SITES,
    activation: Activation = jnp.tanh,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    noise: Noise = NO_NOISE,
    reverse: bool = False,
    unroll: int = 1,
    implementation: Implementation = "auto",
) -> tuple[Array, Array]:
    """Runs the simple RNN over a time-major sequence.

    Args:
      params: a `SimpleParams`.
      xs: (T, B, D); further batch axes may follow B, in the mask and the carry too.
      carry: initial h (B, H); None means zeros, in the dtype of the
        parameters but at least float32.
      sites: where the norm stands: ("sum",), or some of "recurrent" and "input".
      activation: of the summed inputs, elementwise.
      mask, norm, epsilon, dtype, noise, reverse, unroll, implementation: see `lnjax.lstm`.

    Returns:
      The final carry h (B, H), and the outputs h (T, B, H).

    Raises:
      ValueError: `norm`, a site or `implementation` is not known, the parameters are of another
        norm or other sites, or a shape or dtype is not one of those above.
      TypeError: the parameters are no `SimpleParams`, or the inputs are not real numbers.

    >>> import jax, jax.numpy as jnp
    >>> cell = SimpleCell(features=5)
    >>> xs = jax.random.normal(jax.random.key(0), (7, 2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(1), xs[0].shape)
    >>> variables = cell.init(jax.random.key(2), carry, xs[0])
    >>> h, ys = simple_rnn(SimpleParams(**variables["params"]), xs)
    >>> h.shape, ys.shape, bool((h == ys[-1]).all())
    ((2, 5), (7, 2, 5), True)
    """
    return run_sequence(
        functions(params, norm, sites, activation, epsilon, dtype),
        params,
        carry,
        xs,
        mask,
        noise,
        dtype=dtype,
        reverse=reverse,
        unroll=unroll,
        implementation=implementation,
    )


def functions(
    params: SimpleParams,
    norm: Norm,
    sites: Sequence[str],
    activation: Activation,
    epsilon: float,
    dtype: DType | None,
) -> Functions:
    """The halves of a step for these choices; refuses parameters that are of others."""
    _check_sites(norm, sites)
    check_parameters(
        params,
        SimpleParams,
        f"norm={norm!r}, sites={tuple(sites)!r}",
        scale=norm is not None and "sum" in sites,
        scale_x=norm is not None and "input" in sites,
        scale_h=norm is not None and "recurrent" in sites,
    )
    options = {"norm": norm, "epsilon": epsilon, "dtype": dtype}
    return Functions(
        partial(project_inputs, **options),
        partial(step, activation=activation, **options),
        _derivative(norm, epsilon, activation),
    )


def _derivative(norm: Norm, epsilon: float, activation: Activation) -> Derivative:
    centred = after_centring(norm)

    def centre_kernels(params: SimpleParams) -> SimpleParams:
        if norm == "layer" and (params.scale is not None or params.scale_x is not None):
            params = params._replace(kernel=centre(params.kernel))
        if norm == "layer" and (params.scale is not None or params.scale_h is not None):
            params = params._replace(recurrent_kernel=centre(params.recurrent_kernel))
        return params

    options = {"norm": centred, "epsilon": epsilon, "activation": activation}
    return Derivative(
        centre_kernels,
        partial(project, norm=centred, epsilon=epsilon),
        partial(update, **options),
        partial(linearize, **options),
        partial(pull_back, norm=centred),
        gradients,
    )


def _check_sites(norm: Norm, sites: Sequence[str]) -> None:
    check_norm(norm, sites, ("sum", "recurrent", "input"))
    if "sum" in sites and len(sites) > 1:
        raise ValueError(f"sites={sites!r}: the sum is normalized once, so no other site with it")


class SimpleCell(NormalizedCell):
    """Simple RNN cell with layer normalization; equations and conventions at the module's head.

    Its call is that of `flax.linen.SimpleCell`, with the same carry ``h``; it works under
    `flax.linen.RNN` as under `lnjax.RNN`.

    Attributes:
      features: H.
      norm: "layer", "rms", or None for the plain RNN.
      epsilon, dtype, param_dtype, kernel_init, recurrent_kernel_init, scale_init, bias_init,
        carry_init: see `NormalizedCell`.
      sites: where the norm stands, if there is one: ("sum",), or some of "recurrent" and "input".
      activation: of the summed inputs, elementwise.

    >>> import jax, jax.numpy as jnp
    >>> cell = SimpleCell(features=4)
    >>> x = jnp.ones((2, 3))
    >>> h = cell.initialize_carry(jax.random.key(0), x.shape)
    >>> (h, y), variables = cell.init_with_output(jax.random.key(1), h, x)
    >>> y.shape, sorted(variables["params"])
    ((2, 4), ['bias', 'kernel', 'recurrent_kernel', 'scale'])
    """

    sites: Sequence[str] = SITES
    activation: Activation = jnp.tanh

    @nn.compact
    def parameters(self, in_features: int) -> SimpleParams:
        """Declares (or finds) the parameters for inputs (..., in_features)."""
        _check_sites(self.norm, self.sites)
        params = SimpleParams(**self.weights(in_features, 1))
        if self.norm is None:
            return params
        names = {"sum": "scale", "input": "scale_x", "recurrent": "scale_h"}
        gains = {names[site]: self.scale(names[site], self.features) for site in self.sites}
        return params._replace(**gains)

    def functions(self, params: Any) -> Functions:
        return functions(params, self.norm, self.sites, self.activation, self.epsilon, self.dtype)

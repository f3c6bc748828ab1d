r"""The layer-normalized GRU (Ba et al. 2016, Eq. 26-28).

.. math::
    (r, z)_t &= \mathrm{LN}(h_{t-1} W_h^{rz}) \odot s_h^{rz}
        + \mathrm{LN}(x_t W_x^{rz}) \odot s_x^{rz} + b^{rz} \\
    n_t &= \tanh\bigl(\mathrm{LN}(x_t W_x^n) \odot s_x^n + b^n
        + \sigma(r_t) \odot (\mathrm{LN}(h_{t-1} W_h^n) \odot s_h^n + b_h)\bigr) \\
    h_t &= (1 - \sigma(z_t)) \odot h_{t-1} + \sigma(z_t) \odot n_t

with ``norm="rms"`` the root mean square stands for LN; with ``norm=None`` there is no norm and no
:math:`s`.

Conventions:

* Four norms: the reset and update gates of each projection jointly (2H), its candidate apart (H).
  One norm over all 3H, as in haste, is another function.
* The reset gate multiplies *after* the recurrent product and its norm, as in cuDNN, PyTorch and
  Flax, and not before it as in Cho et al. 2014.
* Where z is 1 the candidate is taken, as in the paper. Its code, PyTorch, Flax and Keras take the
  old h there: the same family of functions, with the sign turned of z's weights and biases, or
  behind a norm, which is of r and z together, of z's gains and biases. `lnjax.convert` does so.
* One bias b (3H), the sum of the paper's betas, and :math:`b_h` (H), which the reset gate scales:
  the recurrent candidate's beta, and without a norm the bias that PyTorch and Flax have there.
* Parameters lie in the order r, z, n. Gain 1, bias 0 at the start; epsilon 1e-5 inside the root.
* Summed inputs, statistics and gates are at least float32, whatever `dtype` the products and
  outputs have. The carry keeps the dtype that it starts with: that of the parameters, but
  at least float32, unless it is given another.
"""

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


class GRUParams(NamedTuple):
    """Parameters of a GRU over inputs of width D; the gains are None without a norm."""

    kernel: Array  # (D, 3H)
    recurrent_kernel: Array  # (H, 3H)
    bias: Array  # (3H,)
    bias_h: Array  # (H,)
    scale_x: Array | None = None  # (3H,)
    scale_h: Array | None = None  # (3H,)


def project_inputs(
    params: GRUParams,
    xs: Array,
    *,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
) -> Array:
    """The input side, (..., D) -> (..., 3H), for any number of time steps at once."""
    return project(params, product(xs, params.kernel, dtype), norm=norm, epsilon=epsilon)


def project(params: GRUParams, summed_x: Array, *, norm: Norm, epsilon: float) -> Array:
    """What of `project_inputs` is behind its product: (..., 3H) -> (..., 3H)."""
    return add_bias(_normalize(norm, epsilon, summed_x, params.scale_x), params.bias)


def step(
    params: GRUParams,
    h: Array,
    projected_x: Array,
    *,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    dropout_h: Array | None = None,
) -> tuple[Array, Array]:
    """One step: carry h (B, H), projected_x (B, 3H) -> new carry, output h (B, H)."""
    summed_h = recurrent_product(h, params.recurrent_kernel, dtype, dropout_h)
    (new_h,) = update(params, (h,), summed_h, projected_x, norm=norm, epsilon=epsilon)
    return new_h.astype(h.dtype), new_h


def update(
    params: GRUParams,
    carry: tuple[Array],
    summed_h: Array,
    projected_x: Array,
    *,
    norm: Norm,
    epsilon: float,
) -> tuple[Array]:
    """What of a step is behind its product: summed_h, projected_x (..., 3H) -> new (h,)."""
    _, z, n = gates_of(params, summed_h, projected_x, norm=norm, epsilon=epsilon)
    return ((1 - z) * carry[0] + z * n,)


def gates_of(
    params: GRUParams, summed_h: Array, projected_x: Array, *, norm: Norm, epsilon: float
) -> tuple[Array, Array, Array]:
    """r, z and n of the two sides of a step, each (..., 3H)."""
    return _gates(params, _normalize(norm, epsilon, summed_h, params.scale_h), projected_x)[:3]


def _gates(
    params: GRUParams, summed_h: Array, projected_x: Array
) -> tuple[Array, Array, Array, Array]:
    """r, z, n, and what r scales, each (..., H)."""
    r_h, z_h, n_h = jnp.split(summed_h, 3, axis=-1)
    r_x, z_x, n_x = jnp.split(projected_x, 3, axis=-1)
    r, z = jax.nn.sigmoid(r_h + r_x), jax.nn.sigmoid(z_h + z_x)
    recurrent = add_bias(n_h, params.bias_h)
    return r, z, jnp.tanh(n_x + r * recurrent), recurrent


class Coefficients(NamedTuple):
    """The linearized step; what belongs to the norms is None without one."""

    gates: Array  # (..., 3H): of the recurrent side of r, z and n in h
    candidate: Array  # (..., H): of the input side of n in h
    keep: Array  # (..., H): of the old h in the new
    gates_h: Normalized | None  # r and z together
    candidate_h: Normalized | None


def linearize(
    params: GRUParams,
    carry: tuple[Array],
    summed_h: Array,
    projected_x: Array,
    *,
    norm: Norm,
    epsilon: float,
) -> Coefficients:
    """`update` at this point, for any leading axes."""
    scales = (None, None) if params.scale_h is None else sides(params.scale_h)
    normalized = [
        norm_derivative.normalize(norm, epsilon, side, scale)
        for side, scale in zip(sides(summed_h), scales, strict=True)
    ]
    (gates_side, gates_h), (candidate_side, candidate_h) = normalized
    summed_h = jnp.concatenate([gates_side, candidate_side], axis=-1)
    r, z, n, recurrent = _gates(params, summed_h, projected_x)
    candidate = z * (1 - n * n)
    slopes = [candidate * recurrent * r * (1 - r), (n - carry[0]) * z * (1 - z), candidate * r]
    return Coefficients(jnp.concatenate(slopes, axis=-1), candidate, 1 - z, gates_h, candidate_h)


def pull_back(
    params: GRUParams, at: Coefficients, d_carry: tuple[Array], *, norm: Norm
) -> tuple[Array, tuple[Array], Array]:
    """One step back: cotangents of summed_h, of the old carry, and of the new h for `gradients`."""
    (d_h,) = d_carry
    d_summed = jnp.concatenate([d_h, d_h, d_h], axis=-1) * at.gates
    if params.scale_h is not None:
        d_sides = [
            norm_derivative.pull_back(norm, of, d_side, scale)
            for of, d_side, scale in zip(
                (at.gates_h, at.candidate_h), sides(d_summed), sides(params.scale_h), strict=True
            )
        ]
        d_summed = jnp.concatenate(d_sides, axis=-1)
    return d_summed, (d_h * at.keep,), d_h


def gradients(params: GRUParams, at: Coefficients, d_h: Array) -> tuple[dict[str, Array], Array]:
    """Of gain and bias behind the product, summed over a chunk; and of projected_x."""
    d_summed = jnp.concatenate([d_h, d_h, d_h], axis=-1) * at.gates
    d_gates, d_candidate = sides(d_summed)
    by_name = {"bias_h": over_rows(d_candidate)}
    if at.gates_h is not None and at.candidate_h is not None:
        by_name["scale_h"] = jnp.concatenate(
            [
                over_rows(d_gates * at.gates_h.values),
                over_rows(d_candidate * at.candidate_h.values),
            ]
        )
    return by_name, jnp.concatenate([d_gates, d_h * at.candidate], axis=-1)


def sides(summed: Array) -> tuple[Array, Array]:
    """What is normalized jointly of (..., 3H): r and z (..., 2H), and n (..., H)."""
    gates = summed.shape[-1] // 3 * 2
    return summed[..., :gates], summed[..., gates:]


def _normalize(norm: Norm, epsilon: float, summed: Array, scale: Array | None) -> Array:
    """The norms of one side: of (..., 3H) the first 2H jointly, the last H apart."""
    if scale is None:
        return summed
    gates = scale.shape[0] // 3 * 2
    return jnp.concatenate(
        [
            normalize(norm, epsilon, summed[..., :gates], scale[:gates]),
            normalize(norm, epsilon, summed[..., gates:], scale[gates:]),
        ],
        axis=-1,
    )


def gru(
    params: GRUParams,
    xs: Array,
    carry: Array | None = None,
    *,
    mask: Array | None = None,
    norm: Norm = "layer",
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    noise: Noise = NO_NOISE,
    reverse: bool = False,
    unroll: int = 1,
    implementation: Implementation = "auto",
) -> tuple[Array, Array]:
    """Runs the GRU over a time-major sequence.

    Args:
      params: a `GRUParams`.
      xs: (T, B, D); further batch axes may follow B, in the mask and the carry too.
      carry: initial h (B, H); None means zeros, in the dtype of the
        parameters but at least float32.
      mask, norm, epsilon, dtype, noise, reverse, unroll, implementation: see `lnjax.lstm`.

    Returns:
      The final carry h (B, H), and the outputs h (T, B, H).

    Raises:
      ValueError: `norm` or `implementation` is not known, the parameters are of another norm,
        or a shape or dtype is not one of those above.
      TypeError: the parameters are no `GRUParams`, or the inputs are not real numbers.

    >>> import jax, jax.numpy as jnp
    >>> cell = GRUCell(features=5)
    >>> xs = jax.random.normal(jax.random.key(0), (7, 2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(1), xs[0].shape)
    >>> variables = cell.init(jax.random.key(2), carry, xs[0])
    >>> h, ys = gru(GRUParams(**variables["params"]), xs)
    >>> h.shape, ys.shape, bool((h == ys[-1]).all())
    ((2, 5), (7, 2, 5), True)
    """
    return run_sequence(
        functions(params, norm, epsilon, dtype),
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


def functions(params: GRUParams, norm: Norm, epsilon: float, dtype: DType | None) -> Functions:
    """The halves of a step for these choices; refuses parameters that are of others."""
    check_norm(norm)
    check_parameters(
        params, GRUParams, f"norm={norm!r}", scale_x=norm is not None, scale_h=norm is not None
    )
    options = {"norm": norm, "epsilon": epsilon, "dtype": dtype}
    return Functions(
        partial(project_inputs, **options),
        partial(step, **options),
        _derivative(norm, epsilon),
    )


def _derivative(norm: Norm, epsilon: float) -> Derivative:
    centred = after_centring(norm)

    def centre_kernels(params: GRUParams) -> GRUParams:
        if norm != "layer":
            return params
        kernels = params.kernel, params.recurrent_kernel
        kernel, recurrent_kernel = (
            jnp.concatenate([centre(side) for side in sides(kernel)], axis=-1) for kernel in kernels
        )
        return params._replace(kernel=kernel, recurrent_kernel=recurrent_kernel)

    return Derivative(
        centre_kernels,
        partial(project, norm=centred, epsilon=epsilon),
        partial(update, norm=centred, epsilon=epsilon),
        partial(linearize, norm=centred, epsilon=epsilon),
        partial(pull_back, norm=centred),
        gradients,
    )


class GRUCell(NormalizedCell):
    """GRU cell with layer normalization; equations and conventions at the head of this module.

    Its call is that of `flax.linen.GRUCell`, with the same carry ``h``; it works under
    `flax.linen.RNN` as under `lnjax.RNN`.

    Attributes:
      features: H.
      norm: "layer", "rms", or None for the plain GRU.
      epsilon, dtype, param_dtype, kernel_init, recurrent_kernel_init, scale_init, bias_init,
        carry_init: see `NormalizedCell`.

    >>> import jax, jax.numpy as jnp
    >>> cell = GRUCell(features=4)
    >>> x = jnp.ones((2, 3))
    >>> h = cell.initialize_carry(jax.random.key(0), x.shape)
    >>> (h, y), variables = cell.init_with_output(jax.random.key(1), h, x)
    >>> y.shape, sorted(variables["params"])
    ((2, 4), ['bias', 'bias_h', 'kernel', 'recurrent_kernel', 'scale_h', 'scale_x'])
    """

    @nn.compact
    def parameters(self, in_features: int) -> GRUParams:
        """Declares (or finds) the parameters for inputs (..., in_features)."""
        check_norm(self.norm)
        params = GRUParams(
            **self.weights(in_features, 3), bias_h=self.zeros("bias_h", self.features)
        )
        if self.norm is None:
            return params
        return params._replace(
            scale_x=self.scale("scale_x", 3 * self.features),
            scale_h=self.scale("scale_h", 3 * self.features),
        )

    def functions(self, params: Any) -> Functions:
        return functions(params, self.norm, self.epsilon, self.dtype)

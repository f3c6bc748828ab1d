r"""Generalized linear models whose summed inputs are normalized (Ba et al. 2016, Eq. 10-11, 5.2.1).

A generalized linear model (GLM) of H outputs has, for a case x,

.. math::
    z_i = \frac{g_i}{\sigma_i}(a_i - \mu_i) + b_i, \qquad a_i = w_i^T x, \qquad
    \log P(y \mid x) = \frac{z^T y - \eta(z)}{\phi} + c(y, \phi)

so that :math:`E[y \mid x] = \nabla\eta(z)` and
:math:`\mathrm{Cov}[y \mid x] = \phi \nabla^2 \eta(z)`. The statistics :math:`\mu, \sigma` are those
of the norm; the standard GLM has none.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lnjax.ops import batch_norm, batch_statistics, layer_norm, rms_norm, weight_norm
from lnjax.typing import Array, PRNGKey

Norm = Literal["layer", "rms", "batch", "weight"] | None
Family = Literal["gaussian", "bernoulli", "poisson", "categorical"]

NORMS: tuple[Norm, ...] = ("layer", "rms", "batch", "weight", None)

# The log partition function eta (H,) -> (): its derivatives are the mean and the covariance.
LOG_PARTITIONS: Mapping[str, Callable[[Array], Array]] = {
    "gaussian": lambda z: jnp.sum(jnp.square(z)) / 2,
    "bernoulli": lambda z: jnp.sum(jax.nn.softplus(z)),
    "poisson": lambda z: jnp.sum(jnp.exp(z)),
    "categorical": jax.nn.logsumexp,
}


class GLMParams(NamedTuple):
    """Parameters of a GLM over inputs of width D with H outputs; lnjax's names and shapes."""

    kernel: Array  # (D, H): the paper's w_i are its columns
    bias: Array  # (H,): b
    scale: Array | None = None  # (H,): the gain g; None without a norm


@dataclasses.dataclass(frozen=True)
class GLM:
    """Which generalized linear model: how its summed inputs are normalized, how its outputs spread.

    Attributes:
      norm: "layer", "rms", "batch" (statistics over all the cases that are given), "weight" (whose
        sigma_i is the length of w_i), or None: the standard GLM, which has no gain.
      family: of the outputs given the case: "gaussian" of variance `phi`, "bernoulli", "poisson",
        or "categorical", whose H outputs are one choice and so covary.
      phi: the dispersion; only "gaussian" has one.
      epsilon: under the root of sigma. The paper has none, and its claims hold for 0.

    Raises:
      ValueError: the norm or family is not known, or `phi` is given to a family without one.

    >>> import jax, jax.numpy as jnp
    >>> glm = GLM("layer", "bernoulli")
    >>> params = glm.init(jax.random.key(0), in_features=3, features=5)
    >>> jax.tree.map(jnp.shape, params)
    GLMParams(kernel=(3, 5), bias=(5,), scale=(5,))
    >>> glm.natural(params, jnp.ones((2, 3))).shape
    (2, 5)
    """

    norm: Norm = "layer"
    family: Family = "gaussian"
    phi: float = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        for field, known in (("norm", NORMS), ("family", tuple(LOG_PARTITIONS))):
            if (value := getattr(self, field)) not in known:
                raise ValueError(
                    f"{field}={value!r} is not known; choose one of {', '.join(map(repr, known))}"
                )
        if self.family != "gaussian" and self.phi != 1.0:
            raise ValueError(
                f"phi={self.phi!r}: family={self.family!r} has no dispersion; leave it at 1.0"
            )

    def init(self, key: PRNGKey, in_features: int, features: int) -> GLMParams:
        """Random parameters (D, H), (H,), (H,); gains around 1, as no claim may hang on a 1."""
        draws = jax.random.normal(key, (in_features + 2, features))
        return GLMParams(
            draws[:in_features] / in_features**0.5,
            0.3 * draws[in_features],
            None if self.norm is None else 1 + 0.3 * draws[in_features + 1],
        )

    def natural(self, params: GLMParams, xs: Array) -> Array:
        """z (N, H), the normalized summed inputs after gain and bias, of cases xs (N, D).

        Raises:
          ValueError: the parameters have a gain and the model has no norm, or the other way round.
        """
        if (params.scale is None) != (self.norm is None):
            expected = "None" if self.norm is None else "of shape (H,)"
            raise ValueError(f"norm={self.norm!r}: expected params.scale {expected}")
        if self.norm == "weight":
            kernel = weight_norm(params.kernel, params.scale, epsilon=self.epsilon)
            return xs @ kernel + params.bias[None]
        summed = xs @ params.kernel
        if self.norm == "layer":
            return layer_norm(summed, params.scale, params.bias, epsilon=self.epsilon)
        if self.norm == "rms":
            return rms_norm(summed, params.scale, params.bias, epsilon=self.epsilon)
        if self.norm == "batch":
            return batch_norm(summed, params.scale, params.bias, epsilon=self.epsilon)
        return summed + params.bias[None]

    def covariance(self, natural: Array) -> Array:
        """Cov[y|x] (N, H, H) at z (N, H)."""
        return self.phi * jax.vmap(jax.hessian(LOG_PARTITIONS[self.family]))(natural)

    def statistics(self, params: GLMParams, xs: Array) -> tuple[Array, Array]:
        """mu and sigma of Eq. 13, each (N, H), or of length 1 where cases or units share it.

        Without a norm they are 0 and 1.
        """
        summed = xs @ params.kernel
        mean, square = jnp.zeros((1, 1), summed.dtype), jnp.ones((1, 1), summed.dtype)
        if self.norm == "layer":
            mean = jnp.mean(summed, axis=1, keepdims=True)
            square = jnp.mean(jnp.square(summed - mean), axis=1, keepdims=True) + self.epsilon
        elif self.norm == "rms":
            square = jnp.mean(jnp.square(summed), axis=1, keepdims=True) + self.epsilon
        elif self.norm == "batch":
            mean, square = (value[None] for value in batch_statistics(summed))
            square = square + self.epsilon
        elif self.norm == "weight":
            square = jnp.sum(jnp.square(params.kernel), axis=0)[None] + self.epsilon
        return mean, jnp.sqrt(square)

r"""The Fisher information of normalized generalized linear models, exact and as in the paper.

Ba et al. 2016, Section 5.2.1. With z the summed inputs of `lnjax.analysis.glm`, after norm, gain
and bias, and :math:`J = dz / d\theta`, the Fisher information (Eq. 9) is

.. math::
    F = E_x\left[J^T \frac{\mathrm{Cov}[y \mid x]}{\phi^2} J\right]

`fisher_information` takes :math:`J` by automatic differentiation through the statistics, of a case
or of the whole data set, and is exact. `paper_fisher` is Eq. 12-14, where the block of units i and
j knows only how unit i answers to its own weights. For batch and weight norm nothing else moves,
and the two agree. Layer norm shares its statistics among units, so that they do not;
`discrepancy` says by how much at which width.

The parameters lie in the paper's order, ``theta = vec([W, b, g]^T)``: unit after unit, of each its
D weights, its bias, its gain.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from lnjax.analysis.glm import GLM, LOG_PARTITIONS, GLMParams
from lnjax.typing import Array

Part = Literal["w", "b", "g"]


class Fisher(struct.PyTreeNode):
    """A Fisher information matrix in the paper's order of parameters.

    Attributes:
      blocks: (H, P, H, P), where P = D + 2, or D + 1 without a gain; ``blocks[i, :, j, :]`` is the
        paper's block of units i and j.
      gain: whether there is a gain.
    """

    blocks: Array
    gain: bool = struct.field(pytree_node=False)

    @property
    def matrix(self) -> Array:
        """All of it, (H P, H P)."""
        size = self.blocks.shape[0] * self.blocks.shape[1]
        return self.blocks.reshape(size, size)

    def block(self, i: int, j: int) -> Array:
        """Of units i and j, (P, P), in the order weights, bias, gain."""
        return self.blocks[i, :, j, :]

    def part(self, row: Part, column: Part) -> Array:
        """Of two kinds of parameters, (H, R, H, C): "w" has D a unit, "b" and "g" one.

        Raises:
          ValueError: "g" where there is no gain, or no such kind.
        """
        end = self.blocks.shape[1]
        bias = end - 2 if self.gain else end - 1
        places = {"w": slice(bias), "b": slice(bias, bias + 1)}
        if self.gain:
            places["g"] = slice(bias + 1, end)
        for kind in (row, column):
            if kind not in places:
                raise ValueError(f"part {kind!r} is not one of {', '.join(map(repr, places))}")
        return self.blocks[:, places[row], :, places[column]]

    @property
    def diagonal(self) -> Array:
        """Of every unit with itself, (H, P, P)."""
        return jnp.moveaxis(jnp.diagonal(self.blocks, axis1=0, axis2=2), -1, 0)


@partial(jax.jit, static_argnames="glm")
def fisher_information(glm: GLM, params: GLMParams, xs: Array) -> Fisher:
    r"""The exact Fisher information (Eq. 9) by automatic differentiation through the norm.

    Args:
      glm: the model.
      params: kernel (D, H), bias (H,), scale (H,) or None, float32 or float64.
      xs: (N, D); the expectation over x is the mean over them. They are also the cases over which
        batch norm takes its statistics, whose dependence on the weights is differentiated.

    Returns:
      A `Fisher` with blocks (H, P, H, P), of the dtype of the parameters. In between there is the
      Jacobian, of N H^2 P numbers.

    Raises:
      ValueError: as `GLM.natural`.

    >>> import jax
    >>> glm = GLM(norm="layer", family="bernoulli")
    >>> params = glm.init(jax.random.key(0), 3, 5)
    >>> xs = jax.random.normal(jax.random.key(1), (64, 3))
    >>> information = fisher_information(glm, params, xs)
    >>> information.matrix.shape, information.part("w", "g").shape
    ((25, 25), (5, 3, 5, 1))
    """
    columns = [params.kernel.T, params.bias[:, None]]
    if params.scale is not None:
        columns.append(params.scale[:, None])
    inner = params.kernel.shape[0]

    def natural(theta: Array) -> Array:
        scale = None if params.scale is None else theta[:, inner + 1]
        return glm.natural(GLMParams(theta[:, :inner].T, theta[:, inner], scale), xs)

    with jax.default_matmul_precision("highest"):
        theta = jnp.concatenate(columns, axis=1)
        jacobian = jax.jacfwd(natural)(theta)
        weights = glm.covariance(natural(theta)) / glm.phi**2
        weighted = jnp.einsum("nkl,nljq->nkjq", weights, jacobian)
        blocks = jnp.einsum("nkip,nkjq->ipjq", jacobian, weighted) / len(xs)
    return Fisher(blocks, params.scale is not None)


@partial(jax.jit, static_argnames="glm")
def paper_fisher(glm: GLM, params: GLMParams, xs: Array) -> Fisher:
    r"""The Fisher information as in the paper: Eq. 12, or Eq. 13 with :math:`\chi` of Eq. 14.

    The same arguments and returns as `fisher_information`. It equals that for batch norm, weight
    norm and no norm; for layer norm (and RMS norm, of which the paper does not speak) the block of
    two units leaves out that each one's weights move the statistics of the other.
    """
    with jax.default_matmul_precision("highest"):
        weights = glm.covariance(glm.natural(params, xs)) / glm.phi**2
        mean, sigma = glm.statistics(params, xs)
        normalized = (xs @ params.kernel - mean) / sigma
        columns = [chi(glm, params, xs), jnp.ones_like(normalized)[..., None]]
        if params.scale is not None:
            columns[0] *= (params.scale[None] / sigma)[..., None]
            columns.append(normalized[..., None])
        rows = jnp.concatenate(columns, axis=-1)
        weighted = jnp.einsum("nij,njq->nijq", weights, rows)
        blocks = jnp.einsum("nip,nijq->ipjq", rows, weighted) / len(xs)
    return Fisher(blocks, params.scale is not None)


def chi(glm: GLM, params: GLMParams, xs: Array) -> Array:
    r"""Eq. 14: what of x is left after the unit's own part in its statistics, (N, H, D).

    .. math::
        \chi_i = x - \frac{\partial \mu_i}{\partial w_i}
            - \frac{a_i - \mu_i}{\sigma_i} \frac{\partial \sigma_i}{\partial w_i}

    that is, with :math:`\hat a_i = (a_i - \mu_i) / \sigma_i`,
    :math:`x (1 - 1/H - \hat a_i^2 / H)` for layer norm,
    :math:`x (1 - \hat a_i^2 / H)` for RMS norm,
    :math:`x - E[x] - \hat a_i E[\hat a_i (x - E[x])]` for batch norm,
    :math:`x - \hat a_i w_i / \sigma_i` for weight norm, and x without a norm.
    """
    mean, sigma = glm.statistics(params, xs)
    normalized = (xs @ params.kernel - mean) / sigma
    cases, width = normalized.shape
    if glm.norm == "layer":
        return (1 - 1 / width - normalized**2 / width)[..., None] * xs[:, None, :]
    if glm.norm == "rms":
        return (1 - normalized**2 / width)[..., None] * xs[:, None, :]
    if glm.norm == "batch":
        centred = xs - jnp.mean(xs, axis=0, keepdims=True)
        along = normalized.T @ centred / cases
        return centred[:, None, :] - normalized[..., None] * along[None]
    if glm.norm == "weight":
        direction = (params.kernel / sigma).T
        return xs[:, None, :] - normalized[..., None] * direction[None]
    return jnp.broadcast_to(xs[:, None, :], (cases, width, xs.shape[1]))


def kl_divergence(glm: GLM, params: GLMParams, other: GLMParams, xs: Array) -> Array:
    r"""E_x KL[P(y|x; params) || P(y|x; other)], the distance of which Eq. 8-9 are the second order.

    .. math::
        \mathrm{KL} = \tfrac{1}{2}\, \delta^T F(\theta)\, \delta + O(\lVert\delta\rVert^3)

    in closed form, the Bregman divergence of the log partition function over `phi`.

    Args:
      glm: the model.
      params, other: as in `fisher_information`.
      xs: (N, D).

    Returns:
      A scalar, in nats.

    >>> import jax.numpy as jnp
    >>> glm = GLM(norm=None)
    >>> here, there = (GLMParams(jnp.zeros((1, 1)), jnp.array([b])) for b in (0.0, 2.0))
    >>> float(kl_divergence(glm, here, there, jnp.ones((1, 1))))  # two normals, 2 deviations apart
    2.0
    """
    eta = LOG_PARTITIONS[glm.family]
    with jax.default_matmul_precision("highest"):
        z, new = glm.natural(params, xs), glm.natural(other, xs)
        mean = jax.vmap(jax.grad(eta))(z)
        bregman = jax.vmap(eta)(new) - jax.vmap(eta)(z) - jnp.sum(mean * (new - z), axis=1)
    return jnp.mean(bregman) / glm.phi


class Discrepancy(NamedTuple):
    """How far Eq. 13 is from the Fisher information of the same model.

    All are relative, and 0 where the paper is exact.
    """

    diagonal: Array  # (): the blocks of a unit with itself; Frobenius error over Frobenius norm
    off_diagonal: Array  # (): the blocks of two units; Frobenius error over that of *all* blocks
    total: Array  # (): the whole matrix; Frobenius error over Frobenius norm
    largest_eigenvalue: Array  # (): of the difference, over that of the Fisher information


@partial(jax.jit, static_argnames=("glm", "weights_only"))
def discrepancy(
    glm: GLM, params: GLMParams, xs: Array, *, weights_only: bool = False
) -> Discrepancy:
    """By how much Eq. 13 differs from the exact Fisher information.

    Args:
      glm, params, xs: as in `fisher_information`.
      weights_only: compare the (w, w) part and not all of it: biases and gains have large and exact
        entries, beside which the error of the weights looks smaller.

    Returns:
      A `Discrepancy`.

    >>> import jax
    >>> for width in (6, 24):
    ...     glm = GLM("layer")
    ...     params = glm.init(jax.random.key(0), 4, width)._replace(scale=jax.numpy.ones(width))
    ...     xs = jax.random.normal(jax.random.key(1), (256, 4))
    ...     errors = discrepancy(glm, params, xs, weights_only=True)
    ...     print(width, round(float(errors.diagonal), 2))
    6 0.28
    24 0.08
    """
    exact, paper = fisher_information(glm, params, xs), paper_fisher(glm, params, xs)
    if weights_only:
        inner = params.kernel.shape[0]
        exact, paper = (Fisher(each.blocks[:, :inner, :, :inner], False) for each in (exact, paper))
    difference = exact.replace(blocks=exact.blocks - paper.blocks)
    own, norm = jnp.linalg.norm(difference.diagonal), jnp.linalg.norm
    others = jnp.sqrt(jnp.maximum(norm(difference.matrix) ** 2 - own**2, 0))
    return Discrepancy(
        diagonal=own / norm(exact.diagonal),
        off_diagonal=others / norm(exact.matrix),
        total=norm(difference.matrix) / norm(exact.matrix),
        largest_eigenvalue=_largest(difference.matrix) / _largest(exact.matrix),
    )


def _largest(matrix: Array) -> Array:
    """The eigenvalue of greatest magnitude of a symmetric matrix, as a magnitude."""
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrix)))


def discrepancy_by_width(
    glm: GLM,
    widths: Sequence[int],
    *,
    in_features: int = 4,
    cases: int = 256,
    seed: int = 0,
    weights_only: bool = True,
) -> Discrepancy:
    """`discrepancy` of random models of each width H, on normal inputs.

    For layer norm the diagonal blocks come right as 2 / H and the others as H ** -0.5. The largest
    eigenvalue of the difference does not fall: along a vector that is added to the incoming weights
    of all units the model is exactly flat, and by Eq. 13 as curved as elsewhere, at any width.

    Args:
      glm: the model.
      widths: W of them. The Jacobian has ``cases * H^3 * (in_features + 2)`` numbers.
      in_features: D.
      cases: N.
      seed: of parameters and inputs.
      weights_only: see `discrepancy`.

    Returns:
      A `Discrepancy` of arrays (W,).
    """
    key, inputs = jax.random.split(jax.random.key(seed))
    xs = jax.random.normal(inputs, (cases, in_features))
    rows = [
        discrepancy(glm, glm.init(key, in_features, width), xs, weights_only=weights_only)
        for width in widths
    ]
    return Discrepancy(*map(jnp.stack, zip(*rows, strict=True)))

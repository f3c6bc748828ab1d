r"""The claims of the paper's Section 5.2 about the geometry of learning, as functions that measure.

Ba et al. 2016, Section 5.2.2, says of normalized models: the curvature falls as the norm of the
weights grows, which decays the learning rate ("implicit early stopping"); and learning the gain
depends on the size of the prediction error alone and not on that of the inputs (Eq. 32-35).

What follows from the invariance of the outputs, ``z(k W) = z(W)`` for k > 0, and is measured here:

* the gradient of the weights falls as 1/k, the (w, w) part of the Fisher information as 1/k^2, its
  (w, b) and (w, g) parts as 1/k (`norm_growth`), so that a step of one learning rate turns the
  weights by 1/k^2 (`step_angle`). The paper says that the curvature changes "by a factor of 1/2"
  when the norm doubles: so do the mixed parts. The quadratic form in the weights becomes 1/4;
* the direction of the weights themselves is flat (`flat_directions`);
* the gradient is orthogonal to the weights (`orthogonality`), so that a step of gradient descent
  without decay adds ``learning_rate^2 |gradient|^2`` to their squared norm.

Layer norm has these for the whole matrix, and is flat along any vector that is added to the
incoming weights of all units, too; batch and weight norm have them for each unit apart. An
epsilon under the root breaks all of them a little; `epsilon_leak` says by how much.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.fisher import Fisher, Part, fisher_information
from lnjax.analysis.glm import GLM, GLMParams
from lnjax.typing import Array, PyTree


class NormGrowth(NamedTuple):
    """What scaling the weights by k changed. Ratios are of new over old; nan where old is 0."""

    outputs: Array  # (): the largest change of z, over the deviation of z
    gradient: Array  # (): ratio of the norms of the gradient of the weights; 1/k
    ww: Array  # (): of the (w, w) part, the ratio that fits best; 1/k^2
    wb: Array  # (): 1/k
    wg: Array  # (): 1/k; nan without a gain
    rest: Array  # (): the parts of b and g among themselves; 1
    misfit: Array  # (): Frobenius error of the scaled parts, over the norm of the new matrix


@partial(jax.jit, static_argnames=("glm", "unit"))
def norm_growth(
    glm: GLM,
    params: GLMParams,
    xs: Array,
    cotangents: Array,
    factor: float,
    unit: int | None = None,
) -> NormGrowth:
    """Scales the weights by `factor` and measures outputs, gradient and Fisher information.

    Args:
      glm, params, xs: as in `fisher_information`.
      cotangents: (N, H), the gradient of some loss by z.
      factor: k > 0.
      unit: scale, and look at, the weights of this unit alone; None: all of them.

    Returns:
      A `NormGrowth`. For "batch" and "weight" its laws hold for a unit, too, for "layer" and "rms"
      for all of them only, and without a norm not at all.

    >>> import jax
    >>> glm = GLM("layer", "bernoulli")
    >>> params = glm.init(jax.random.key(0), 3, 5)
    >>> xs = jax.random.normal(jax.random.key(1), (64, 3))
    >>> growth = norm_growth(glm, params, xs, jax.random.normal(jax.random.key(2), (64, 5)), 2.0)
    >>> [round(float(value), 3) for value in (growth.gradient, growth.ww, growth.wb, growth.wg)]
    [0.5, 0.25, 0.5, 0.5]
    """
    units = slice(None) if unit is None else slice(unit, unit + 1)
    larger = params.kernel.at[:, units].multiply(factor)

    def measure(kernel: Array) -> tuple[Array, Array, Fisher]:
        each = params._replace(kernel=kernel)
        z, pull = jax.vjp(lambda kernel: glm.natural(params._replace(kernel=kernel), xs), kernel)
        information = fisher_information(glm, each, xs)
        blocks = information.blocks[units][:, :, units]
        return z, pull(cotangents)[0][:, units], information.replace(blocks=blocks)

    # A loop, so that the two are compiled once
    both = jax.lax.map(measure, jnp.stack([params.kernel, larger]))
    (before, old_gradient, old), (after, new_gradient, new) = (
        jax.tree.map(lambda leaf, place=place: leaf[place], both) for place in (0, 1)
    )
    inner = params.kernel.shape[0]

    def ratio(row: Part, column: Part) -> Array:
        return _ratio(old.part(row, column), new.part(row, column), old.blocks)

    return NormGrowth(
        outputs=jnp.max(jnp.abs(after - before)) / jnp.std(before),
        gradient=jnp.linalg.norm(new_gradient) / jnp.linalg.norm(old_gradient),
        ww=ratio("w", "w"),
        wb=ratio("w", "b"),
        wg=ratio("w", "g") if old.gain else jnp.array(jnp.nan),
        rest=_ratio(old.blocks[:, inner:, :, inner:], new.blocks[:, inner:, :, inner:], old.blocks),
        misfit=_misfit(old, new, factor, inner),
    )


def _ratio(old: Array, new: Array, whole: Array) -> Array:
    """The r for which r * old is nearest to new; nan where old is but rounding beside the whole."""
    square = jnp.vdot(old, old)
    rounding = (100 * jnp.finfo(old.dtype).eps) ** 2 * jnp.vdot(whole, whole)
    return jnp.where(square > rounding, jnp.vdot(old, new) / square, jnp.nan)


def _misfit(old: Fisher, new: Fisher, factor: float, inner: int) -> Array:
    """How far the new blocks are from the old ones under the laws 1/k^2, 1/k and 1."""
    shrink = jnp.where(jnp.arange(old.blocks.shape[1]) < inner, 1 / factor, 1.0)
    expected = old.blocks * shrink[None, :, None, None] * shrink[None, None, None, :]
    return jnp.linalg.norm(new.blocks - expected) / jnp.linalg.norm(new.blocks)


class FlatDirections(NamedTuple):
    """Curvatures along directions of the weights, as multiples of the mean over all directions."""

    matrix: Array  # (): along W; 0 for every norm
    units: Array  # (H,): along each w_i; 0 for "batch" and "weight"
    shifts: Array  # (D,): along one weight of all units alike; 0 for "layer"


@jax.jit
def flat_directions(information: Fisher, kernel: Array) -> FlatDirections:
    """Along which directions of the weights the outputs do not change.

    Args:
      information: of a model with these weights, exact or the paper's.
      kernel: (D, H).

    Returns:
      ``v^T F v / |v|^2`` over ``trace(F) / (D H)``, of the (w, w) part F.

    >>> import jax
    >>> glm = GLM("layer")
    >>> params = glm.init(jax.random.key(0), 3, 5)
    >>> xs = jax.random.normal(jax.random.key(1), (64, 3))
    >>> flat = flat_directions(fisher_information(glm, params, xs), params.kernel)
    >>> bool(abs(flat.matrix) < 1e-5), bool(abs(flat.shifts).max() < 1e-5)
    (True, True)
    >>> bool(flat.units.min() > 0.1)  # of one unit alone layer norm does see the size
    True
    """
    part = information.part("w", "w")
    inner, width = kernel.shape
    mean = jnp.einsum("idid->", part) / (inner * width)
    rows = kernel.T
    along = jnp.einsum("id,idje,je->", rows, part, rows) / jnp.sum(jnp.square(rows))
    units = jnp.einsum("id,idie,ie->i", rows, part, rows) / jnp.sum(jnp.square(rows), axis=1)
    shifts = jnp.einsum("idjd->d", part) / width
    return FlatDirections(along / mean, units / mean, shifts / mean)


class Orthogonality(NamedTuple):
    """Cosines between weights and their gradient: numbers in [-1, 1], [0, 1] for `shift`."""

    radial: Array  # (): with the weights, all together
    units: Array  # (H,): of each unit alone
    shift: Array  # (): the share of the gradient's norm that moves all units alike


@jax.jit
def orthogonality(weights: PyTree, gradient: PyTree) -> Orthogonality:
    """Whether a gradient is orthogonal to the weights that it belongs to.

    Args:
      weights: an array (..., H), or a tree of such whose products are summed before one norm, as
        both kernels of `lnjax.SimpleCell` are. The kernels of an LSTM have a norm each: ask apart.
        The stacked kernel of a GRU has one for its gates and one for its candidate: `radial` holds,
        `shift` only for each of these columns apart.
      gradient: of any loss, of the same structure and shapes.

    Returns:
      An `Orthogonality`. For an unrelated gradient `radial` is about one over the root of the
      number of weights, `shift` about ``H ** -0.5``. A unit without weights or gradient gives nan.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax import Dense
    >>> layer = Dense(features=8, norm="layer", epsilon=0.0)
    >>> x = jax.random.normal(jax.random.key(0), (32, 4))
    >>> params = layer.init(jax.random.key(1), x)["params"]
    >>> def loss(params):
    ...     return jnp.sum(jnp.sin(layer.apply({"params": params}, x)) * x[:, :1])
    >>> cosines = orthogonality(params["kernel"], jax.grad(loss)(params)["kernel"])
    >>> bool(abs(cosines.radial) < 1e-6), bool(cosines.shift < 1e-6)
    (True, True)
    >>> bool(abs(cosines.units).max() > 0.1)
    True
    """
    w, g = (
        jnp.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(tree)])
        for tree in (weights, gradient)
    )
    products = jnp.sum(w * g, axis=0)
    sizes = jnp.linalg.norm(w, axis=0) * jnp.linalg.norm(g, axis=0)
    alike = jnp.linalg.norm(jnp.sum(g, axis=1)) / g.shape[1] ** 0.5
    whole = jnp.linalg.norm(g)
    return Orthogonality(
        radial=jnp.sum(products) / (jnp.linalg.norm(w) * whole),
        units=products / sizes,
        shift=alike / whole,
    )


@jax.jit
def step_angle(weights: Array, update: Array) -> Array:
    """The angle in radians by which ``weights + update`` points elsewhere than the weights.

    It is taken from the update, and so is right for angles far below the rounding of the weights.

    Args:
      weights, update: of one shape, not zero.

    Returns:
      A scalar in [0, pi].

    >>> import jax.numpy as jnp
    >>> print(f"{step_angle(jnp.array([1.0, 0.0]), jnp.array([3.0, 1e-9])):.2e}")
    2.50e-10
    """
    length = jnp.linalg.norm(weights)
    direction = weights / length
    along = jnp.vdot(direction, update)
    across = jnp.linalg.norm(update - along * direction)
    return jnp.arctan2(across, length + along)


class GainGeometry(NamedTuple):
    """The matrix of the metric in the gain: ``ds^2 = 1/2 dg^T M dg``."""

    exact: Array  # (H, H)
    paper: Array  # (H, H)


def gain_geometry(glm: GLM, params: GLMParams, xs: Array) -> GainGeometry:
    r"""What a change of the gain costs: the exact metric beside the paper's Eq. 32-35.

    .. math::
        \text{batch (32)}\quad & E_x[\mathrm{Cov}_{ij}] / \phi^2 \\
        \text{layer (33)}\quad
            & E_x[\mathrm{Cov}_{ij} (a_i - \mu)(a_j - \mu) / \sigma^2] / \phi^2 \\
        \text{weight (34), none (35)}\quad
            & E_x[\mathrm{Cov}_{ij}\, a_i a_j / (|w_i| |w_j|)] / \phi^2

    where for the standard GLM the "gain" moves each :math:`w_i` along itself. Eq. 32 has no
    :math:`\hat a_i \hat a_j`: it is exact on the diagonal where the covariance is the same for all
    cases, and only there. The expressions of weight norm and of the standard GLM are one.

    Args:
      glm, params, xs: as in `fisher_information`. For "rms", of which the paper does not speak,
        `paper` is Eq. 33 with mu = 0.

    Returns:
      A `GainGeometry`.

    >>> import jax
    >>> glm = GLM("batch", "bernoulli")
    >>> params = glm.init(jax.random.key(0), 3, 5)
    >>> metric = gain_geometry(glm, params, jax.random.normal(jax.random.key(1), (64, 3)))
    >>> bool((metric.exact.diagonal() < metric.paper.diagonal()).all())
    True
    """
    information = fisher_information(glm, params, xs)
    return GainGeometry(*_gain_metrics(glm, params, xs, information))


@partial(jax.jit, static_argnames="glm")
def _gain_metrics(
    glm: GLM, params: GLMParams, xs: Array, information: Fisher
) -> tuple[Array, Array]:
    mean, sigma = glm.statistics(params, xs)
    if glm.norm is None:
        sigma = jnp.linalg.norm(params.kernel, axis=0)[None]
        rows = (params.kernel / sigma).T
        exact = jnp.einsum("id,idje,je->ij", rows, information.part("w", "w"), rows)
    else:
        exact = information.part("g", "g")[:, 0, :, 0]
    normalized = (xs @ params.kernel - mean) / sigma
    if glm.norm == "batch":
        normalized = jnp.ones_like(normalized)
    covariance = glm.covariance(glm.natural(params, xs)) / glm.phi**2
    paper = jnp.einsum("nij,ni,nj->ij", covariance, normalized, normalized) / len(xs)
    return exact, paper


def gain_response(glm: GLM, params: GLMParams, xs: Array, factors: Sequence[float]) -> Array:
    """How the exact metric in the gain answers to the size of the inputs.

    "Learning the magnitude of incoming weights under batch and layer norm only depends on the size
    of the prediction error", says the paper of Eq. 32-35; the other two depend on the inputs, too.

    Args:
      glm, params, xs: as in `fisher_information`. Where the covariance depends on z, as in every
        family but "gaussian", weight norm's and the standard GLM's change with the inputs, too.
      factors: E of them, by which all inputs are multiplied.

    Returns:
      (E,), the trace of the metric over that of the inputs as they are.

    >>> import jax
    >>> for norm in ("batch", "layer", "weight", None):
    ...     params = GLM(norm).init(jax.random.key(0), 3, 5)
    ...     xs = jax.random.normal(jax.random.key(1), (64, 3))
    ...     print(norm, round(float(gain_response(GLM(norm), params, xs, (10.0,))[0]), 3))
    batch 1.0
    layer 1.0
    weight 100.0
    None 100.0
    """
    traces = [np.trace(gain_geometry(glm, params, k * xs).exact) for k in (1.0, *factors)]
    return jnp.asarray(traces[1:]) / traces[0]


class EpsilonLeak(NamedTuple):
    """How much of the gradient points along the weights, for each epsilon (E,)."""

    radial: Array  # (E,): the cosine, as `orthogonality` measures it
    predicted: Array  # (E,): the same from the formula of `epsilon_leak`


def epsilon_leak(
    glm: GLM, params: GLMParams, xs: Array, cotangents: Array, epsilons: Sequence[float]
) -> EpsilonLeak:
    r"""The part of the gradient along the weights that an epsilon under the root lets through.

    With :math:`\hat a = (a - \mu) / \sqrt{v + \epsilon}` scaling the weights is no longer free:

    .. math::
        \Big\langle W, \frac{\partial L}{\partial W} \Big\rangle = \sum_{n, i}
            \frac{\partial L}{\partial z_{ni}}\, g_i\, \hat a_{ni}\, \frac{\epsilon}{v + \epsilon}

    v being the variance of the norm (for "weight" the squared length). Weights that are k times as
    large see an epsilon of :math:`\epsilon / k^2`.

    Args:
      glm: with a norm; its own epsilon is not looked at.
      params, xs: as in `fisher_information`.
      cotangents: (N, H), the gradient of some loss by z.
      epsilons: E of them.

    Returns:
      An `EpsilonLeak`.

    Raises:
      ValueError: the model has no norm.

    >>> import jax
    >>> params = GLM("layer").init(jax.random.key(0), 3, 5)
    >>> xs = jax.random.normal(jax.random.key(1), (64, 3))
    >>> cotangents = jax.random.normal(jax.random.key(2), (64, 5))
    >>> leak = epsilon_leak(GLM("layer"), params, xs, cotangents, (0.1,))
    >>> bool(abs(leak.radial - leak.predicted).max() < 1e-5 < abs(leak.radial).min())
    True
    """
    if glm.norm is None:
        raise ValueError("epsilon_leak: norm=None has no epsilon; choose a model with a norm")
    return _leak(glm, params, xs, cotangents, jnp.asarray(epsilons, params.kernel.dtype))


@partial(jax.jit, static_argnames="glm")
def _leak(
    glm: GLM, params: GLMParams, xs: Array, cotangents: Array, epsilons: Array
) -> EpsilonLeak:
    def one(epsilon: float) -> EpsilonLeak:
        leaky = dataclasses.replace(glm, epsilon=epsilon)

        def natural(kernel: Array) -> Array:
            return leaky.natural(params._replace(kernel=kernel), xs)

        (gradient,) = jax.vjp(natural, params.kernel)[1](cotangents)
        mean, sigma = leaky.statistics(params, xs)
        normalized = (xs @ params.kernel - mean) / sigma
        inner = jnp.sum(cotangents * params.scale[None] * normalized * epsilon / sigma**2)
        lengths = jnp.linalg.norm(params.kernel) * jnp.linalg.norm(gradient)
        return EpsilonLeak(orthogonality(params.kernel, gradient).radial, inner / lengths)

    return jax.lax.map(one, epsilons)

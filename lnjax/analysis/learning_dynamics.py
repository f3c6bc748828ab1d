r"""How the weights of a normalized layer move under plain gradient descent, step by step.

Ba et al. 2016, Section 5.2.2: as the weights grow, the effective learning rate falls, and their
direction stops turning ("implicit early stopping"). What can be said exactly of gradient descent
with learning rate :math:`\eta`, as the gradient is orthogonal to the weights (see
`lnjax.analysis.geometry`):

.. math::
    \lVert W_{t+1} \rVert^2 = \lVert W_t \rVert^2 + \eta^2 \lVert \nabla_t \rVert^2, \qquad
    \tan(\mathrm{angle}_t) = \eta \lVert \nabla_t \rVert / \lVert W_t \rVert

and the gradient is 1 / |W| times one that depends on the direction alone, so that the angle is
that of a learning rate :math:`\eta / \lVert W \rVert^2` on the unit sphere. Weights k times as
large, with :math:`k^2` times the learning rate, take the same directions at every step.

Weight decay is not in the paper. With it (coefficient :math:`\lambda`) the norm shrinks by
:math:`\eta \lambda` a step, too, until both balance, at an angle of about
:math:`\sqrt{2 \eta \lambda}` a step (van Laarhoven 2017).

`descend` records any loss; `train_student` and `compare_dynamics` are the experiment of
the notebook of that name.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.geometry import orthogonality, step_angle
from lnjax.analysis.glm import GLM, GLMParams, Norm
from lnjax.typing import Array, Params, PyTree


class Descent(NamedTuple):
    """What one run of gradient descent did to the weights under watch; T steps."""

    loss: Array  # (T,): of each batch, before its step
    norm: Array  # (T + 1,): of the weights, before the first step and after each
    gradient_norm: Array  # (T,): without the decay
    radial: Array  # (T,): the cosine of gradient and weights; 0 for a normalized layer
    angle: Array  # (T,): radians by which the step turned the weights
    travelled: Array  # (T + 1,): radians between the first direction and this one
    effective_rate: Array  # (T,): learning rate / |W|^2


def descend(
    loss: Callable[[Params, PyTree], Array],
    params: Params,
    batches: PyTree,
    watch: Sequence[Hashable],
    *,
    learning_rate: Array | float,
    weight_decay: Array | float = 0.0,
) -> tuple[Params, Descent]:
    """Plain gradient descent, one step a batch, with a record of what it does to one leaf.

    Args:
      loss: (params, batch) -> scalar.
      params: a nested dict of arrays.
      batches: a tree of arrays (T, ...); step t gets entry t of each.
      watch: the keys that lead to the weights under watch, as ("hidden", "kernel").
      learning_rate: for all parameters.
      weight_decay: of the watched weights: their update is
        ``-learning_rate * (gradient + weight_decay * weights)``.

    Returns:
      The parameters after the last step, and a `Descent`.

    Raises:
      KeyError: `watch` leads to no leaf.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax import Dense
    >>> layer = Dense(features=8, norm="layer", epsilon=0.0)
    >>> xs = jax.random.normal(jax.random.key(0), (20, 16, 4))  # 20 batches of 16
    >>> params = layer.init(jax.random.key(1), xs[0])["params"]
    >>> def loss(params, batch):
    ...     return jnp.mean(jnp.square(layer.apply({"params": params}, batch) - batch[:, :1]))
    >>> _, record = descend(loss, params, xs, ["kernel"], learning_rate=0.5)
    >>> bool(record.norm[-1] > record.norm[0])  # it can only grow
    True
    >>> growth = jnp.sum((0.5 * record.gradient_norm) ** 2)
    >>> bool(jnp.allclose(record.norm[-1] ** 2, record.norm[0] ** 2 + growth, rtol=1e-4))
    True
    """

    def leaf(tree: Params) -> Array:
        for place, key in enumerate(watch):
            if not isinstance(tree, dict) or key not in tree:
                raise KeyError(
                    f"watch={list(watch)}: the parameters have no {list(watch)[: place + 1]}"
                )
            tree = tree[key]
        return tree

    first = leaf(params)
    weights_of_first = first / jnp.linalg.norm(first)

    def direction_moved(weights: Array) -> Array:
        # 2 asin(|u - v| / 2): the arc cosine of a cosine near 1 has no digits
        chord = jnp.linalg.norm(weights / jnp.linalg.norm(weights) - weights_of_first)
        return 2 * jnp.arcsin(jnp.minimum(chord / 2, 1.0))

    def step(params: Params, batch: PyTree) -> tuple[Params, tuple[Array, ...]]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        weights, pull = leaf(params), leaf(gradient)
        cosine = orthogonality(weights, pull).radial
        update = -learning_rate * (pull + weight_decay * weights)
        moved = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
        moved = _replace(moved, watch, weights + update)
        norm = jnp.linalg.norm(weights)
        return moved, (
            value,
            norm,
            jnp.linalg.norm(pull),
            cosine,
            step_angle(weights, update),
            direction_moved(weights),
            learning_rate / norm**2,
        )

    params, (value, norm, pull, cosine, angle, travelled, rate) = jax.lax.scan(
        step, params, batches
    )
    last = leaf(params)
    norm = jnp.append(norm, jnp.linalg.norm(last))
    travelled = jnp.append(travelled, direction_moved(last))
    return params, Descent(value, norm, pull, cosine, angle, travelled, rate)


def _replace(tree: Params, keys: Sequence[Hashable], value: Array) -> Params:
    """The tree with another leaf at the end of the keys."""
    if not keys:
        return value
    return {**tree, keys[0]: _replace(tree[keys[0]], keys[1:], value)}


def train_student(
    norm: Norm = "layer",
    *,
    learning_rate: float = 1.0,
    weight_scale: float = 1.0,
    weight_decay: float = 0.0,
    steps: int = 3000,
    in_features: int = 16,
    features: int = 64,
    batch_size: int = 32,
    epsilon: float = 0.0,
    seed: int = 0,
) -> Descent:
    """A network of one hidden layer learns from a teacher; the hidden weights are under watch.

    Student: ``tanh(norm(x W) * g + b) @ v / sqrt(H)`` on normal inputs, with the mean squared
    error. Teacher: a network of the same form without a norm and with 8 hidden units, plus noise of
    deviation 0.3. Every step has new cases, so that the noise cannot be learned and the gradient
    does not vanish. Runs that differ in the norm, learning rate, scale or decay start from the same
    directions and see the same cases in the same order.

    Args:
      norm: of the hidden layer, see `GLM`.
      learning_rate: for all parameters.
      weight_scale: k, by which the hidden weights are multiplied before the first step. With a norm
        the outputs are those of k = 1.
      weight_decay: of the hidden weights.
      steps: T.
      in_features, features: D and H.
      batch_size: cases of a step, over which "batch" takes its statistics, too.
      epsilon: of the norm; the paper has none.
      seed: of everything.

    Returns:
      A `Descent`.

    Raises:
      ValueError: `norm` is not known.

    >>> one, four = (train_student(weight_scale=k, steps=5, features=8) for k in (1.0, 4.0))
    >>> bool(abs(one.loss[0] - four.loss[0]) < 1e-5)
    True
    >>> print(f"{jnp.tan(one.angle[0]) / jnp.tan(four.angle[0]):.2f}")
    16.00
    """
    glm = GLM(norm, epsilon=epsilon)
    params, batches = _problem((steps, batch_size, in_features, features), seed)
    params["kernel"] *= weight_scale
    if norm is None:
        del params["scale"]
    return _run(glm, params, batches, learning_rate, weight_decay)


class Comparison(NamedTuple):
    """Runs of `train_student` that differ in one thing each."""

    norms: dict[Norm, Descent]
    scales: dict[float, Descent]  # layer norm, by weight_scale
    decays: dict[float, Descent]  # layer norm, by weight_decay
    learning_rate: float


def compare_dynamics(
    learning_rate: float = 1.0,
    *,
    norms: Sequence[Norm] = ("layer", "batch", "weight", None),
    scales: Sequence[float] = (0.25, 1.0, 4.0, 16.0),
    decays: Sequence[float] = (0.0, 1e-4, 1e-3),
    steps: int = 3000,
    seed: int = 0,
) -> Comparison:
    """All runs of the notebook's figure; what is compiled for one learning rate serves the next."""
    run = partial(train_student, learning_rate=learning_rate, steps=steps, seed=seed)
    plain = run("layer")
    return Comparison(
        {norm: plain if norm == "layer" else run(norm) for norm in norms},
        {k: plain if k == 1 else run("layer", weight_scale=k) for k in scales},
        {decay: run("layer", weight_decay=decay) if decay else plain for decay in decays},
        learning_rate,
    )


@partial(jax.jit, static_argnames="glm")
def _run(
    glm: GLM,
    params: Params,
    batches: tuple[Array, Array],
    learning_rate: Array | float,
    weight_decay: Array | float,
) -> Descent:
    def loss(params: Params, batch: tuple[Array, Array]) -> Array:
        xs, ys = batch
        hidden = GLMParams(params["kernel"], params["bias"], params.get("scale"))
        active = jnp.tanh(glm.natural(hidden, xs))
        return jnp.mean(jnp.square(active @ params["readout"] / active.shape[1] ** 0.5 - ys))

    _, record = descend(
        loss, params, batches, ["kernel"], learning_rate=learning_rate, weight_decay=weight_decay
    )
    return record


def _problem(
    sizes: tuple[int, int, int, int], seed: int
) -> tuple[dict[str, Array], tuple[Array, Array]]:
    """The student's first parameters; cases (T, B, D), and what the teacher says of them (T, B)."""
    steps, batch_size, inner, features = sizes
    # NumPy: to compile jax.random takes longer than to train
    rng = np.random.default_rng(seed)
    params = {
        "kernel": rng.normal(size=(inner, features)) / inner**0.5,
        "bias": np.zeros(features),
        "scale": np.ones(features),
        "readout": rng.normal(size=features),
    }
    width = 8
    first, second = rng.normal(size=(inner, width)), rng.normal(size=width)
    xs = rng.normal(size=(steps, batch_size, inner))
    ys = np.tanh(xs @ first / inner**0.5) @ second / width**0.5
    batches = (xs, ys + 0.3 * rng.normal(size=ys.shape))
    return jax.tree.map(jnp.asarray, (params, batches))

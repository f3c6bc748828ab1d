r"""Where the norm stands in a residual stack, before or after the addition, at growing depth.

A stack of `lnjax.Residual` blocks :math:`f_l`, each a perceptron of two layers:

.. math::
    \text{pre:}  \quad x_{l+1} &= x_l + f_l(\mathrm{norm}(x_l)), \quad
        \text{logits} = \mathrm{norm}(x_L)\, W \\
    \text{post:} \quad x_{l+1} &= \mathrm{norm}(x_l + f_l(x_l)), \quad
        \text{logits} = x_L\, W

`block_gradients` is the gradient's norm in each block (Xiong et al. 2020, Theorem 1: at the last
block it does not depend on the depth L for post, and falls as :math:`1/\sqrt{L}` for pre);
`train_stacks` trains a stack with and without warm-up of the learning rate.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lnjax.nn import Dense, Normalize, Residual
from lnjax.typing import Array, Params

Norm = Literal["layer", "rms"] | None
Placement = Literal["pre", "post"]


class Problem(NamedTuple):
    """Inputs (N, D) float32 and labels (N,) int32 that a teacher gave them."""

    inputs: np.ndarray
    labels: np.ndarray


def teacher_problem(
    num_examples: int, *, seed: int = 0, in_features: int = 16, num_classes: int = 10
) -> Problem:
    """Gaussian inputs, and the likeliest class under a random perceptron of 64 rectified units.

    The mean of its logits is taken away, so that no class is rare. Drawn by NumPy from `seed`.

    >>> problem = teacher_problem(100)
    >>> problem.inputs.shape, sorted(set(problem.labels.tolist()))
    ((100, 16), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    rng = np.random.default_rng([seed, 1])
    hidden = rng.normal(size=(in_features, 64)) / np.sqrt(in_features)
    readout = rng.normal(size=(64, num_classes))
    inputs = rng.normal(size=(num_examples, in_features))
    logits = np.maximum(inputs @ hidden, 0) @ readout
    labels = np.argmax(logits - logits.mean(axis=0), axis=-1)
    return Problem(inputs.astype(np.float32), labels.astype(np.int32))


class TwoLayers(nn.Module):
    """The layer in each block: C rectified units and C linear ones, as `hidden` and `out`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(Dense(self.features, norm=None, name="hidden")(x))
        return Dense(self.features, norm=None, name="out")(x)


def init_stack(
    depth: int,
    *,
    norm: Norm = "layer",
    features: int = 64,
    in_features: int = 16,
    num_classes: int = 10,
    seed: int = 0,
) -> Params:
    """Parameters of a stack, the same for both placements; drawn by NumPy.

    Every kernel is normal of variance 1 / inputs (LeCun; for the square ones of the blocks this is
    Xavier, too), biases are 0, gains 1.

    Returns:
      float32: `embedding` (D, C); `readout` (C, classes); `blocks`, the parameters of one
      `lnjax.Residual(TwoLayers(C))`, each with a leading axis of length `depth`.

    >>> params = init_stack(3, features=8)
    >>> jax.tree.map(jnp.shape, params["blocks"]["layer"]["out"])
    {'bias': (3, 8), 'kernel': (3, 8, 8)}
    """
    rng = np.random.default_rng([seed, 0])

    def kernel(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[-2])).astype(np.float32)

    zeros, ones = np.zeros((depth, features), np.float32), np.ones((depth, features), np.float32)
    embedding, readout = kernel(in_features, features), kernel(features, num_classes)
    blocks: dict[str, Any] = {
        "layer": {
            name: {"kernel": kernel(depth, features, features), "bias": zeros}
            for name in ("hidden", "out")
        }
    }
    if norm is not None:
        blocks["normalize"] = {"scale": ones, "bias": zeros}
    return {"embedding": embedding, "blocks": blocks, "readout": readout}


def apply_stack(
    params: Params,
    inputs: Array | np.ndarray,
    *,
    placement: Placement,
    norm: Norm = "layer",
    depth: Array | int | None = None,
) -> Array:
    """The logits of a stack.

    "pre" ends with a norm without parameters, which "post" has in its last block.

    Args:
      params: as from `init_stack`.
      inputs: (N, D) floating point.
      placement, norm: see `lnjax.Residual`.
      depth: how many of the blocks are used; None: all. It may be traced, so that one program
        serves all depths: the blocks beyond are computed and not used.

    Returns:
      (N, classes), in the common dtype of inputs and parameters.

    >>> problem = teacher_problem(4)
    >>> apply_stack(init_stack(2), problem.inputs, placement="pre").shape
    (4, 10)
    """
    features = params["embedding"].shape[-1]
    block = Residual(TwoLayers(features), placement=placement, norm=norm)
    # Compiled once, not once per block.
    num_blocks = params["blocks"]["layer"]["hidden"]["bias"].shape[0]
    used = jnp.arange(num_blocks) < (num_blocks if depth is None else depth)

    def step(x: Array, block_params: tuple[Params, Array]) -> tuple[Array, None]:
        of_block, is_used = block_params
        y: Any = block.apply({"params": of_block}, x)
        return jnp.where(is_used, y, x), None

    x, _ = jax.lax.scan(step, jnp.asarray(inputs) @ params["embedding"], (params["blocks"], used))
    if placement == "pre" and norm is not None:
        x = Normalize(norm, use_scale=False, use_bias=False).apply({}, x)
    return x @ params["readout"]


def stack_loss(
    params: Params,
    problem: Problem,
    *,
    placement: Placement,
    norm: Norm = "layer",
    depth: Array | int | None = None,
) -> Array:
    """Nats per example, (): the mean negative log-likelihood; arguments as in `apply_stack`.

    >>> loss = stack_loss(init_stack(2), teacher_problem(100), placement="post")
    >>> bool(2 < loss < 4)  # log(10) = 2.3
    True
    """
    logits = apply_stack(params, problem.inputs, placement=placement, norm=norm, depth=depth)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, problem.labels))


def gradient_of_blocks(grads: Params) -> Array:
    """The norm of a gradient over the perceptron of each block, (depth,); the norm's are left out.

    >>> grads = {"blocks": {"layer": {"bias": jnp.array([[3.0, 4.0], [0.0, 2.0]])}}}
    >>> gradient_of_blocks(grads).tolist()
    [5.0, 2.0]
    """
    leaves = jax.tree.leaves(grads["blocks"]["layer"])
    squares = sum(jnp.sum(jnp.square(leaf), axis=range(1, leaf.ndim)) for leaf in leaves)
    return jnp.sqrt(squares)


@dataclasses.dataclass(frozen=True)
class BlockGradients:
    """What `block_gradients` measured.

    Attributes:
      placement, norm: of the stacks.
      depths: (M,).
      norms: (M, S, max(depths)), of the gradient of the loss with respect to the parameters of the
        perceptron of each block, for each depth and seed; NaN from the depth on.
    """

    placement: Placement
    norm: Norm
    depths: np.ndarray
    norms: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Of the first block, (M, S)."""
        return self.norms[:, :, 0]

    @property
    def last(self) -> np.ndarray:
        """Of the last block, (M, S)."""
        return np.stack([self.norms[i, :, depth - 1] for i, depth in enumerate(self.depths)])


def block_gradients(
    *,
    placement: Placement,
    norm: Norm = "layer",
    depths: Sequence[int] = (2, 4, 8, 16, 32, 64),
    num_seeds: int = 5,
    num_examples: int = 128,
    features: int = 64,
) -> BlockGradients:
    """The gradient in each block at initialization, for stacks of several depths.

    A shallower stack is the beginning of a deeper one of its seed, with the same examples.

    Args:
      placement, norm: see `lnjax.Residual`.
      depths: numbers of blocks.
      num_seeds: S, seeds 0 to S - 1, each with parameters and a teacher of its own.
      num_examples: over which the loss is the mean.
      features: C.

    Raises:
      ValueError: a depth is less than 1.

    >>> found = block_gradients(placement="pre", depths=[2, 3], num_seeds=1, features=8)
    >>> found.norms.shape, int(np.isnan(found.norms).sum())
    ((2, 1, 3), 1)
    """
    if min(depths) < 1:
        raise ValueError(f"block_gradients: depths {tuple(depths)}; expected at least 1 of each")
    largest = max(depths)
    params = _stacked(
        [init_stack(largest, norm=norm, features=features, seed=s) for s in range(num_seeds)]
    )
    problem = _stacked([teacher_problem(num_examples, seed=s) for s in range(num_seeds)])
    norms = np.array([
        np.where(
            np.arange(largest) < depth, _gradients(params, problem, placement, norm, depth), np.nan
        )
        for depth in depths
    ])  # fmt: skip
    return BlockGradients(placement, norm, np.array(depths), norms)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@partial(jax.jit, static_argnames=("placement", "norm"))
def _gradients(
    params: Params, problem: Problem, placement: Placement, norm: Norm, depth: Array
) -> Array:
    """(S, blocks): params and problem with a leading axis of seeds."""
    loss = partial(stack_loss, placement=placement, norm=norm, depth=depth)
    return jax.vmap(lambda *arrays: gradient_of_blocks(jax.grad(loss)(*arrays)))(params, problem)


@dataclasses.dataclass(frozen=True)
class StackTraining:
    """What `train_stacks` measured.

    Attributes:
      placement, norm, depth: of the stacks.
      peaks: (P,) learning rates.
      warmups: (W,) steps.
      loss: (P, W, S, T) nats per example of each step's batch, before the step.
      gradient: (P, W, S, T, 2) its gradient's norm in the first and in the last block, as
        `gradient_of_blocks`.
    """

    placement: Placement
    norm: Norm
    depth: int
    peaks: np.ndarray
    warmups: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray


def train_stacks(
    *,
    placement: Placement,
    norm: Norm = "layer",
    depth: int = 32,
    peaks: Sequence[float] = (3e-4, 1e-3, 3e-3),
    warmups: Sequence[int] = (0, 75),
    num_steps: int = 300,
    batch_size: int = 32,
    num_seeds: int = 2,
    features: int = 32,
) -> StackTraining:
    """Trains stacks by Adam on a teacher's labels, new examples in each step.

    The learning rate rises linearly over the steps of the warm-up and stays at its peak; each peak
    meets each warm-up, and a seed's stack, teacher and examples are the same in all of them.

    Args:
      placement, norm, depth: of the stack.
      peaks: P learning rates.
      warmups: W numbers of steps; 0: none.
      num_steps: T.
      batch_size: examples per step.
      num_seeds: S, seeds 0 to S - 1.
      features: C.

    Returns:
      `StackTraining`. A run that diverges shows as NaN or infinity.

    Raises:
      ValueError: a warm-up is longer than the training.

    >>> runs = train_stacks(placement="pre", depth=2, peaks=[1e-2], warmups=[0, 5], num_steps=10,
    ...                     num_seeds=1, features=8)
    >>> runs.loss.shape, bool(runs.loss[0, 0, 0, 0] == runs.loss[0, 1, 0, 0])
    ((1, 2, 1, 10), True)
    """
    if max(warmups) > num_steps or min(warmups) < 0:
        raise ValueError(
            f"train_stacks: warmups {tuple(warmups)} of {num_steps} steps; expected numbers from 0"
            " to the number of steps"
        )
    params = _stacked(
        [init_stack(depth, norm=norm, features=features, seed=s) for s in range(num_seeds)]
    )
    problem = _stacked([teacher_problem(num_steps * batch_size, seed=s) for s in range(num_seeds)])
    batches = Problem(
        problem.inputs.reshape(num_seeds, num_steps, batch_size, -1),
        problem.labels.reshape(num_seeds, num_steps, batch_size),
    )
    rates = np.stack([warmup_rates(p, w, num_steps) for p in peaks for w in warmups])
    found = _train(params, batches, rates, placement, norm)
    shape = (num_seeds, len(peaks), len(warmups), num_steps)
    loss, gradient = (np.moveaxis(np.asarray(x).reshape(shape + x.shape[3:]), 0, 2) for x in found)
    return StackTraining(placement, norm, depth, np.array(peaks), np.array(warmups), loss, gradient)


def warmup_rates(peak: float, warmup: int, num_steps: int) -> np.ndarray:
    """The learning rate of each step, (T,) float32: peak / warmup, 2 peak / warmup ... peak.

    >>> warmup_rates(1.0, 4, 6).tolist()
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    if not warmup:
        return np.full(num_steps, peak, np.float32)
    schedule = optax.warmup_constant_schedule(0.0, peak, warmup)
    return np.asarray(schedule(np.arange(1, num_steps + 1)), np.float32)


@partial(jax.jit, static_argnames=("placement", "norm"))
def _train(
    params: Params, batches: Problem, rates: Array, placement: Placement, norm: Norm
) -> tuple[Array, Array]:
    """Loss (S, R, T) and gradients (S, R, T, 2) for each seed and each of rates (R, T)."""
    loss = partial(stack_loss, placement=placement, norm=norm)
    # As one vector: less work for the compiler.
    adam = optax.flatten(optax.scale_by_adam())

    def run(params: Params, batches: Problem, rates: Array) -> tuple[Array, Array]:
        def step(state: Any, batch: tuple[Problem, Array]) -> Any:
            params, opt_state = state
            problem, rate = batch
            value, grads = jax.value_and_grad(loss)(params, problem)
            updates, opt_state = adam.update(grads, opt_state)
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            return (params, opt_state), (value, gradient_of_blocks(grads)[jnp.array([0, -1])])

        return jax.lax.scan(step, (params, adam.init(params)), (batches, rates))[1]

    return jax.vmap(jax.vmap(run, (None, None, 0)), (0, 0, None))(params, batches, rates)

"""An example, not a library: a small model of lnjax layers on a made task, for a notebook.

The task is the adding problem (Hochreiter and Schmidhuber 1997): a sequence of numbers with two of
them marked, whose sum is asked for at its end; the lengths of the rows differ. A model that ignores
its inputs and says 1 has the mean squared error 1/6. ``notebooks/compose.ipynb`` shows how such a
model is built; for training of a real one see ``train.py``.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lnjax.cells.gru import GRUCell
from lnjax.cells.running import Norm
from lnjax.nn import RNN, Stack
from lnjax.typing import Array, PRNGKey

TRIVIAL = 1 / 6  # the variance of the sum of two numbers between 0 and 1


class Batch(NamedTuple):
    """Rows of the adding problem."""

    xs: Array  # (B, T, 2): a number between 0 and 1, and a mark, 0 or 1
    lengths: Array  # (B,) integers, at least half of T
    targets: Array  # (B,) the sum of the two marked numbers


class Curves(NamedTuple):
    """What `train` measured."""

    losses: np.ndarray  # (num_steps,) mean squared error of each fresh batch, before its update
    seconds_per_step: float  # median
    variables: Any


class Adder(nn.Module):
    """GRU layers and a readout: the model of the notebook."""

    features: int = 32
    norm: Norm = "layer"
    layers: int = 1

    @nn.compact
    def __call__(self, xs: Array, lengths: Array) -> Array:
        """xs (B, T, 2), lengths (B,) -> sums (B,)."""
        layers = [RNN(GRUCell(features=self.features, norm=self.norm)) for _ in range(self.layers)]
        carries, _ = Stack(layers)(xs, seq_lengths=lengths, return_carry=True)
        return nn.Dense(1)(carries[-1])[:, 0]


@partial(jax.jit, static_argnames=("batch", "num_steps"))
def adding_problem(rng: PRNGKey, batch: int, num_steps: int) -> Batch:
    """Draws a batch; `num_steps` is T.

    >>> import jax
    >>> adding_problem(jax.random.key(0), 3, 10).xs.shape
    (3, 10, 2)
    """
    for_numbers, for_lengths, for_marks = jax.random.split(rng, 3)
    numbers = jax.random.uniform(for_numbers, (batch, num_steps))
    lengths = jax.random.randint(for_lengths, (batch,), num_steps // 2, num_steps + 1)
    real = jnp.arange(num_steps)[None, :] < lengths[:, None]
    # The two largest of random scores are the marked ones
    scores = jnp.where(real, jax.random.uniform(for_marks, (batch, num_steps)), -1.0)
    marks = jnp.argsort(jnp.argsort(-scores, axis=1), axis=1) < 2
    xs = jnp.stack([numbers, marks.astype(numbers.dtype)], axis=-1)
    return Batch(xs, lengths, jnp.sum(numbers * marks, axis=1))


def learning_curves(smoke: bool = False) -> dict[Norm, Curves]:
    """`train` of the `Adder` with no norm, layer norm and RMS norm; `smoke`: tiny sizes."""
    sizes = {"num_steps": 4, "batch": 2, "length": 4} if smoke else {}
    norms: tuple[Norm, ...] = (None, "layer", "rms")
    return {norm: train(Adder(8 if smoke else 32, norm), **sizes) for norm in norms}


def train(
    model: nn.Module,
    *,
    num_steps: int = 150,
    batch: int = 64,
    length: int = 30,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> Curves:
    """Trains ``model(xs, lengths) -> sums`` with Adam, each step on a fresh batch.

    Args:
      model: a Linen module.
      num_steps, batch: of the training.
      length: T of the rows, the longest.
      learning_rate: of Adam, after the gradient was clipped to the norm 1.
      seed: of parameters and batches; models with one seed see the same batches.
    """
    for_params, for_batches = jax.random.split(jax.random.key(seed))
    few = adding_problem(for_params, 1, 2)
    variables = model.lazy_init(for_params, few.xs, few.lengths)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))

    def loss(variables: Any, batch: Batch) -> Array:
        return jnp.mean((model.apply(variables, batch.xs, batch.lengths) - batch.targets) ** 2)

    @jax.jit
    def step(variables: Any, state: Any, rows: Batch) -> Any:
        value, gradients = jax.value_and_grad(loss)(variables, rows)
        updates, state = tx.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state, value

    state, losses, seconds = tx.init(variables), [], []
    for rng in jax.random.split(for_batches, num_steps):
        rows = jax.block_until_ready(adding_problem(rng, batch, length))
        start = time.perf_counter()
        variables, state, value = step(variables, state, rows)
        losses.append(float(value))
        seconds.append(time.perf_counter() - start)
    return Curves(np.array(losses), float(np.median(seconds)), variables)

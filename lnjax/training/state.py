"""TrainState: what a step reads and writes, and the random streams of a step."""

import zlib
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lnjax.training.task import Task
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes. Nothing random is in it: see `stream_rngs`."""

    step: Array  # () int32, train steps done: one batch each
    params: Params
    model_state: ModelState  # every Flax collection but "params"
    opt_state: optax.OptState


@partial(jax.jit, static_argnames=("task", "tx"))
def init_state(
    rng: PRNGKey, batch: Batch, *, task: Task, tx: optax.GradientTransformation
) -> TrainState:
    """The state at step 0. Jitted, so that no two leaves share a buffer and all can be donated."""
    variables = dict(task.init(rng, batch))
    params = variables.pop("params")
    return TrainState(jnp.zeros((), jnp.int32), params, variables, tx.init(params))


def stream_rngs(rng: PRNGKey, step: Array | int, names: tuple[str, ...]) -> dict[str, PRNGKey]:
    """One key per stream: the step, then a hash of the name, folded into the run's key.

    A run that is resumed, or that gains a stream, draws the same numbers from the others. CRC-32
    because Python's own hash of a string differs between processes.
    """
    at_step = jax.random.fold_in(rng, step)
    return {name: jax.random.fold_in(at_step, zlib.crc32(name.encode())) for name in names}

"""The one train step, and its two companions for evaluation. They are jitted here and only here.

The step never gains a parameter and has no branch. BatchNorm is a collection in `model_state`;
masks are in the batch; clipping, schedules, freezing, averaging and accumulation are links of the
optimizer; several devices are a matter of where the batch lies. What does not fit belongs in the
task or in the optimizer.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lnjax.training.state import TrainState, init_state, stream_rngs
from lnjax.training.task import Task
from lnjax.typing import Batch, PRNGKey, PyTree, Sums


@partial(jax.jit, static_argnames=("task", "tx"), donate_argnames=("state",))
def train_step(
    state: TrainState,
    batch: Batch,
    rng: PRNGKey,
    *,
    task: Task,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Sums]:
    """One optimizer step on one batch; the buffers of `state` are reused for the result."""
    rngs = stream_rngs(rng, state.step, task.rng_streams)

    def loss_fn(params):
        return task.loss(params, state.model_state, batch, rngs, train=True)

    (_, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = {**aux.sums, "grad_norm": (optax.tree.norm(grads), jnp.ones(()))}
    return TrainState(state.step + 1, params, aux.model_state, opt_state), sums


@partial(jax.jit, static_argnames=("task", "tx"), donate_argnames=("state",))
def train_steps(
    state: TrainState,
    batches: Batch,
    rng: PRNGKey,
    *,
    task: Task,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Sums]:
    """`train_step` on each of several batches, stacked on a leading axis, in one dispatch.

    The sums are added over the steps.
    """

    def body(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        return train_step(state, batch, rng, task=task, tx=tx)

    state, sums = jax.lax.scan(body, state, batches)
    return state, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)


@partial(jax.jit, static_argnames=("task",))
def eval_step(state: TrainState, batch: Batch, rng: PRNGKey, *, task: Task) -> Sums:
    """The sums of one batch, without training. Random streams are those of the current step."""
    rngs = stream_rngs(rng, state.step, task.rng_streams)
    _, aux = task.loss(state.params, state.model_state, batch, rngs, train=False)
    return aux.sums


@partial(jax.jit, static_argnames=("task",))
def output_step(state: TrainState, batch: Batch, rng: PRNGKey, *, task: Task) -> PyTree:
    """What `task.evaluate` needs of one batch."""
    rngs = stream_rngs(rng, state.step, task.rng_streams)
    return task.outputs(state.params, state.model_state, batch, rngs)


def run_shapes(
    batch: Mapping[str, Any], *, task: Task, tx: optax.GradientTransformation
) -> dict[str, PyTree]:
    """What a checkpoint holds, as shapes and dtypes: "state", and "sums" since the last log line.

    Args:
      batch: arrays or `jax.ShapeDtypeStruct`.
    """
    rng = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(partial(init_state, task=task, tx=tx), rng, batch)
    return dict(
        zip(
            ("state", "sums"),
            jax.eval_shape(partial(train_step, task=task, tx=tx), state, batch, rng),
            strict=True,
        )
    )

"""One pass over a split: every example once, sums added on the device, divided once.

Several processes read the whole split each, and each computes on its own rows of every batch; what
looks at the whole split, and the samples, are made by the first of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from lnjax.training import metrics, processes
from lnjax.training.mesh import on_host, own_rows, place_batch
from lnjax.training.state import TrainState
from lnjax.training.step import eval_step, output_step
from lnjax.training.task import Task
from lnjax.typing import PRNGKey, PyTree, Sums


def evaluate(
    state: TrainState,
    batches: Iterable[Mapping[str, Any]],
    rng: PRNGKey,
    *,
    task: Task,
    mesh: Mesh,
    prefix: str,
) -> dict[str, float]:
    """The metrics of a split: those that add over batches, and those of `task.evaluate`.

    Returns:
      ``{"<prefix>/<name>": value}``.
    """
    totals: list[Sums] = []

    def pairs() -> Iterator[tuple[Mapping[str, Any], PyTree]]:
        for batch in batches:
            placed = place_batch(batch if alone else _own(batch, mesh), mesh)
            sums = eval_step(state, placed, rng, task=task)
            totals[:] = [metrics.add(totals[0], sums) if totals else sums]
            outputs = output_step(state, placed, rng, task=task)
            yield batch, outputs if alone else on_host(outputs)

    alone, each = jax.process_count() == 1, pairs()
    whole_split = task.evaluate(each) if processes.is_first() else {}
    for _ in each:  # what a task that looks at no outputs has left
        pass
    if not alone:
        found = {name: float(value) for name, value in whole_split.items()}
        whole_split = processes.from_first(lambda: found)
    return {
        **metrics.finalize(totals[0], task, prefix),
        **metrics.named(whole_split, prefix),
    }


def _own(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The rows of a whole batch that this process computes."""
    rows = own_rows(len(next(iter(batch.values()))), mesh)
    return {name: leaf[rows.start : rows.stop] for name, leaf in batch.items()}


def sample(state: TrainState, rng: PRNGKey, num: int, *, task: Task) -> PyTree | None:
    """`task.sample`; with several processes by the first alone, and None in the others."""
    params, model_state = state.params, state.model_state
    if jax.process_count() > 1:
        params, model_state = on_host((params, model_state))
        if not processes.is_first():
            return None
        params, model_state = jax.tree.map(jax.numpy.asarray, (params, model_state))
    return task.sample(params, model_state, rng, num)

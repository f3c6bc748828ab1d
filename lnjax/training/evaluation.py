"""One pass over a split: every example once, sums added on the device, divided once."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from lnjax.training import metrics
from lnjax.training.mesh import place_batch
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
            placed = place_batch(batch, mesh)
            sums = eval_step(state, placed, rng, task=task)
            totals[:] = [metrics.add(totals[0], sums) if totals else sums]
            yield batch, output_step(state, placed, rng, task=task)

    each = pairs()
    whole_split = task.evaluate(each)
    for _ in each:  # what a task that looks at no outputs has left
        pass
    return {
        **metrics.finalize(totals[0], task, prefix),
        **metrics.named(whole_split, prefix),
    }

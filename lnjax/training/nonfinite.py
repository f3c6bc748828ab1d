"""What a run does about a loss, gradient or parameter that is not finite, and which records did it.

The sums of a step are numbers on the device that nobody waits for. `Watch` keeps those of each call
of the step until the loop looks at the run anyway (at a line of the log, at a checkpoint); only if
something is not finite then does it look at them one by one. Which records a batch had follows
from its position in the data (`TrainBatches.records`), so that nothing is kept of the batches.
What is found is told in one line and appended to `<workdir>/nonfinite.jsonl`:

    {"step": 13, "position": {"next_index": 12}, "records": [[3, 1, 0, 7]], "holding": [7]}

`step`: optimizer steps done with the broken call; `position`: of its first batch in the data;
`records`: numbers of the training records of each of its batches (one, or `steps_per_call`);
`holding`: those of them whose own fields hold a NaN or an infinity, often the cause.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lnjax.training import manifest, metrics, processes, shared
from lnjax.training.command import tell
from lnjax.training.optimizer import MAX_SKIPPED_IN_A_ROW
from lnjax.training.processes import tell_once
from lnjax.training.state import TrainState
from lnjax.training.task import LossAux, Task, TrainBatches
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey, PyTree, Sums

FILE = "nonfinite.jsonl"
_TOLD = 8  # numbers of records in the line that is told


class _Call(NamedTuple):
    step: int  # optimizer steps done after it
    position: dict[str, Any]  # of the data before it
    sums: Sums


class Watch:
    """The sums of a run since its last look, and what is done if they are not finite.

    Args:
      folder: of the run. Lines of its `nonfinite.jsonl` from after `step` are dropped: the steps
        come again.
      config: with `nonfinite` ("stop" or "skip", see `optimizer.make_optimizer`) and
        `steps_per_call`.
      train: the data, at the position of `step`.
      step: optimizer steps done.
    """

    def __init__(
        self, folder: pathlib.Path, config: ConfigDict, train: TrainBatches, step: int
    ) -> None:
        self._path, self._config, self._train = folder / FILE, config, train
        self._position = train.get_state()
        self._calls: list[_Call] = []
        self._before: Sums = {}
        if processes.is_first() and self._path.exists():
            lines = self._path.read_text(errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _step(line) <= step]
            manifest.write_text(self._path, "".join(kept))

    def add(self, sums: Sums, new: Sums, step: int) -> Sums:
        """The sums with those of one more call of the step; nothing waits for the device.

        Args:
          sums: until now, since the last line of the log.
          new: of the call whose batches were the last ones taken.
          step: optimizer steps done after it.
        """
        if not self._calls:
            self._before = sums
        self._calls.append(_Call(step, self._position, new))
        self._position = self._train.get_state()
        return metrics.add(sums, new)

    def look(self, sums: Sums, state: TrainState) -> Sums | None:
        """Waits for the device, and looks whether all is finite.

        Args:
          sums: what the last `add` returned.
          state: after it.

        Returns:
          The sums; with nonfinite="skip" without those of the calls that were not finite (with
          `steps_per_call`: of the whole call). None if the run must end: it was not finite and is
          to stop, or its parameters, running statistics or moments are not.
        """
        kept = [state.params, state.model_state, state.opt_state]
        good_state, good_sums = jax.device_get(
            (metrics.all_finite(kept), metrics.all_finite(_decisive(sums)))
        )
        calls, self._calls = self._calls, []
        if good_state and good_sums:
            return sums
        skipping = self._config.nonfinite == "skip"
        finite = [_is_finite(call.sums) for call in calls]
        broken = [call for call, good in zip(calls, finite, strict=True) if not good]
        if skipping and good_state:
            self._record(broken)
            total = self._before
            for call, good in zip(calls, finite, strict=True):
                total = metrics.add(total, call.sums) if good else total
            return total
        # What follows the first update that was let through is broken by it.
        self._record((broken or calls[-1:])[: MAX_SKIPPED_IN_A_ROW + 1 if skipping else 1])
        what = "loss, gradient or parameters not finite at or shortly before step"
        tell_once(f"error: {what} {calls[-1].step}; the checkpoints are older.")
        if not skipping:
            tell_once("A run with --config.nonfinite=skip leaves single such updates out")
        return None

    def _record(self, calls: Iterable[_Call]) -> None:
        """Tells which records the calls had, and writes them down; the first process does."""
        if not processes.is_first():
            return
        here = self._train.get_state()
        with shared.whole_batches(self._train):
            for call in calls:
                self._write(call)
        self._train.set_state(here)

    def _write(self, call: _Call) -> None:
        """Tells and writes down one call; the data are elsewhere then."""
        self._train.set_state(call.position)
        records: list[list[int]] = []
        found: set[int] = set()
        for _ in range(self._config.steps_per_call):
            numbers = self._train.records(self._train.get_state())
            records.append(numbers)
            found |= {numbers[row] for row in _rows_not_finite(next(self._train))}
        holding = sorted(found)
        row = {"step": call.step, "position": call.position}
        row |= {"records": records, "holding": holding}
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")
        told = f"records {_some([number for numbers in records for number in numbers])}"
        cause = f" (NaN or infinity in {_some(holding)})" if holding else ""
        tell(f"not finite: the call that ended at step {call.step}, {told}{cause}: {FILE}")


def _step(line: str) -> float:
    """Of a line of the file; infinite for half a line, which a full disk or a crash has left."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_TOLD]))
    return shown + (f", ... ({len(numbers)})" if len(numbers) > _TOLD else "")


def _decisive(sums: Sums) -> list[Any]:
    return [sums["loss"], sums["grad_norm"]]


def _is_finite(sums: Sums) -> bool:
    return all(map(math.isfinite, jax.tree.leaves(jax.device_get(_decisive(sums)))))


def _rows_not_finite(batch: Mapping[str, Any]) -> list[int]:
    """Rows of which a field holds a NaN or an infinity; padding that is never read counts too."""
    bad = [
        ~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
        for leaf in map(np.asarray, batch.values())
        if np.issubdtype(leaf.dtype, np.floating)
    ]
    return np.flatnonzero(np.any(bad, axis=0)).tolist() if bad else []


# ---- the step ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Guarded:
    """A task of whose step nothing stays where the loss is not finite.

    The optimizer leaves out what has no finite gradient. A loss can be infinite and have one: here
    its gradient is NaN then. And the model state stays as it was then, or where the new one is not
    finite: running statistics of a batch norm are none of the optimizer's, and one NaN in them
    would stay for ever.
    """

    task: Task

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def rng_streams(self) -> tuple[str, ...]:
        return self.task.rng_streams

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, PyTree]:
        return self.task.init(rng, batch)

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        value, aux = self.task.loss(params, model_state, batch, rngs, train=train)
        finite = metrics.all_finite((value, aux.sums["loss"]))
        value = value * jnp.where(finite, 1.0, jnp.nan).astype(value.dtype)
        good = finite & metrics.all_finite(aux.model_state)
        kept = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), aux.model_state, model_state
        )
        return value, LossAux(aux.sums, kept)

    def metrics(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        return self.task.metrics(sums)

    def outputs(
        self, params: Params, model_state: ModelState, batch: Batch, rngs: Mapping[str, PRNGKey]
    ) -> PyTree:
        return self.task.outputs(params, model_state, batch, rngs)

    def evaluate(self, pairs: Iterable[tuple[Batch, PyTree]]) -> dict[str, float]:
        return self.task.evaluate(pairs)

    def sample(
        self, params: Params, model_state: ModelState, rng: PRNGKey, num: int
    ) -> PyTree | None:
        return self.task.sample(params, model_state, rng, num)


def guarded(task: Task, config: Any) -> Task:
    """The task as `config.nonfinite` wants it: with "skip", `Guarded`."""
    return Guarded(task) if config.nonfinite == "skip" else task

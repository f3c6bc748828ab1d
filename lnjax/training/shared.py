"""What one process does for all: it alone reads and writes the run's folder.

Process 0 locks the folder, writes metrics, manifest, samples and checkpoints, and reads them; the
others get what is in a checkpoint over the network and need not see the folder. A checkpoint is
therefore the same, whoever trained: any number of processes and devices goes on from it. Alone,
these are the parts of `workdir`, `checkpoint` and `writer`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lnjax.training import processes, workdir
from lnjax.training.checkpoint import Checkpoints, Restored
from lnjax.training.command import tell
from lnjax.training.mesh import on_host, own_rows, place_like
from lnjax.training.task import TaskData, TrainBatches
from lnjax.training.writer import MetricsWriter, Progress, last_recorded_step
from lnjax.typing import PyTree


class SharedCheckpoints:
    """`Checkpoints` of several processes: `own` is what process 0 has opened, None elsewhere.

    All processes call the methods together, and an error is raised in all of them. The state is
    gathered in the memory of the first to be saved, and sent to all from there.
    """

    def __init__(self, own: Checkpoints | None):
        self._own = own

    def save(self, step: int, tree: PyTree, info: Mapping[str, Any]) -> None:
        """As `Checkpoints.save`."""
        whole = on_host(tree)
        processes.from_first(lambda: self._own and self._own.save(step, whole, info))

    def restore(self, like: PyTree) -> Restored | None:
        """As `Checkpoints.restore`; `like` has shardings."""
        found: list[Restored] = []

        def read() -> list[Any] | None:
            assert self._own is not None
            # NumPy: no device may be able to hold the whole.
            whole = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
            if (restored := self._own.restore(whole)) is None:
                return None
            found.append(restored)
            return [restored.step, restored.info, restored.refused]

        told = processes.from_first(read)
        if told is None:
            return None
        tree = _from_first(found[0].tree if found else None, like)
        return Restored(told[0], tree, told[1], tuple(told[2]))


def _from_first(tree: PyTree | None, like: PyTree) -> PyTree:
    """The arrays that process 0 has, in all, where `like` has them; exactly, bit by bit."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in leaves]
    content = None
    if tree is not None:
        content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
    everything = processes.bytes_from_first(content, sum(sizes))
    ends = np.cumsum(sizes).tolist()
    arrays = [
        np.frombuffer(everything[end - size : end], leaf.dtype).reshape(leaf.shape)
        for leaf, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    where = [leaf.sharding for leaf in leaves]
    return jax.tree.unflatten(structure, place_like(arrays, where))


@contextlib.contextmanager
def locked_checkpoints(folder: pathlib.Path) -> Iterator[Checkpoints | SharedCheckpoints]:
    """The checkpoints of the run in `folder`, which is locked meanwhile; waits for the last save.

    Raises:
      CheckpointError: another run goes on in `folder`; the last save failed.
    """
    with contextlib.ExitStack() as stack:
        opened: list[Checkpoints] = []

        def open_them() -> None:
            check = stack.enter_context(workdir.lock(folder))
            made = Checkpoints(folder / "checkpoints", on_failure=tell, check=check)
            opened.append(stack.enter_context(made))

        processes.from_first(open_them)
        alone = jax.process_count() == 1
        yield opened[0] if alone else SharedCheckpoints(opened[0] if opened else None)
        processes.from_first(lambda: opened[0].wait())


def refuse_folder(folder: pathlib.Path, config: Any) -> None:
    """`workdir.refuse_unusable` and `refuse_changed_config` by the first process.

    Raises:
      ValueError: in that process; a line of metrics.jsonl is damaged, too.
    """
    if processes.is_first():
        workdir.refuse_unusable(folder)
        workdir.refuse_changed_config(folder, config.to_dict())
        last_recorded_step(folder)  # raises what the writer would, once the config is rewritten


def alike(run: Any) -> dict[str, Any]:
    """What all processes must have in common, of their `config`, `data` and `first` batch."""
    shapes = {name: str(np.shape(leaf)) for name, leaf in run.first.items()}
    config = {**run.config.to_dict(), "data_dir": ""}  # each machine may have its own
    return {**config, "fingerprint": dict(run.data.fingerprint), "batch": shapes}


def describe(
    folder: pathlib.Path, step: int, config: Any, data: TaskData, batch: Mapping[str, jax.Array]
) -> None:
    """`workdir.describe` by the first process; what it raises all raise."""
    processes.from_first(lambda: workdir.describe(folder, step, config.to_dict(), data, batch))


class _Silent:
    """In place of a writer of metrics and of a line of progress in all processes but the first."""

    seconds_spent = 0.0

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Process 0 writes them."""

    def image(self, step: int, name: str, image: Any) -> None:
        """Process 0 shows it."""

    def update(self, step: int, loss: float) -> None:
        """Process 0 tells it."""


@contextlib.contextmanager
def writers(
    folder: pathlib.Path, step: int, num_steps: int
) -> Iterator[tuple[MetricsWriter | _Silent, Progress | _Silent]]:
    """What a run that starts at `step` tells: a `MetricsWriter` and a `Progress`."""
    if not processes.is_first():
        yield _Silent(), _Silent()
        return
    with (
        MetricsWriter(folder, resume_step=step) as writer,
        Progress(num_steps, step) as progress,
    ):
        yield writer, progress


class _OwnRows:
    """Some rows of each batch of an iterator that makes whole ones."""

    def __init__(self, batches: Any, rows: range):
        self._batches, self.rows = batches, rows
        self.get_state, self.set_state = batches.get_state, batches.set_state
        self.records = batches.records

    def __iter__(self) -> "_OwnRows":
        return self

    def __next__(self) -> dict[str, Any]:
        own = slice(self.rows.start, self.rows.stop)
        return {name: leaf[own] for name, leaf in next(self._batches).items()}

    def keep_rows(self, rows: range) -> None:
        self.rows = rows


def keep_own_rows(data: TaskData, batch_size: int, mesh: Mesh) -> TaskData:
    """The data with this process's rows of each training batch, which alone are read.

    A stream that has no `keep_rows` as `lnjax.data.pipeline.TrainBatches` has makes whole batches.
    """
    rows = own_rows(batch_size, mesh)
    if len(rows) == batch_size:
        return data
    if not hasattr(data.train, "keep_rows"):
        return dataclasses.replace(data, train=_OwnRows(data.train, rows))
    data.train.keep_rows(rows)
    return data


@contextlib.contextmanager
def whole_batches(train: TrainBatches) -> Iterator[None]:
    """Meanwhile the batches of `train` have the rows of all processes; then its own again."""
    rows = getattr(train, "rows", None)
    if rows is None or jax.process_count() == 1:  # they are whole
        yield
        return
    train.keep_rows(range(len(train.records(train.get_state()))))
    try:
        yield
    finally:
        train.keep_rows(rows)


def first_batch(data: TaskData) -> dict[str, Any]:
    """The batch that comes next, which the data will give again."""
    position = data.train.get_state()
    batch = dict(next(data.train))
    data.train.set_state(position)
    return batch

"""The seeds of one arm, trained together: the train step of a single run under `jax.vmap`.

Every seed has its own parameters, data order and random streams, as if it ran alone; a step
computes them side by side. What each leaves is what train.py leaves, a checkpoint of the last step
too. Sums inside of a product may be taken in another order than alone, so that the numbers agree to
rounding, not to the bit.

It needs batches of one shape in all seeds, which a task that sorts by length does not give, and
room for the state of all seeds: `Apart` says which is missing, and then they run one by one.
"""

import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lnjax.comparison import outcome
from lnjax.training import metrics, nonfinite, workdir
from lnjax.training.checkpoint import Checkpoints, refuse_changed_data
from lnjax.training.command import tell
from lnjax.training.evaluation import evaluate
from lnjax.training.mesh import make_mesh, place_batch
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import init_state
from lnjax.training.step import run_shapes, train_step, train_steps
from lnjax.training.task import Task, TaskData
from lnjax.training.writer import MetricsWriter, Progress
from lnjax.typing import PyTree

NUM_SAMPLES = 4  # as train.py
MEMORY_SHARE = 0.5  # of the free memory: what the step of all seeds may take


class Apart(Exception):
    """These runs cannot be trained together, and why; nothing of them was lost."""


class Member(NamedTuple):
    """One seed of the arm."""

    config: ConfigDict
    folder: pathlib.Path
    data: TaskData
    key: jax.Array


def train(
    configs: Sequence[ConfigDict],
    folders: Sequence[pathlib.Path],
    module: ModuleType,
    shared: pathlib.Path,
    *,
    free_memory: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains all seeds, or goes on where an earlier call was stopped.

    Args:
      configs: equal but for `seed`.
      folders: of the runs, in the order of the configs.
      module: of tasks/.
      shared: folder of the checkpoints on the way, which hold all seeds.
      free_memory: bytes; None: what the machine says.
      stopping: asked after each step whether to write a checkpoint and come back.

    Returns:
      Whether the runs are finished.

    Raises:
      Apart: they cannot be trained together.
      ValueError: as in train.py, of config or data.
      CheckpointError: as in train.py.
    """
    config = configs[0]
    workdir.check_steps(config)
    if (config.mesh.data, config.mesh.model) != (1, 1):
        raise Apart(f"mesh={dict(config.mesh)}: a run has several devices, not a device several")
    members = [
        Member(each, folder, module.make_data(each), jax.random.key(each.seed))
        for each, folder in zip(configs, folders, strict=True)
    ]
    made = [
        nonfinite.guarded(module.make_task(each.config, each.data.spec), each.config)
        for each in members
    ]
    if any(task != made[0] for task in made):
        raise Apart("the data of the seeds ask for different models")
    task, tx, mesh = made[0], make_optimizer(config), make_mesh(1)
    label = shared.parent.name

    # ---------------------------------------------------------------------- state
    positions = [each.data.train.get_state() for each in members]
    firsts = [place_batch(next(each.data.train), mesh) for each in members]
    state = _stack(
        [
            init_state(each.key, first, task=task, tx=tx)
            for each, first in zip(members, firsts, strict=True)
        ]
    )
    shapes = run_shapes(firsts[0], task=task, tx=tx)["sums"]
    no_sums = jax.tree.map(lambda leaf: np.zeros((len(members), *leaf.shape), leaf.dtype), shapes)
    _go_to(members, positions)
    rngs = jnp.stack([each.key for each in members])

    body = train_step if config.steps_per_call == 1 else train_steps
    jitted = jax.jit(jax.vmap(partial(body, task=task, tx=tx)), donate_argnums=(0,))
    compiled = jitted.lower(state, _next(members, config.steps_per_call), rngs).compile()
    _go_to(members, positions)
    _check_memory(compiled, len(members), _free_memory() if free_memory is None else free_memory)

    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(shared, keep=1))
        sums, step, lost = no_sums, 0, {}
        restored = checkpoints.restore({"state": state, "sums": sums})
        if restored is not None:
            for each, fingerprint in zip(members, restored.info["fingerprints"], strict=True):
                refuse_changed_data(fingerprint, each.data.fingerprint)
            step, (state, sums) = restored.step, (restored.tree["state"], restored.tree["sums"])
            lost = {int(index): at for index, at in restored.info["lost"].items()}
            _go_to(members, restored.info["positions"])
            tell(f"{label}: going on from step {step}")
        for each, first in zip(members, firsts, strict=True):
            each.folder.mkdir(parents=True, exist_ok=True)
            workdir.describe(each.folder, step, each.config.to_dict(), each.data, first)
        writers = [
            stack.enter_context(MetricsWriter(each.folder, resume_step=step)) for each in members
        ]
        progress = stack.enter_context(Progress(config.num_steps, step))

        def write(values: Sequence[Mapping[str, float]]) -> None:
            """One line for each seed that is not lost; its time is its share of the time of all."""
            seconds = (time.perf_counter() - begin) / len(members)
            for index, (writer, row) in enumerate(zip(writers, values, strict=True)):
                if index not in lost:
                    writer.write(step, seconds, row)

        # ------------------------------------------------------------------ the loop
        # Of the furthest: a seed that was lost has no later line.
        spent = max(writer.seconds_spent for writer in writers)
        begin = time.perf_counter() - spent * len(members)
        while step < config.num_steps and len(lost) < len(members):
            state, new = compiled(state, _next(members, config.steps_per_call), rngs)
            sums = metrics.add(sums, new)
            step += config.steps_per_call

            last, stop = step >= config.num_steps, stopping()
            logging_now = last or step % config.log_steps == 0
            saving_now = last or stop or step % config.checkpoint_steps == 0
            if logging_now or saving_now:
                checked = [state.params, state.model_state, state.opt_state]
                if config.nonfinite == "stop":
                    checked += [sums["loss"], sums["grad_norm"]]
                for index in np.flatnonzero(~np.asarray(jax.vmap(metrics.all_finite)(checked))):
                    if lost.setdefault(int(index), step) == step:
                        tell(f"{label}: seed {members[index].config.seed}: not finite at {step}")
            if logging_now:
                rows = [metrics.finalize(_of(sums, i), task, "train") for i in range(len(members))]
                sums = no_sums
                write(rows)
                progress.update(step, float(np.mean([row["train/loss"] for row in rows])))
            if last or step % config.eval_steps == 0:
                write(
                    [
                        {} if i in lost else _evaluate(each, _of(state, i), task, module, step)
                        for i, each in enumerate(members)
                    ]
                )
            if saving_now:
                info = {
                    "positions": [each.data.train.get_state() for each in members],
                    "fingerprints": [each.data.fingerprint for each in members],
                    "lost": lost,
                }
                checkpoints.save(step, {"state": state, "sums": sums}, info)
            if stop and not last:
                return False

        # ------------------------------------------------------------------ what each run leaves
        checkpoints.wait()
        for index, each in enumerate(members):
            if index in lost:
                outcome.record(each.folder, "not finite", lost[index], together=len(members))
                continue
            with Checkpoints(each.folder / "checkpoints") as own:
                if step not in own.steps():
                    tree = {"state": _of(state, index), "sums": _of(sums, index)}
                    own.save(
                        step,
                        tree,
                        {
                            "position": each.data.train.get_state(),
                            "fingerprint": each.data.fingerprint,
                            "spec": each.data.spec,
                        },
                    )
            outcome.record(each.folder, "done", step, together=len(members))
    return True


def _evaluate(
    member: Member, state: Any, task: Task, module: ModuleType, step: int
) -> dict[str, float]:
    """The metrics of each split of one seed, and its sheet of samples, as in train.py."""
    values: dict[str, float] = {}
    for split, batches in member.data.evals.items():
        values |= evaluate(state, batches, member.key, task=task, mesh=make_mesh(1), prefix=split)
    samples = task.sample(state.params, state.model_state, member.key, NUM_SAMPLES)
    if samples is not None:
        sheet = member.folder / "samples" / f"{step:08d}.png"
        sheet.parent.mkdir(exist_ok=True)
        label = "{name}/{config}".format(**member.data.fingerprint)
        module.draw_samples(sheet, samples, title=f"{label}, step {step}")
    return values


def _next(members: Sequence[Member], steps: int = 1) -> PyTree:
    """The next batch of each seed, stacked: leaves (seeds, ...), or (seeds, steps, ...).

    Raises:
      Apart: they have different shapes.
    """
    batches = [next(each.data.train) for each in members for _ in range(steps)]
    shapes = [{name: np.shape(leaf) for name, leaf in batch.items()} for batch in batches]
    if any(shape != shapes[0] for shape in shapes):
        raise Apart("their batches have different shapes, as where examples are sorted by length")
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *[dict(batch) for batch in batches])
    if steps == 1:
        return stacked
    return jax.tree.map(lambda leaf: leaf.reshape(len(members), steps, *leaf.shape[1:]), stacked)


def _go_to(members: Sequence[Member], positions: Sequence[dict[str, Any]]) -> None:
    for each, position in zip(members, positions, strict=True):
        each.data.train.set_state(position)


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _of(tree: PyTree, index: int) -> PyTree:
    """The part of one seed."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _check_memory(compiled: Any, count: int, free: int | None) -> None:
    """Refuses a step whose arrays would take more than MEMORY_SHARE of what is free."""
    analysis = compiled.memory_analysis()
    if analysis is None or free is None:
        return
    needed = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    if needed > MEMORY_SHARE * free:
        raise Apart(
            f"a step of {count} seeds takes {needed / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB"
            f" that are free; at most {MEMORY_SHARE:.0%} of it may be"
        )


def _free_memory() -> int | None:
    """Bytes that are free where the arrays lie; None where nobody says."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None

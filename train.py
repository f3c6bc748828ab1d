"""Trains one experiment: ``python train.py --config=configs/handwriting.py``.

  --config=configs/x.py[:variant]   what to train; ``--config.key=value`` overrides a key
  --workdir=runs/x                  where everything goes; the same command again goes on from the
                                    newest good checkpoint
  --processes=N|auto                several processes train it together, see docs/scaling.md

Exit codes: 0 done; 2 wrong config, data or checkpoint; 3 loss or gradient was not finite;
69 another process of the run is gone; 75 stopped by SIGTERM, SIGINT or SIGHUP after a
checkpoint was written. After 69 and 75 run the same command again.
"""

import pathlib
import time
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

import tasks
from lnjax.data import DataError
from lnjax.training import mesh as meshes
from lnjax.training import metrics, nonfinite, processes, shared, workdir
from lnjax.training.checkpoint import CheckpointError, refuse_changed_data
from lnjax.training.command import EXIT_REFUSED, flags_parser, keep_compiled, tell
from lnjax.training.evaluation import evaluate, sample
from lnjax.training.interrupt import EXIT_INTERRUPTED, Interrupt
from lnjax.training.mesh import place_batch, place_state
from lnjax.training.optimizer import make_optimizer
from lnjax.training.processes import tell_once
from lnjax.training.state import TrainState
from lnjax.training.step import run_shapes, train_step, train_steps
from lnjax.training.task import Task, TaskData

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/x.py[:variant]")
_WORKDIR = flags.DEFINE_string("workdir", None, "default: runs/<task>")
_PROCESSES = flags.DEFINE_string("processes", "1", "how many train it; or auto: as Slurm, ... say")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, a free port")

parse_flags = flags_parser(lambda: _CONFIG.value.task)  # raises if the file could not be read

EXIT_NONFINITE = 3
NUM_SAMPLES = 4


class Run(NamedTuple):
    """Everything that is known before anything is written."""

    config: ConfigDict
    folder: pathlib.Path
    module: ModuleType  # of tasks/
    mesh: Mesh
    tx: optax.GradientTransformation
    data: TaskData
    task: Task
    first: dict[str, Any]  # the first batch, of it the rows of this process
    plan: TrainState  # where each array of the state will lie


def set_up(config: ConfigDict, folder: pathlib.Path) -> Run:
    """Makes the parts of a run; writes nothing but the cache of the data.

    Raises:
      ValueError: the config, the folder or the data (`DataError`) cannot be used.
    """
    workdir.check_steps(config)
    module = tasks.load(config.task)
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
    for key in ("batch_size", "eval_batch_size"):
        meshes.check_batch_size(key, config[key], mesh)
    tx = make_optimizer(config)
    shared.refuse_folder(folder, config)
    data = shared.keep_own_rows(module.make_data(config), config.batch_size, mesh)
    task = nonfinite.guarded(module.make_task(config, data.spec), config)
    first = shared.first_batch(data)
    plan = meshes.plan_state(first, task=task, tx=tx, mesh=mesh, rule=config.mesh.shard)
    return Run(config, folder, module, mesh, tx, data, task, first, plan)


def train(run: Run) -> int:
    """Trains, or goes on training; returns the exit code.

    Raises:
      CheckpointError: no checkpoint is usable or the run cannot go on from it; none can be written.
      DataError: a record cannot be used. OSError: a file cannot be written, as on a full disk.
    """
    config, folder, module, mesh, tx, data, task, first, plan = run
    label = "{name}/{config}".format(**data.fingerprint)

    # ------------------------------------------------------------------ state
    rng = jax.random.key(config.seed)
    batch = place_batch(first, mesh)
    state = meshes.make_state(rng, batch, task=task, tx=tx, plan=plan)
    shapes = run_shapes(batch, task=task, tx=tx)["sums"]
    no_sums = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    sums, step = place_state(no_sums, mesh), 0

    # Interrupt stands outside: leaving the checkpoints waits for the last save.
    with Interrupt() as interrupt, shared.locked_checkpoints(folder) as checkpoints:
        agreed = processes.Agreement()
        restored = checkpoints.restore({"state": state, "sums": sums})
        if restored is not None:
            for line in restored.refused:
                tell_once(f"refused: {line}")
            refuse_changed_data(restored.info["fingerprint"], data.fingerprint)
            step, (state, sums) = restored.step, (restored.tree["state"], restored.tree["sums"])
            data.train.set_state(restored.info["position"])
            workdir.check_steps(config, step)
            tell_once(f"going on from step {step} of {folder}")

        # -------------------------------------------------------------- what the run leaves
        shared.describe(folder, step, config, data, batch)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        tell_once(f"{label}: {num_params:,} parameters, norm {config.norm}")
        for baseline, value in data.baselines.items():
            tell_once(f"{label}: {baseline}: {value:.3f}")

        # -------------------------------------------------------------- the loop
        with shared.writers(folder, step, config.num_steps) as (writer, progress):
            watch = nonfinite.Watch(folder, config, data.train, step)
            begin = time.perf_counter() - writer.seconds_spent
            while step < config.num_steps:
                if config.steps_per_call == 1:
                    batch = place_batch(next(data.train), mesh)
                    state, new = train_step(state, batch, rng, task=task, tx=tx)
                else:
                    several = [next(data.train) for _ in range(config.steps_per_call)]
                    stacked = jax.tree.map(lambda *rows: np.stack(rows), *several)
                    batches = place_batch(stacked, mesh, stacked=True)
                    state, new = train_steps(state, batches, rng, task=task, tx=tx)
                step += config.steps_per_call
                sums = watch.add(sums, new, step)

                last = step >= config.num_steps
                stopping = agreed(interrupt.requested is not None)
                logging_now = last or step % config.log_steps == 0
                saving_now = last or stopping or step % config.checkpoint_steps == 0

                if logging_now or saving_now:
                    sums = watch.look(sums, state)
                    if sums is None:
                        return EXIT_NONFINITE

                if logging_now:
                    values = metrics.finalize(sums, task, "train")
                    sums = place_state(no_sums, mesh)
                    writer.write(step, time.perf_counter() - begin, values)
                    progress.update(step, values["train/loss"])

                if last or step % config.eval_steps == 0:
                    values = {}
                    for split, batches in data.evals.items():
                        values |= evaluate(state, batches, rng, task=task, mesh=mesh, prefix=split)
                    writer.write(step, time.perf_counter() - begin, values)
                    told = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
                    tell_once(f"{label}: step {step}  {told}")
                    samples = sample(state, rng, NUM_SAMPLES, task=task)
                    if samples is not None:
                        sheet = folder / "samples" / f"{step:08d}.png"
                        sheet.parent.mkdir(exist_ok=True)
                        module.draw_samples(sheet, samples, title=f"{label}, step {step}")
                        writer.image(step, "samples", sheet)

                if saving_now:
                    info = {"position": data.train.get_state(), "spec": data.spec}
                    info |= {"fingerprint": data.fingerprint}
                    checkpoints.save(step, {"state": state, "sums": sums}, info)
                if stopping and not last:
                    return EXIT_INTERRUPTED
    tell_once(f"done: {folder} is at step {step}")
    return 0


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    config = _CONFIG.value
    folder = pathlib.Path(_WORKDIR.value or f"runs/{config.task}")
    with processes.ending_together():
        try:
            processes.start(_PROCESSES.value, _PROCESS_ID.value, _COORDINATOR.value)
            return train(processes.all_or_none(lambda: set_up(config, folder), shared.alike))
        except (processes.Refused, CheckpointError, DataError, OSError) as error:
            if isinstance(error, (DataError, OSError)) and jax.process_count() > 1:
                raise  # the others know nothing of it
            tell(f"error: {error}")
            return EXIT_REFUSED


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

"""Trains one experiment: ``python train.py --config=configs/handwriting.py``.

  --config=configs/x.py[:variant]   what to train; ``--config.key=value`` overrides a key
  --workdir=runs/x                  where everything goes; the same command again goes on from the
                                    newest good checkpoint

Exit codes: 0 done; 2 wrong config, data or checkpoint; 3 loss or gradient was not finite;
75 stopped by SIGTERM or SIGINT after a checkpoint was written, so run the same command again.
"""

import pathlib
import time
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
import optax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

import tasks
from lnjax.training import metrics, workdir
from lnjax.training.checkpoint import CheckpointError, Checkpoints, refuse_changed_data
from lnjax.training.command import EXIT_REFUSED, flags_parser, keep_compiled, tell
from lnjax.training.evaluation import evaluate
from lnjax.training.interrupt import EXIT_INTERRUPTED, Interrupt
from lnjax.training.mesh import check_batch_size, make_mesh, place_batch, place_state
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import init_state
from lnjax.training.step import run_shapes, train_step, train_steps
from lnjax.training.task import Task, TaskData
from lnjax.training.writer import MetricsWriter, Progress

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/x.py[:variant]")
_WORKDIR = flags.DEFINE_string("workdir", None, "default: runs/<task>")

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


def set_up(config: ConfigDict, folder: pathlib.Path) -> Run:
    """Makes the parts of a run; writes nothing but the cache of the data.

    Raises:
      ValueError: the config, the folder or the data (`DataError`) cannot be used.
    """
    workdir.check_steps(config)
    module = tasks.load(config.task)
    mesh = make_mesh(config.mesh.data)
    for key in ("batch_size", "eval_batch_size"):
        check_batch_size(key, config[key], mesh)
    tx = make_optimizer(config)
    workdir.refuse_changed_config(folder, config.to_dict())
    data = module.make_data(config)
    return Run(config, folder, module, mesh, tx, data, module.make_task(config, data.spec))


def train(run: Run) -> int:
    """Trains, or goes on training; returns the exit code.

    Raises:
      CheckpointError: no checkpoint is usable, or the run cannot go on from the one that is.
    """
    config, folder, module, mesh, tx, data, task = run
    label = "{name}/{config}".format(**data.fingerprint)

    # ------------------------------------------------------------------ state
    rng = jax.random.key(config.seed)
    position = data.train.get_state()
    batch = place_batch(next(data.train), mesh)
    data.train.set_state(position)
    state = place_state(init_state(rng, batch, task=task, tx=tx), mesh)
    shapes = run_shapes(batch, task=task, tx=tx)["sums"]
    no_sums = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    sums, step = place_state(no_sums, mesh), 0

    # Interrupt stands outside: leaving the checkpoints waits for the last save.
    with (
        workdir.lock(folder),
        Interrupt() as interrupt,
        Checkpoints(folder / "checkpoints") as checkpoints,
    ):
        restored = checkpoints.restore({"state": state, "sums": sums})
        if restored is not None:
            for line in restored.refused:
                tell(f"refused: {line}")
            refuse_changed_data(restored.info["fingerprint"], data.fingerprint)
            step, (state, sums) = restored.step, (restored.tree["state"], restored.tree["sums"])
            data.train.set_state(restored.info["position"])
            workdir.check_steps(config, step)
            tell(f"going on from step {step} of {folder}")

        # -------------------------------------------------------------- what the run leaves
        workdir.describe(folder, step, config.to_dict(), data, batch)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        tell(f"{label}: {num_params:,} parameters, norm {config.norm}")
        for baseline, value in data.baselines.items():
            tell(f"{label}: {baseline}: {value:.3f}")

        # -------------------------------------------------------------- the loop
        with (
            MetricsWriter(folder, resume_step=step) as writer,
            Progress(config.num_steps, step) as progress,
        ):
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
                sums = metrics.add(sums, new)
                step += config.steps_per_call

                last = step >= config.num_steps
                stopping = interrupt.requested is not None
                logging_now = last or step % config.log_steps == 0
                saving_now = last or stopping or step % config.checkpoint_steps == 0

                if logging_now or saving_now:
                    checked = [state.params]
                    if config.nonfinite == "stop":
                        checked += [sums["loss"], sums["grad_norm"]]
                    if not metrics.all_finite(checked):
                        what = "loss, gradient or parameters not finite at or shortly before step"
                        tell(f"error: {what} {step}; the checkpoints are older. A run with")
                        tell("--config.nonfinite=skip leaves single such updates out")
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
                    tell(f"{label}: step {step}  {told}")
                    samples = task.sample(state.params, state.model_state, rng, NUM_SAMPLES)
                    if samples is not None:
                        sheet = folder / "samples" / f"{step:08d}.png"
                        sheet.parent.mkdir(exist_ok=True)
                        module.draw_samples(sheet, samples, title=f"{label}, step {step}")
                        writer.image(step, "samples", sheet)

                if saving_now:
                    info = {
                        "position": data.train.get_state(),
                        "fingerprint": data.fingerprint,
                        "spec": data.spec,
                    }
                    checkpoints.save(step, {"state": state, "sums": sums}, info)
                if stopping and not last:
                    return EXIT_INTERRUPTED
    tell(f"done: {folder} is at step {step}")
    return 0


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    config = _CONFIG.value
    try:
        run = set_up(config, pathlib.Path(_WORKDIR.value or f"runs/{config.task}"))
    except ValueError as error:
        tell(f"error: {error}")
        return EXIT_REFUSED
    try:
        return train(run)
    except CheckpointError as error:
        tell(f"error: {error}")
        return EXIT_REFUSED


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

"""The runs of an arm: which are still to train, and training them, together or one by one."""

import pathlib
import subprocess
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Literal

from ml_collections import ConfigDict

from lnjax.comparison import arms, outcome, together
from lnjax.training import workdir
from lnjax.training.command import tell
from lnjax.training.interrupt import EXIT_INTERRUPTED
from lnjax.training.writer import last_recorded_step

Together = Literal["auto", "yes", "no"]

EXIT_NONFINITE = 3  # of train.py
_POLL_SECONDS = 0.2


class Failed(RuntimeError):
    """A run could not be trained; the message says which and why."""


def folder_of(base: pathlib.Path, arm: arms.Arm, seed: int) -> pathlib.Path:
    """Where a run of a comparison lies."""
    return base / arm.name / f"seed-{seed}"


def train_arm(
    configs: Sequence[ConfigDict],
    folders: Sequence[pathlib.Path],
    module: ModuleType,
    command: Callable[[ConfigDict, pathlib.Path], list[str]],
    *,
    how: Together = "auto",
    jobs: int = 1,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains those runs of an arm that are not finished; the others are not touched.

    Args:
      configs: one per seed.
      folders: of the runs.
      module: of tasks/, for training together.
      command: what to execute for one run alone.
      how: "yes": under one `vmap`, or not at all; "no": one by one; "auto": together, if they can.
      jobs: how many processes at once, one by one.
      stopping: whether to write checkpoints and come back.

    Returns:
      Whether all are finished.

    Raises:
      Failed: a run ended with an error, or `how` is "yes" and they cannot be trained together.
      ValueError, CheckpointError: the config, the data or a checkpoint cannot be used.
    """
    todo = []
    for config, folder in zip(configs, folders, strict=True):
        workdir.refuse_changed_config(folder, config.to_dict(), strict=True)
        if not _is_finished(folder, config):
            todo.append((config, folder))
    if how != "no" and len(todo) > 1:
        left, places = zip(*todo, strict=True)
        seeds = "-".join(str(config.seed) for config in left)
        shared = places[0].parent / f"together-{seeds}"
        try:
            return together.train(left, places, module, shared, stopping=stopping)
        except together.Apart as reason:
            if how == "yes":
                raise Failed(f"{places[0].parent.name}: {reason}; take --together=auto") from None
            tell(f"{places[0].parent.name}: one by one: {reason}")
    return _one_by_one(
        [(folder, command(config, folder)) for config, folder in todo], jobs, stopping
    )


def _is_finished(folder: pathlib.Path, config: ConfigDict) -> bool:
    """Whether a run ended, at the config's last step: more steps may have been asked for since.

    Raises:
      ValueError: it has more steps; what it was at the config's last one is in no checkpoint.
    """
    ended = outcome.read(folder)
    if ended is None or ended.status != "done":
        return ended is not None
    if ended.step > config.num_steps:
        raise ValueError(
            f"{folder} holds a run of {ended.step} steps, and {config.num_steps} are asked for;"
            " take at least as many, or another --workdir"
        )
    return ended.step == config.num_steps


def overrides(config: ConfigDict, base: ConfigDict) -> list[str]:
    """The flags that make of `base` what `config` is."""
    return [f"--config.{key}={value}" for key, value in arms.changed(config, base).items()]


def _one_by_one(
    todo: Sequence[tuple[pathlib.Path, list[str]]], jobs: int, stopping: Callable[[], bool]
) -> bool:
    """Each run as a process of train.py, which goes on from its own checkpoints."""
    waiting, running = list(todo), {}
    told = interrupted = False
    try:
        while running or (waiting and not stopping()):
            while waiting and len(running) < jobs and not stopping():
                folder, command = waiting.pop(0)
                tell(f"{folder.parent.name}, {folder.name}")
                running[folder] = subprocess.Popen(command)
            time.sleep(_POLL_SECONDS)
            if stopping() and not told:
                told = True
                for process in running.values():
                    process.terminate()  # it writes a checkpoint first
            for folder in [folder for folder, each in running.items() if each.poll() is not None]:
                code = running.pop(folder).returncode
                # A signal ends a process that has not come to its loop yet in another way.
                stopped = told and code not in (0, EXIT_NONFINITE)
                interrupted |= not _finish(folder, EXIT_INTERRUPTED if stopped else code)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return not waiting and not interrupted


def _finish(folder: pathlib.Path, code: int) -> bool:
    """Records how a process of train.py ended; returns whether its run is finished."""
    if code == EXIT_INTERRUPTED:
        return False
    if code not in (0, EXIT_NONFINITE):
        raise Failed(f"{folder}: train.py ended with {code}; what it said is above")
    step = last_recorded_step(folder) or 0
    outcome.record(folder, "done" if code == 0 else "not finite", step, together=1)
    return True

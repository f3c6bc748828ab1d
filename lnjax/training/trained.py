"""A trained run, read from its folder: nothing in it is changed, and no data set is needed."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lnjax.training import workdir
from lnjax.training.checkpoint import Checkpoints
from lnjax.training.command import tell
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import TrainState
from lnjax.training.step import run_shapes


class Trained(NamedTuple):
    """The task of a run, and its newest good state."""

    task: Any
    state: TrainState
    step: int


def load(
    folder: pathlib.Path,
    make_task: Callable[[Any, Mapping[str, Any]], Any],
    *,
    task: str | None = None,
) -> Trained:
    """Restores the newest good checkpoint of the run in `folder`.

    Args:
      folder: see `workdir`.
      make_task: of the task's module, see `task`.
      task: name of the task that the run must be of; None: any.

    Raises:
      ValueError: there is no run in `folder`, it is one of another task, or it has no checkpoint.
      CheckpointError: none of its checkpoints is usable.
    """
    run = workdir.read(folder)
    name = run.config["task"]
    if task not in (None, name):
        raise ValueError(f"{folder} holds a run of {name}; expected one of {task}")
    try:
        config = ConfigDict(run.config)
        made = make_task(config, run.spec)
        shapes = run_shapes(run.batch, task=made, tx=make_optimizer(config))
    except Exception as error:  # in files from anywhere anything can be wrong
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"{folder}: config.json and data.json describe no {name} ({what}); restore both"
            " from a copy"
        ) from error
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(shapes)
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint yet; let train.py write one")
    for line in restored.refused:
        tell(f"refused: {line}")
    if restored.info.get("spec", run.spec) != run.spec:  # scales and words of the training
        raise ValueError(
            f"{folder / 'data.json'}: its spec is not the one that checkpoint {restored.step} was"
            " trained with; restore it from a copy"
        )
    return Trained(made, restored.tree["state"], restored.step)

"""The folder of a run: what says of it how it was made, and the check that a run may go on in it.

config.json         the resolved config
data.json           what the model must know of the data, and the shapes of a batch
manifest.json       commit, versions, device, seed, data (manifest-from-<step>.json when resumed)
metrics.jsonl       one object a line; tensorboard/ has the same
samples/            a sheet at every evaluation
checkpoints/        see `checkpoint`
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from lnjax.training import manifest
from lnjax.training.checkpoint import CheckpointError
from lnjax.training.task import TaskData

# What a resumed run may change; everything else must be as it was.
MAY_CHANGE = frozenset(
    {
        "num_steps",
        "log_steps",
        "eval_steps",
        "checkpoint_steps",
        "steps_per_call",
        "eval_batch_size",
        "mesh",
        "data_dir",  # the fingerprint of the data decides, not where they lie
    }
)

# Keys that configs have gained, with the value that does what runs from before them did. Without
# it such a run could not go on: it would seem to have had another value.
ADDED = {"adam": "corrected", "clip": "global"}


class Description(NamedTuple):
    """What a run's folder says of it."""

    config: dict[str, Any]
    spec: dict[str, Any]  # see `TaskData`
    batch: dict[str, jax.ShapeDtypeStruct]


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds `workdir`, which is made if missing, for this process alone.

    The lock is on the folder itself and ends with the process, however that ends.

    Raises:
      CheckpointError: another process trains in `workdir`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    handle = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CheckpointError(
            f"another process trains in {workdir}; wait for it, or take another --workdir"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def refuse_changed_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Refuses to go on in `workdir` with another config than its run has.

    Raises:
      ValueError: a key outside MAY_CHANGE differs, or num_steps where the schedule depends on it
        (one line with the old and the new value); `workdir` is a file, or its config damaged.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file; --workdir is the folder of a run")
    path = workdir / "config.json"
    if not path.exists():
        return
    saved = {key: value for key, value in ADDED.items() if key in config} | _load(path)
    # The cosine ends at num_steps: with another number every rate would be another.
    may_change = MAY_CHANGE - (set() if config["schedule"] == "constant" else {"num_steps"})
    changed = [
        f"{key} was {saved.get(key)!r} and is {config.get(key)!r}"
        for key in sorted(saved.keys() | config.keys())
        if key not in may_change and saved.get(key) != config.get(key)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another config: {'; '.join(changed)};"
            " take the old values, or another --workdir"
        )


def check_steps(config: Any, step: int = 0) -> None:
    """Refuses numbers of steps that the loop, going on at `step`, would not meet.

    Raises:
      ValueError: of the config alone.
      CheckpointError: of the config together with the step that the run is at.
    """
    for key in ("num_steps", "log_steps", "eval_steps", "checkpoint_steps"):
        if config[key] < 1 or config.steps_per_call < 1 or config[key] % config.steps_per_call:
            raise ValueError(
                f"{key}={config[key]} must be a positive multiple of"
                f" steps_per_call={config.steps_per_call}"
            )
    if step % config.steps_per_call:
        raise CheckpointError(
            f"the run is at step {step}, from where steps_per_call={config.steps_per_call} does not"
            f" meet num_steps={config.num_steps}; set it to 1, or to a divisor of {step}"
        )


def describe(
    workdir: pathlib.Path,
    step: int,
    config: Mapping[str, Any],
    data: TaskData,
    batch: Mapping[str, jax.Array],
) -> None:
    """Writes config.json, data.json and the manifest of a process that starts at `step`."""
    manifest.write_json(workdir / "config.json", dict(config))
    shapes = {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in batch.items()}
    manifest.write_json(workdir / "data.json", {"spec": dict(data.spec), "batch": shapes})
    record = {"data": dict(data.fingerprint), "baselines": dict(data.baselines)}
    name = f"manifest-from-{step}.json" if step else "manifest.json"
    manifest.write_json(workdir / name, manifest.run_manifest(config["seed"], record))


def read(workdir: pathlib.Path) -> Description:
    """What `describe` wrote.

    Raises:
      ValueError: there is no run in `workdir`, or a file of its description is damaged.
    """
    try:
        config, data = _load(workdir / "config.json"), _load(workdir / "data.json")
    except FileNotFoundError as error:
        raise ValueError(
            f"{workdir} holds no run ({error.filename} is missing); train one there first"
        ) from None
    batch = {name: jax.ShapeDtypeStruct(*leaf) for name, leaf in data["batch"].items()}
    return Description(ADDED | config, data["spec"], batch)


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy") from None

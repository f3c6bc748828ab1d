"""The folder of a run: what says of it how it was made, and the check that a run may go on in it.

config.json         the resolved config
data.json           what the model must know of the data, and the shapes of a batch
manifest.json       commit, versions, device, seed, data (manifest-from-<step>.json when resumed)
metrics.jsonl       one object a line; tensorboard/ has the same
samples/            a sheet at every evaluation
checkpoints/        see `checkpoint`
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from lnjax.training import manifest
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


class Description(NamedTuple):
    """What a run's folder says of it."""

    config: dict[str, Any]
    spec: dict[str, Any]  # see `TaskData`
    batch: dict[str, jax.ShapeDtypeStruct]


def refuse_changed_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Refuses to go on in `workdir` with another config than its run has.

    Raises:
      ValueError: a key outside MAY_CHANGE differs (one line with its old and its new value), or
        `workdir` is a file.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file; --workdir is the folder of a run")
    path = workdir / "config.json"
    if not path.exists():
        return
    saved = json.loads(path.read_text())
    changed = [
        f"{key} was {saved.get(key)!r} and is {config.get(key)!r}"
        for key in sorted(saved.keys() | config.keys())
        if key not in MAY_CHANGE and saved.get(key) != config.get(key)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another config: {'; '.join(changed)};"
            " take the old values, or another --workdir"
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
      ValueError: there is no run in `workdir`.
    """
    try:
        config = json.loads((workdir / "config.json").read_text())
        data = json.loads((workdir / "data.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{workdir} holds no run ({error.filename} is missing); train one there first"
        ) from None
    batch = {name: jax.ShapeDtypeStruct(*leaf) for name, leaf in data["batch"].items()}
    return Description(config, data["spec"], batch)

"""The folder of a run: what says of it how it was made, and the check that a run may go on in it.

config.json         the resolved config
data.json           what the model must know of the data, and the shapes of a batch
manifest.json       commit, versions, device, seed, data (manifest-from-<step>.json when resumed)
metrics.jsonl       one object a line; tensorboard/ has the same
nonfinite.jsonl     records of the batches whose loss or gradient was not finite; see `nonfinite`
samples/            a sheet at every evaluation
checkpoints/        see `checkpoint`
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from lnjax.training import manifest
from lnjax.training.checkpoint import CheckpointError
from lnjax.training.command import tell
from lnjax.training.task import TaskData

# What a resumed run may change without a word, since the run stays what it was; what is in neither
# this nor MAY_CHANGE_WITH_A_NOTE must be as it was. docs/faults.md has the table of all keys.
MAY_CHANGE = frozenset(
    {
        "num_steps",
        "log_steps",
        "eval_steps",
        "checkpoint_steps",
        "steps_per_call",
        "eval_batch_size",
        "mesh",
        "chunk",  # what is stored, and what computed again
        "data_dir",  # the fingerprint of the data decides, not where they lie
    }
)

# What a resumed run may change so that it becomes another run from there on, as one does who lowers
# the rate of a run that diverged: told, and written into its manifest.
MAY_CHANGE_WITH_A_NOTE = frozenset({"learning_rate", "clip_norm"})

# Keys that configs have gained, with the value that does what runs from before them did. Without
# it such a run could not go on: it would seem to have had another value.
ADDED = {"accumulate": 1, "adam": "corrected", "clip": "global"}
ADDED_TO = {"handwriting": {"bptt": 0, "chunk": 0}}  # and those of one task

_DTYPES = frozenset(  # of the arrays of a batch
    {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
    | {"bfloat16", "float16", "float32", "float64"}
)


class Description(NamedTuple):
    """What a run's folder says of it."""

    config: dict[str, Any]
    spec: dict[str, Any]  # see `TaskData`
    batch: dict[str, jax.ShapeDtypeStruct]


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Holds `workdir`, which is made if missing, for this process alone.

    The lock is on the folder itself and ends with the process, however that ends. Files are written
    by path: what is yielded asks whether that still leads to the folder.

    Raises:
      CheckpointError: another process trains in `workdir`; when asked later, `workdir` has been
        moved or deleted, and what is there now is not this run's.
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

    def check() -> None:
        try:
            here = os.path.samestat(os.stat(workdir), os.fstat(handle))
        except FileNotFoundError:
            here = False
        if not here:
            raise CheckpointError(
                f"{workdir} was moved or deleted while this run trained in it; nothing more is"
                " written there. The same command with the new --workdir goes on from the last"
                " checkpoint"
            )

    try:
        yield check
    finally:
        os.close(handle)


def refuse_unusable(workdir: pathlib.Path) -> None:
    """Refuses a folder that the run could not write to, before anything is computed.

    Nothing is written; whether a folder that is missing can be made is asked of its parent. The
    lock is `lock`'s, held for a moment only: `lock` is what keeps a process out.

    Raises:
      ValueError: `workdir` is a file, is on a file system that is read only, or may not be written
        to; another process trains in it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file; --workdir is the folder of a run")
    # os.access also knows what root may not: write to a file system that is mounted read only.
    found = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    inside = [
        path for path in (workdir / "checkpoints", workdir / "metrics.jsonl") if path.exists()
    ]
    for path in (found, *inside):
        if not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise ValueError(f"{path} cannot be written to; take another --workdir")
    if workdir.is_dir():
        try:
            with lock(workdir):
                pass
        except CheckpointError as error:
            raise ValueError(str(error)) from None


def refuse_changed_config(
    workdir: pathlib.Path, config: Mapping[str, Any], *, strict: bool = False
) -> None:
    """Refuses to go on in `workdir` with another config than its run has.

    Args:
      workdir: see above; one without a run refuses nothing.
      config: of this process.
      strict: refuses MAY_CHANGE_WITH_A_NOTE too, for runs that are compared by their configs.

    Raises:
      ValueError: a key differs that may not, or num_steps where the schedule depends on it (one
        line with the old and the new value); `workdir` is a file, or its config damaged.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file; --workdir is the folder of a run")
    may_change = MAY_CHANGE if strict else MAY_CHANGE | MAY_CHANGE_WITH_A_NOTE
    # The cosine ends at num_steps: with another number every rate would be another.
    may_change -= set() if config["schedule"] == "constant" else {"num_steps"}
    changes = _changes(workdir, config)
    # 0 is no clipping at all: an optimizer of another form.
    if "clip_norm" in changes and 0 in changes["clip_norm"]:
        may_change -= {"clip_norm"}
    changed = {key: values for key, values in changes.items() if key not in may_change}
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another config: {_told(changed)};"
            " take the old values, or another --workdir"
        )


def _changes(workdir: pathlib.Path, config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The old and the new value of every key that is not as the run in `workdir` has it."""
    path = workdir / "config.json"
    if not path.exists():
        return {}
    known = {key: value for key, value in _added(config).items() if key in config}
    saved = known | manifest.read_json(path)
    return {
        key: [saved.get(key), config.get(key)]
        for key in sorted(saved.keys() | config.keys())
        if saved.get(key) != config.get(key)
    }


def _told(changes: Mapping[str, list[Any]]) -> str:
    return "; ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changes.items())


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
    """Writes config.json, data.json and the manifest of a process that starts at `step`.

    What a run that goes on has changed of MAY_CHANGE_WITH_A_NOTE is told, and is "changed" of the
    manifest: ``{"learning_rate": [0.01, 0.001]}``.

    Raises:
      CheckpointError: `refuse_changed_config` refuses, since another process has trained in
        `workdir` before it was locked for this one; such a key has changed, and the run is at its
        last step: nothing would come of it.
    """
    try:
        refuse_changed_config(workdir, config)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    path = workdir / (f"manifest-from-{step}.json" if step else "manifest.json")
    noted = _noted(workdir, path, config) if step else {}
    if noted and step >= config["num_steps"]:
        raise CheckpointError(
            f"{workdir} holds a run that is done, at step {step}: {_told(noted)}, which would"
            " change nothing; take another --workdir, or more --config.num_steps"
        )
    if noted:
        tell(f"note: from step {step} on: {_told(noted)}")
    manifest.write_json(workdir / "config.json", dict(config))
    shapes = {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in batch.items()}
    manifest.write_json(workdir / "data.json", {"spec": dict(data.spec), "batch": shapes})
    record = {"data": dict(data.fingerprint), "baselines": dict(data.baselines)}
    record |= {"changed": noted} if noted else {}
    manifest.write_json(path, manifest.run_manifest(config["seed"], record))


def _noted(
    workdir: pathlib.Path, path: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """The changes of MAY_CHANGE_WITH_A_NOTE against what the checkpoint was made with.

    A process that went on from this step, and was killed before its next checkpoint, has written
    its config; the old values are then in the manifest that it left.
    """
    changes = _changes(workdir, config)
    earlier: dict[str, list[Any]] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        earlier = dict(manifest.read_json(path).get("changed", {}))
    old = {key: values[0] for key, values in (changes | earlier).items()}
    return {
        key: [value, config[key]]
        for key, value in old.items()
        if key in MAY_CHANGE_WITH_A_NOTE and value != config[key]
    }


def read(workdir: pathlib.Path) -> Description:
    """What `describe` wrote.

    Raises:
      ValueError: there is no run in `workdir`, or a file of its description is damaged.
    """
    try:
        config = manifest.read_json(workdir / "config.json")
        data = manifest.read_json(workdir / "data.json")
    except FileNotFoundError as error:
        raise ValueError(
            f"{workdir} holds no run ({error.filename} is missing); train one there first"
        ) from None
    if not isinstance(config.get("task"), str):
        raise ValueError(f"{workdir / 'config.json'} is damaged (it names no task); restore it")
    try:
        spec, batch = data["spec"], {name: _shape(*leaf) for name, leaf in data["batch"].items()}
        if not isinstance(spec, dict):
            raise TypeError(f"spec is a {type(spec).__name__}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{workdir / 'data.json'} is damaged ({what}); restore it from a copy"
        ) from None
    return Description(_added(config) | config, spec, batch)


def _added(config: Mapping[str, Any]) -> dict[str, Any]:
    return ADDED | ADDED_TO.get(config.get("task", ""), {})


def _shape(shape: list[int], dtype: str) -> jax.ShapeDtypeStruct:
    """One array of a batch, as `describe` wrote it."""
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise ValueError(f"the shape {shape}")
    if dtype not in _DTYPES:
        raise ValueError(f"the dtype {dtype!r}")
    return jax.ShapeDtypeStruct(tuple(shape), dtype)

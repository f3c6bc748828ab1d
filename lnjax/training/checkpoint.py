"""Checkpoints that are checked before they are used.

orbax writes the arrays; it does not notice a flipped bit when it reads them back. So each step has
a list of SHA-256 sums beside it, and a step that does not match its list is never used:

    <directory>/200/              one orbax step: `state` (the arrays) and `info` (JSON)
    <directory>/200.sha256        its sums: `cd <directory> && sha256sum -c 200.sha256`
    <directory>/200.incomplete/   being written or deleted; ignored, cleared by the next save
    <directory>/200.damaged-1/    refused by a restore and moved out of the way, with its `.sha256`

A step gets its name only after orbax has committed it and its sums are on the disk. A process that
is killed at any moment therefore leaves whole steps and `.incomplete` folders, nothing between.
"""

import concurrent.futures
import contextlib
import itertools
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from lnjax.training import manifest
from lnjax.typing import PyTree

_INCOMPLETE = ".incomplete"
_SUMS = ".sha256"
# Bytes that any checkpoint may unpack to, and how many times its size a large one may: parameters
# and moments are numbers of which some bytes at least do not repeat.
_SMALL, _MOST_PACKED = 1 << 28, 200
_LATE_SECONDS = 2.0  # for the files of failed saves at the end; what is later, the next save clears


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or may not be used; the message says which and why."""


class Restored(NamedTuple):
    """What `Checkpoints.restore` found."""

    step: int
    tree: PyTree
    info: dict
    refused: tuple[str, ...]  # one line per newer step that was refused: step, file, what is wrong


class Checkpoints:
    """The checkpoints of one run: asynchronous saves, verified restores.

    A context manager; leaving it waits for the last save. One process writes to a directory: of
    several jax processes the first, see `shared`.

    Args:
        directory: holds the steps; created unless `read_only`.
        keep: how many steps to keep. Older ones are deleted once a newer one is complete.
        read_only: only look: nothing is created, moved or deleted, and `save` is an error. Works on
            a folder without write permission.
        on_failure: called at once with one line about each save that fails, from whichever thread
            notices; later saves are tried as if nothing had been, and only `wait` and `close` raise
            if it was the last one. None: the next `save` raises too.
        check: called before writing; raises CheckpointError where nothing may be written.

    Raises:
        ValueError: `keep` is less than 1; this is not the first of several jax processes.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 3,
        read_only: bool = False,
        on_failure: Callable[[str], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if jax.process_index() != 0:
            raise ValueError(f"jax process 0 writes checkpoints; this is {jax.process_index()}")
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self.read_only = read_only
        self._on_failure = on_failure
        self._check = check
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        # Where orbax refuses a tree, threads that wait for folders would keep the process alive.
        now = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        # orbax would wait for the other processes.
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        items = ocp.CompositeOptions(async_options=now, multiprocessing_options=alone)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(composite_options=items),
            async_options=now,
            multiprocessing_options=alone,
        )
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[int, concurrent.futures.Future] | None = None
        self._failure: CheckpointError | None = None  # of the last save, not yet raised
        self._gave_up = False  # one of the saves

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the first error is the one to show

    def steps(self) -> list[int]:
        """Steps that have both folder and sums, oldest first. The sums are not compared here."""
        both = ("", _SUMS)
        return [s for s in self._present() if all(self._path(s, end).exists() for end in both)]

    def save(self, step: int, tree: PyTree, info: Mapping[str, Any]) -> None:
        """Starts to write one step; returns when `tree` may be donated. Waits for the save before.

        Args:
            step: number of optimizer steps done, >= 0; a step is written once.
            tree: a pytree of arrays, none of them empty or a typed PRNG key. jax's weak types are
                not kept: a weakly typed leaf comes back as one of its dtype.
            info: JSON (position of the data, fingerprint, config, ...); NaN is not JSON.

        Raises:
            CheckpointError: this save or the one before failed, unless there is an `on_failure`;
                the step exists; `read_only`.
            TypeError, ValueError: `info` is no JSON.
        """
        if self.read_only:
            raise CheckpointError(f"{self.directory} was opened to be read only")
        self._check()
        failure = self._settled()
        if failure is not None and self._on_failure is None:
            raise failure
        if step in self._present():
            raise CheckpointError(f"step {step} is already in {self.directory}; not overwritten")
        # Text now: the caller may change info while the background thread writes.
        record = json.loads(json.dumps({"info": info, "leaves": _leaves(tree)}, allow_nan=False))
        items = {"state": ocp.args.StandardSave(tree), "info": ocp.args.JsonSave(record)}
        try:
            self._clear_incomplete()
            self._orbax.save(self._path(step, _INCOMPLETE), args=ocp.args.Composite(**items))
        except Exception as error:
            self._failure = self._failed(step, error)
            if self._on_failure is None:
                self.wait()
            self._give_up(step, error)
        else:
            self._saving = step, self._background.submit(self._finish, step)

    def restore(self, like: PyTree, step: int | None = None) -> Restored | None:
        """Reads the newest step whose every file is as it was written.

        Newer steps that are not are named in `refused` and moved to `<step>.damaged-1` (-2, ...),
        so that training can save them again; `read_only` leaves them where they are.

        Args:
            like: what to restore: a tree like the saved one, of arrays or `jax.ShapeDtypeStruct`.
                Each array is placed on the sharding of its leaf (none: the first device). Donated
                arrays serve too.
            step: this step and no other.

        Returns:
            The step, whose arrays may be donated; None if the directory has no step at all.

        Raises:
            CheckpointError: there are steps, but each is damaged; `step` is missing or damaged;
                `like` has other leaves, shapes or dtypes than was saved; an earlier save failed.
        """
        self.wait()
        present = self._present()
        if step is not None and step not in present:
            raise CheckpointError(f"no step {step} in {self.directory}; there are {self.steps()}")
        refused: dict[int, str] = {}
        for candidate in reversed(present) if step is None else [step]:
            problem = manifest.sums_problem(self._path(candidate), self._path(candidate, _SUMS))
            if problem is None:
                tree, info = self._read(candidate, like)
                # Only now: a directory of damaged steps must not look like an empty one.
                for bad in () if self.read_only else refused:
                    refused[bad] += f" (moved to {self._set_aside(bad)})"
                return Restored(candidate, tree, info, tuple(refused.values()))
            refused[candidate] = f"step {candidate}: {problem}"
        if not refused:
            return None
        raise CheckpointError(
            "\n  ".join((f"no usable checkpoint in {self.directory}:", *refused.values()))
            + "\nPut an intact copy of one step and its .sha256 back,"
            " or start again from step 0 in another directory."
        )

    def wait(self) -> None:
        """Returns when the last save is complete on the disk.

        Raises:
            CheckpointError: it failed. Said once; training can go on and save again.
        """
        failure = self._settled()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits for the last save, raising its error, and ends the background threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax.close()
            if self._gave_up:
                self._clear_late_files()

    def _path(self, step: int, suffix: str = "") -> pathlib.Path:
        return self.directory / f"{step}{suffix}"

    def _present(self) -> list[int]:
        """Steps of which there is anything under the final name, whole or not, oldest first."""
        names = {path.name for path in self.directory.glob("[0-9]*")}
        stems = {name.removesuffix(_SUMS) for name in names}
        # Sums beside an `.incomplete` folder: killed just before a rename, on the way in or out.
        half = {stem for stem in stems if stem not in names and stem + _INCOMPLETE in names}
        return sorted(int(stem) for stem in stems - half if stem.isdecimal())

    def _settled(self) -> CheckpointError | None:
        """Waits for the last save; why it failed, said once."""
        if self._saving is not None:
            step, future = self._saving
            error = future.exception()  # a KeyboardInterrupt in here leaves the save on record
            self._saving = None
            self._failure = None if error is None else self._failed(step, error)
        failure, self._failure = self._failure, None
        return failure

    def _finish(self, step: int) -> None:
        """Background: `_complete`, or says why not."""
        try:
            self._complete(step)
        except Exception as error:
            self._give_up(step, error)
            raise

    def _give_up(self, step: int, error: Exception) -> None:
        """Makes room on the disk, which may be full of this save's own files, and tells."""
        self._gave_up = True
        with contextlib.suppress(OSError, CheckpointError):
            self._clear_incomplete()
        if self._on_failure is not None:
            told = " ".join(str(self._failed(step, error)).split())
            self._on_failure(f"{told}; the run goes on, and tries again at its next checkpoint")

    def _complete(self, step: int) -> None:
        """Makes what orbax has written a step, then deletes what it supersedes."""
        self._orbax.wait_until_finished()
        self._check()
        manifest.write_sums(self._path(step, _INCOMPLETE), self._path(step, _SUMS), str(step))
        os.rename(self._path(step, _INCOMPLETE), self._path(step))
        manifest.sync(self.directory)
        older = [other for other in self.steps() if other < step]
        for old in older[: max(0, len(older) - (self.keep - 1))]:
            os.rename(self._path(old), self._path(old, _INCOMPLETE))
            self._path(old, _SUMS).unlink()
            shutil.rmtree(self._path(old, _INCOMPLETE))

    def _clear_incomplete(self) -> None:
        """Deletes what a killed process or a failed save has left; only while no save runs."""
        self._check()  # or these are somebody else's
        for path in self.directory.glob(f"[0-9]*{_INCOMPLETE}*"):
            step = int(path.name.partition(".")[0])
            if not self._path(step).exists():
                self._path(step, _SUMS).unlink(missing_ok=True)
            shutil.rmtree(path)
        for path in self.directory.glob(f"[0-9]*{_SUMS}.tmp"):
            path.unlink()

    def _clear_late_files(self) -> None:
        """Deletes what TensorStore's threads still write of a save that orbax has given up."""
        quiet, deadline = 0, time.monotonic() + _LATE_SECONDS
        while quiet < 3 and time.monotonic() < deadline:
            quiet = 0 if any(self.directory.glob(f"[0-9]*{_INCOMPLETE}*")) else quiet + 1
            with contextlib.suppress(OSError, CheckpointError):  # a folder that fills meanwhile
                self._clear_incomplete()
            time.sleep(0.02)

    def _set_aside(self, step: int) -> str:
        """Moves a refused step out of the way; nothing is deleted. Returns the new name."""
        numbers = (f".damaged-{number}" for number in itertools.count(1))
        aside = next(name for name in numbers if not list(self.directory.glob(f"{step}{name}*")))
        for suffix in ("", _SUMS):
            if self._path(step, suffix).exists():
                self._path(step, suffix).rename(self._path(step, aside + suffix))
        return f"{step}{aside}"

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, dict]:
        """The arrays and the info of one step.

        The sums say that its files are as they were written, not who wrote them: whatever orbax
        makes of them is told as one error, and no array is made that they could not fill.
        """
        try:
            return self._read_trusting(step, like)
        except CheckpointError:
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            raise CheckpointError(
                f"step {step} in {self.directory} is no checkpoint of lnjax ({what})"
            ) from error

    def _read_trusting(self, step: int, like: PyTree) -> tuple[PyTree, dict]:
        info = ocp.args.Composite(info=ocp.args.JsonRestore())
        record = self._orbax.restore(self._path(step), args=info)["info"]
        if changes := _changes(record["leaves"], _leaves(like)):
            raise CheckpointError(
                "\n  ".join((f"step {step} in {self.directory} has other leaves:", *changes))
                + "\nUse the config that the run was started with."
            )
        arrays = [leaf for leaf in jax.tree.leaves(like) if hasattr(leaf, "dtype")]
        claimed = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
        found = sum(path.stat().st_size for path in self._path(step).rglob("*"))
        if claimed > max(_SMALL, _MOST_PACKED * found):
            raise CheckpointError(
                f"step {step} in {self.directory} has {found} bytes, and the config makes arrays of"
                f" {claimed}; use the config that the run was started with"
            )
        state = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_target, like)))
        tree = self._orbax.restore(self._path(step), args=state)["state"]
        if changes := _changes(_leaves(like), _leaves(tree)):  # the metadata of the arrays lie
            raise CheckpointError(f"step {step} in {self.directory}: {'; '.join(changes)}")
        return jax.tree.map(_owned, tree), record["info"]

    def _failed(self, step: int, error: BaseException) -> CheckpointError:
        what = f"{type(error).__name__}: {error}"
        failure = CheckpointError(f"saving step {step} in {self.directory} failed: {what}")
        failure.__cause__ = error
        return failure


def refuse_changed_data(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuses to go on with a run whose data would be others than those it began with.

    Args:
        saved: fingerprint of the data (seed, batch size, digest, ...; JSON) from the checkpoint.
        current: that of this process.

    Raises:
        CheckpointError: they differ; one line with each key, its old and its new value.
    """
    if changes := _changes(saved, current):
        raise CheckpointError(
            f"the data are not those of the saved run: {'; '.join(changes)};"
            " set the old values again, or start a new run in another directory"
        )


def _changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """`key: saved ..., now ...` for every key whose value differs or that only one side has."""
    # Compared as text: what was saved came back from JSON, where a tuple is a list.
    old, new = ({k: json.dumps(v, sort_keys=True) for k, v in d.items()} for d in (saved, current))
    pairs = [(key, old.get(key, "absent"), new.get(key, "absent")) for key in sorted({*old, *new})]
    return [f"{key}: saved {was}, now {now}" for key, was, now in pairs if was != now]


def _leaves(tree: PyTree) -> dict[str, str]:
    """Path of each leaf -> what it is, such as `opt_state/0/mu/kernel` -> `float32[3, 4]`."""
    described = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_array = hasattr(leaf, "dtype")
        described[name] = f"{leaf.dtype}{list(leaf.shape)}" if is_array else type(leaf).__name__
    return described


def _target(leaf: Any) -> Any:
    """The leaf as orbax wants it; without a sharding orbax would ask for the saved devices."""
    if isinstance(leaf, np.ndarray) or not hasattr(leaf, "dtype"):
        return leaf
    where = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _owned(leaf: Any) -> Any:
    """A copy that XLA owns and can reuse: jax may only have wrapped the memory that orbax read."""
    is_array = isinstance(leaf, jax.Array)
    return jax.device_put(leaf, leaf.sharding, may_alias=False) if is_array else leaf


# orbax logs every file it touches, and each error that is raised here anyway, to absl's logger.
_ORBAX = os.path.join("orbax", "checkpoint")
logging.getLogger("absl").addFilter(lambda record: _ORBAX not in record.pathname)

"""Runs of train.py and sample.py in processes of their own, on one prepared data set."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.trees import assert_equal

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = ROOT / "tests" / "without_torch"
SMOKE = "--config=configs/handwriting.py:smoke"
# Checkpoints fall between two lines of the log, so that the sums under way matter. With a constant
# rate the number of steps is no part of the program.
SCHEDULE = ("constant", 60, 7, 25, 10)
KEYS = ("schedule", "num_steps", "log_steps", "eval_steps", "checkpoint_steps")
ARGUMENTS = (SMOKE, *(f"--config.{key}={value}" for key, value in zip(KEYS, SCHEDULE, strict=True)))


def session_folder(tmp_path_factory) -> Path:
    """A folder that all workers of one session of tests have in common, whoever comes first."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def data_cache(tmp_path_factory) -> Path:
    """Where data sets are prepared, each once in a session; preparing one locks it."""
    return session_folder(tmp_path_factory) / "lnjax-data"


def share_caches(tmp_path_factory, monkeypatch) -> None:
    """Data are prepared once per session, programs of child processes compiled once per worker.

    (JAX writes a compiled program where another process may be reading it.)
    """
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("LNJAX_DATA_DIR", str(data_cache(tmp_path_factory)))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(base / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """`share_caches` for every test of a module that imports this."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        share_caches(tmp_path_factory, monkeypatch)
        yield


def run(command: Sequence[object], *, path: Sequence[Path] = (), **env: str):
    """Runs Python with `command` in the root of the repository, as a user would."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (*path, WITHOUT_TORCH, ROOT))),
            **env,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def reference(tmp_path_factory) -> Path:
    """The folder of a whole run with ARGUMENTS, not to be changed; made by the first who asks.

    Beside it: `stderr`, and `tensorflow-was-imported` if it was.
    """
    folder = session_folder(tmp_path_factory) / "reference"
    run_folder, told = folder / "run", folder / "stderr"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be making it
        if not told.exists():
            shutil.rmtree(folder, ignore_errors=True)
            fake = folder / "path" / "tensorflow"
            fake.mkdir(parents=True)
            marker = folder / "tensorflow-was-imported"
            (fake / "__init__.py").write_text(f"open({str(marker)!r}, 'w')\nraise ImportError\n")
            done = run(["train.py", *ARGUMENTS, f"--workdir={run_folder}"], path=[fake.parent])
            assert done.returncode == 0, done.stderr
            told.write_text(done.stderr)
    return run_folder


def assert_goes_on(batches) -> None:
    """What follows a position, kept as a checkpoint keeps it, follows again when that is set."""
    for _ in range(3):
        next(batches)
    position = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(3)]
    batches.set_state(position)
    for batch in expected:
        assert_equal(next(batches), batch)
    one, other = (
        b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(batch))
        for batch in expected[:2]
    )
    assert one != other


def rows(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without `seconds`, the only thing that may differ."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in lines
    ]


def steps(folder: Path) -> list[int]:
    """The whole checkpoints of a run, oldest first."""
    found = (folder / "checkpoints").glob("*.sha256")  # of damaged steps too, set aside
    whole = [path.stem for path in found if path.with_suffix("").is_dir()]
    return sorted(int(stem) for stem in whole if stem.isdecimal())


def contents(folder: Path) -> dict[str, tuple[str, int] | None]:
    """Every path below `folder` with the hash and the time of its content; None for folders."""
    return {
        path.relative_to(folder).as_posix(): (
            (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            if path.is_file()
            else None
        )
        for path in sorted(folder.rglob("*"))
    }


def flip_a_byte(checkpoint: Path) -> Path:
    """Damages the largest file of a checkpoint; returns it."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    return largest

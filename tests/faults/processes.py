"""Runs of the toy as processes of their own, and what two runs are compared by."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import runs
from tests.runs import rows, steps

CONFIG = "--config=tests/faults/toy_config.py"
# A dead process is noticed by its connections. The heartbeat, for those that hang, takes longer.
END_SECONDS = 20
ABORTED = -signal.SIGABRT  # by jax, where its own watch sees the loss before train.py does


class Child:
    """A process under way: `pid`, what it has `told()` so far."""

    def __init__(self, zygote, pid, told):
        self._zygote, self.pid, self._told = zygote, pid, told

    def told(self):
        return self._told.read_text()

    def running(self):
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def wait(self, seconds=None):
        """The exit code and all it told, at the end; it is an error if that takes too long."""
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        while seconds is not None and self.running():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.002)
        return self._zygote.ask({"wait": self.pid}), self._told.read_text()


class Zygote:
    """Starts processes: see `zygote`."""

    def __init__(self, scratch):
        self._scratch, self._count = scratch, 0
        self._process = subprocess.Popen(
            [sys.executable, "tests/faults/zygote.py"],
            cwd=runs.ROOT,
            # A run killed while it writes a compiled program must not reach the other tests.
            env={
                **os.environ,
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                "PYTHONPATH": os.pathsep.join(map(str, (runs.WITHOUT_TORCH, runs.ROOT))),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, folder, *changes, flags=(), limit=None, signalled=None, log=None):
        """A run of the toy in `folder`.

        Args:
          changes: of keys of its config, "num_steps=10".
          flags: of train.py, "--processes=2".
          limit: the largest file that it may write, in bytes.
          signalled: "SIGTERM 31": it gets this signal while it makes step 31.
          log: path of what its words go to instead, and are not told.
        """
        self._count += 1
        told = self._scratch / f"told-{self._count}"
        told.touch()
        keys = [f"--config.{each}" for each in changes]
        arguments = [CONFIG, f"--workdir={folder}", *keys, *flags]
        start = {"arguments": arguments, "told": str(log or told), "limit": limit}
        start["signalled"] = signalled
        return Child(self, self.ask({"start": start}), told)

    def run(self, folder, *changes, **options):
        """Exit code, and what was told."""
        return self.start(folder, *changes, **options).wait()

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    made = Zygote(tmp_path_factory.mktemp("told"))
    yield made
    made.close()


def crashed(told):
    """Whether a traceback goes through a file of this project.

    Of reads and writes that run at the same time and fail too, asyncio and TensorStore may print
    from their own threads what nobody waits for.
    """
    frames = re.findall(r'^  File "(.*?)", line ', told, re.MULTILINE)
    places = [runs.ROOT / each for each in ("lnjax", "tasks", "tests", "train.py")]
    return any((runs.ROOT / frame).is_relative_to(p) for frame in frames for p in places)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(found, child, seconds=60.0):
    """Waits until `found()` is true; it is an error that the process ends before."""
    deadline = time.monotonic() + seconds
    while not found():
        assert child.running() and time.monotonic() < deadline, child.wait()
        time.sleep(0.002)


def arrays(folder, step=None):
    """Every array of a checkpoint, by path, read by orbax alone; of the newest one by default."""
    step = steps(folder)[-1] if step is None else step
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute() / "checkpoints" / str(step) / "state")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def state_hash(folder):
    """The newest step, and the SHA-256 of all its arrays: the state, and the sums under way."""
    digest = hashlib.sha256()
    for path, leaf in sorted(arrays(folder).items()):
        digest.update(f"{path} {leaf.dtype} {leaf.shape} ".encode() + leaf.tobytes())
    return steps(folder)[-1], digest.hexdigest()


def assert_same_run(folder, other):
    """Every array of the last checkpoint, and every line of metrics.jsonl without the seconds."""
    assert state_hash(folder) == state_hash(other)
    assert rows(folder) == rows(other)


def assert_whole(folder):
    """Nothing half-written: each step has its sums, and nothing else is there."""
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    whole = {f"{step}{end}" for step in steps(folder) for end in ("", ".sha256")}
    assert names == whole, names ^ whole
    assert not list(folder.glob("*.tmp"))
    for line in (folder / "metrics.jsonl").read_text().splitlines(keepends=True):
        assert line.endswith("\n") and json.loads(line)

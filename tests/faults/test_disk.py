"""A disk that is full, a folder that cannot be written to, a second process in it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lnjax.training import writer
from lnjax.training.writer import MetricsWriter
from tests import runs
from tests.faults.processes import (
    CONFIG,
    assert_same_run,
    assert_whole,
    crashed,
    until,
)
from tests.faults.processes import zygote as zygote
from tests.runs import caches as caches
from tests.runs import rows, steps


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of some bytes, for real; it needs to be root."""
    mounted = []

    def mount(*options):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)])
        if done.returncode:
            pytest.skip("mounting a tmpfs needs to be root")
        mounted.append(folder)
        return folder

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs to be root")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Writes a file until the disk is full."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


# ---- full --------------------------------------------------------------------------------------


def test_saves_that_fail_are_told_and_tried_again(zygote, tmp_path):
    """No file may grow over 50 kB, which checkpoints do: each is told, and the last is an error.

    The log may neither: it holds the tracebacks of TensorStore's threads too, if any come.
    """
    folder = tmp_path / "run"
    large = ("features=8000", "checkpoint_steps=10", "log_steps=20")
    code, told = zygote.run(folder, "num_steps=20", *large)
    assert code == 0, told
    more = ("num_steps=40", *large, "eval_steps=40")
    code, told = zygote.run(folder, *more, limit=50_000)
    assert code == 2 and not crashed(told), told
    failed = [line for line in told.splitlines() if "failed" in line]
    assert [line.partition(" in ")[0].rpartition(" ")[2] for line in failed] == ["30", "40", "40"]
    assert "tries again" in failed[0] and failed[-1].startswith("error: saving step 40")
    assert steps(folder) == [10, 20]
    assert_whole(folder)  # what was half-written has made room
    # With room again, the same command goes on.
    code, told = zygote.run(folder, *more)
    assert code == 0 and "going on from step 20" in told and steps(folder) == [20, 30, 40]


@pytest.mark.parametrize("log", ["full", "a terminal that is gone"])
def test_a_log_that_cannot_be_written_ends_no_run(log, zygote, tmp_path):
    long = ("num_steps=200",)
    if log == "full":
        child = zygote.start(tmp_path / "run", *long, log="/dev/full")
    else:
        terminal, inside = os.openpty()
        child = zygote.start(tmp_path / "run", *long, log=os.ttyname(inside))
        until(lambda: b"step" in os.read(terminal, 1000), child)
        os.close(inside)
        os.close(terminal)
    assert child.wait() == (0, "")
    assert zygote.run(tmp_path / "whole", *long)[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_runs_full_and_gets_room_again(zygote, small_disk, tmp_path):
    """A tmpfs of 2 MB, filled up while the run trains, and emptied before its end."""
    disk = small_disk("-o", "size=2m")
    folder, ballast = disk / "run", disk / "ballast"
    long = ("num_steps=3000", "checkpoint_steps=100", "log_steps=1500", "eval_steps=3000")
    child = zygote.start(folder, *long)
    until(lambda: len(steps(folder)) > 0 if folder.exists() else False, child)
    fill(ballast)
    until(lambda: "failed" in child.told(), child)
    kept = steps(folder)
    ballast.unlink()
    code, told = child.wait()
    assert code == 0 and kept and steps(folder)[-1] == 3000, told
    assert "tries again" in told and "No space left" in told
    assert_whole(folder)
    whole = tmp_path / "whole"
    assert zygote.run(whole, *long)[0] == 0
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_disk_that_stays_full(zygote, small_disk, tmp_path):
    """The run ends with 2 and one line; with room again it goes on as if nothing had been."""
    disk = small_disk("-o", "size=2m")
    folder, ballast = disk / "run", disk / "ballast"
    long = ("num_steps=2000", "checkpoint_steps=100", "log_steps=7", "eval_steps=1000")
    child = zygote.start(folder, *long)
    until(lambda: len(steps(folder)) > 0 if folder.exists() else False, child)
    fill(ballast)
    code, told = child.wait()
    assert code == 2 and not crashed(told) and "error: " in told, told
    assert len(steps(folder)) > 0
    ballast.unlink()
    code, told = zygote.run(folder, *long)
    assert code == 0 and "going on from step" in told, told
    whole = tmp_path / "whole"
    assert zygote.run(whole, *long)[0] == 0
    assert_same_run(folder, whole)


class Full:
    """A file that takes some bytes and no more."""

    def __init__(self, file, room):
        self._file, self.room, self.name = file, room, file.name

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self.room = min(self.room, len(data)), max(0, self.room - len(data))
        return self._file.write(data[:taken])

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 10])
def test_no_half_line_of_metrics(tmp_path, room):
    """Half a line, with the next behind it, would be no line of metrics: no run could go on."""
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(1, 0.1, {"loss": 1.0})
        metrics._file = Full(metrics._file, room)
        with pytest.raises(OSError, match="No space left") as caught:
            metrics.write(2, 0.2, {"loss": 2.0})
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")
        metrics._file.room = 1000
        metrics.write(2, 0.2, {"loss": 2.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_tensorboard_on_a_full_disk_holds_nothing_up(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(writer, "_TENSORBOARD_SECONDS", -1)  # to the disk at once
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(1, 0.1, {"loss": 1.0})
        monkeypatch.setattr(
            metrics._tensorboard._writer,
            "flush",
            lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        )
        for step in range(2, 100):
            metrics.write(step, 0.1, {"loss": 1.0})
    assert len(rows(tmp_path)) == 99
    (line,) = capfd.readouterr().err.splitlines()
    assert "TensorBoard" in line and "No space left" in line


# ---- not to be written to ----------------------------------------------------------------------


def refused(zygote, folder, part):
    """The run is refused in one line, before data are prepared or a step is compiled."""
    before = runs.contents(folder) if folder.exists() else None
    code, told = zygote.run(folder)
    assert code == 2, told
    (line,) = told.splitlines()
    assert line.startswith("error: ") and part in line and str(folder) in line
    assert (runs.contents(folder) if folder.exists() else None) == before


def test_a_folder_that_is_moved_meanwhile(zygote, tmp_path):
    """The run ends, and writes nothing into the next one of that name; moved, it goes on."""
    folder, moved = tmp_path / "run", tmp_path / "moved"
    endless = ("num_steps=100000", "log_steps=100000", "eval_steps=100000", "checkpoint_steps=5")
    child = zygote.start(folder, *endless)
    until(lambda: folder.exists() and len(steps(folder)) > 1, child)
    folder.rename(moved)
    other_code, other_told = zygote.run(folder)
    code, told = child.wait(60)
    assert code == 2 and f"error: {folder} was moved or deleted" in told and not crashed(told)
    assert other_code == 0, other_told
    whole = tmp_path / "whole"
    assert zygote.run(whole)[0] == 0
    assert_same_run(folder, whole)
    reached = steps(moved)[-1]
    code, told = zygote.run(moved, *endless, f"num_steps={reached + 5}")
    assert code == 0 and f"going on from step {reached}" in told


def test_damaged_lines_are_refused_before_anything_is_written(zygote, tmp_path):
    folder = tmp_path / "run"
    assert zygote.run(folder)[0] == 0
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"[1, 2]\n", *lines[2:]]))
    before = runs.contents(folder)
    code, told = zygote.run(folder, "num_steps=80")
    assert code == 2 and not crashed(told) and f"{path}" in told.splitlines()[-1]
    assert runs.contents(folder) == before
    path.write_bytes(b"".join(lines))
    (folder / "nonfinite.jsonl").write_bytes(b'{"step": "x"}\n\xff\xfe\n')  # is of no use
    code, told = zygote.run(folder, "num_steps=80")
    assert code == 0, told


def test_a_record_that_cannot_be_read_is_one_line(zygote, tmp_path):
    code, told = zygote.run(tmp_path / "run", "unreadable_record=36")
    assert code == 2 and not crashed(told), told
    assert told.splitlines()[-1] == "error: record 36 cannot be read; restore it from a copy"


def test_a_second_process_is_refused_at_once(zygote, tmp_path):
    folder = tmp_path / "run"
    child = zygote.start(folder, "num_steps=100000", "checkpoint_steps=50000")
    until(lambda: (folder / "metrics.jsonl").exists(), child)
    code, told = zygote.run(folder, "num_steps=100000", "checkpoint_steps=50000")
    assert code == 2, told
    (line,) = told.splitlines()  # not even the number of parameters: nothing was prepared
    assert line.startswith(f"error: another process trains in {folder}")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    code, told = zygote.run(folder, "num_steps=10", "checkpoint_steps=50000")
    assert code == 0, told  # the lock has ended with the process


def test_a_disk_mounted_read_only(zygote, small_disk):
    """Root may write to any folder but to one of these."""
    disk = small_disk()
    assert zygote.run(disk / "run", "num_steps=10")[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused(zygote, disk / "run", "cannot be written to")
    code, told = zygote.run(disk / "new" / "run")
    assert code == 2 and f"error: {disk} cannot be written to" in told


@pytest.mark.slow
def test_a_folder_of_somebody_else(tmp_path):
    """As a user who is not root: a process that has given its rights away."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("giving rights away needs setpriv")
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [
            *(drop if os.geteuid() == 0 else []),
            *(sys.executable, "tests/faults/toy.py", CONFIG, f"--workdir={folder}"),
        ],
        cwd=runs.ROOT,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "PYTHONPATH": str(runs.ROOT),
        },
        capture_output=True,
        text=True,
    )
    if "Permission denied" in done.stderr and str(folder) not in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert done.returncode == 2, done.stderr
    assert f"error: {folder} cannot be written to" in done.stderr
    assert not list(Path(folder).iterdir())

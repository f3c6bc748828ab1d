"""Two processes train the toy: the run of one, one set of files, and an end for both of them.

What tests/faults/test_processes.py does with experiments, in seconds: JAX is imported already where
these processes are forked.
"""

import json
import os
import signal
import time

import pytest

from lnjax.training import processes
from tests.faults.processes import (
    ABORTED,
    END_SECONDS,
    assert_whole,
    crashed,
    free_port,
    until,
)
from tests.faults.processes import zygote as zygote
from tests.runs import rows, steps

TOLERANCE = 1e-4  # relative: sums over processes are added in another order
ENDLESS = ("num_steps=100000", "checkpoint_steps=5", "eval_steps=100000")


def start(zygote, folder, *changes, signalled=(None, None)):
    port = free_port()
    return [
        zygote.start(
            folder,
            "mesh.data=2",
            *changes,
            flags=("--processes=2", f"--process_id={i}", f"--coordinator=127.0.0.1:{port}"),
            signalled=signalled[i],
        )
        for i in range(2)
    ]


def assert_near(got, want):
    assert [row["step"] for row in got] == [row["step"] for row in want]
    for one, two in zip(got, want, strict=True):
        assert one == pytest.approx(two, rel=TOLERANCE)


@pytest.fixture(scope="module")
def alone(zygote, tmp_path_factory):
    """A run of one process, not to be changed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    code, told = zygote.run(folder)
    assert code == 0, told
    return folder


def test_they_are_the_run_of_one(zygote, alone, tmp_path):
    folder = tmp_path / "run"
    (code, told), (other_code, other_told) = [each.wait() for each in start(zygote, folder)]
    assert (code, other_code) == (0, 0), told + other_told
    assert_near(rows(folder), rows(alone))
    assert_whole(folder)
    files = [{path.name for path in each.glob("*")} for each in (folder, alone)]
    assert files[0] == files[1] and steps(folder) == steps(alone)
    assert json.loads((folder / "manifest.json").read_text())["process_count"] == 2
    assert f"done: {folder} is at step 60" in told and "done" not in other_told


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_is_killed(zygote, alone, tmp_path, victim):
    """The other ends by itself, with whole checkpoints; one process goes on."""
    folder = tmp_path / "run"
    children = start(zygote, folder, *ENDLESS)
    until(lambda: folder.exists() and len(steps(folder)) > 1, children[0])
    os.kill(children[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    code, told = children[1 - victim].wait(END_SECONDS)
    print(
        f"\nnumber {victim} killed: the other ended in {time.monotonic() - killed:.2f} s ({code})"
    )
    assert code in (processes.EXIT_LOST, ABORTED), told
    assert children[victim].wait()[0] == -signal.SIGKILL
    end = rows(folder)[-1]["step"] + 20
    code, told = zygote.run(folder, *ENDLESS, f"num_steps={end}", f"eval_steps={end}")
    assert code == 0 and "going on from step" in told, told
    assert_whole(folder)
    assert_near(rows(folder)[:2], rows(alone)[:2])  # rounding grows with the steps


@pytest.mark.parametrize("told_process", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_stops_both_at_one_step(zygote, alone, tmp_path, told_process):
    folder = tmp_path / "run"
    signalled = [None, None]
    signalled[told_process] = "SIGTERM 31"
    ended = [each.wait() for each in start(zygote, folder, signalled=signalled)]
    assert [code for code, _ in ended] == [75, 75], ended
    assert "SIGTERM: writing a checkpoint" in ended[told_process][1]
    assert not any(crashed(told) for _, told in ended)
    assert 31 <= steps(folder)[-1] <= 34
    assert_whole(folder)
    code, told = zygote.run(folder)  # alone from here on
    assert code == 0 and "going on from step 3" in told, told
    assert_near(rows(folder), rows(alone))


def test_a_record_is_found_whichever_process_reads_it(zygote, tmp_path):
    folder = tmp_path / "run"
    changes = ("broken_record=5", "nonfinite=skip")
    (code, told), (other_code, _) = [each.wait() for each in start(zygote, folder, *changes)]
    assert (code, other_code) == (0, 0), told
    lines = [json.loads(line) for line in (folder / "nonfinite.jsonl").read_text().splitlines()]
    rows_of = {line["records"][0].index(5) // 2 for line in lines}  # two rows for each process
    assert rows_of == {0, 1} and all(line["holding"] == [5] for line in lines)

"""A run that is stopped or killed, wherever it is, ends where an undisturbed one ends, bit for bit.

`pytest tests/faults/test_stopped.py -m "slow or not slow" -s` prints where the kills fell.
"""

import os
import random
import signal
import time

import numpy as np
import pytest

from tests import runs
from tests.faults.processes import (
    arrays,
    assert_same_run,
    assert_whole,
    crashed,
    state_hash,
    until,
)
from tests.faults.processes import zygote as zygote
from tests.runs import caches as caches
from tests.runs import rows, steps

# Kills fall between any two of these, and a save is always near.
FREQUENT = ("checkpoint_steps=2", "eval_steps=100", "num_steps=300")


@pytest.fixture(scope="module")
def reference(zygote, tmp_path_factory):
    """A run that nothing disturbs, not to be changed."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    code, told = zygote.run(folder)
    assert code == 0, told
    return folder


@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGINT", "SIGHUP"))]
)
def test_stopped_by_a_signal_in_mid_epoch(zygote, reference, tmp_path, name):
    """At step 31: no multiple of an interval (7, 25, 10); 3 epochs of 9.25 steps and a part."""
    folder = tmp_path / "run"
    code, told = zygote.run(folder, signalled=f"{name} 31")
    assert code == 75 and f"{name}: writing a checkpoint" in told and not crashed(told)
    assert steps(folder) == [20, 30, 31]  # one more, where it stopped
    assert_whole(folder)
    # Dropout was on, and the statistics moved: else what follows would say little.
    found = arrays(folder)
    assert all(np.abs(leaf).max() > 0 for path, leaf in found.items() if "params" in path)
    assert any(np.abs(leaf).max() > 0 for path, leaf in found.items() if "batch_stats" in path)
    assert found["['sums']['loss'][1]"] == 3 * 4  # since the line of step 28
    code, told = zygote.run(folder)
    assert code == 0 and f"going on from step 31 of {folder}" in told, told
    assert_same_run(folder, reference)


@pytest.mark.slow
def test_dropout_is_part_of_the_state_that_is_compared(zygote, reference, tmp_path):
    code, told = zygote.run(tmp_path, "dropout=0.0")
    assert code == 0 and state_hash(tmp_path) != state_hash(reference), told


def kill_and_go_on(zygote, folder, changes, times, seed):
    """Kills a run `times` times, each at another moment; returns where the kills fell."""
    rng = random.Random(seed)
    fell = {"before any checkpoint": 0, "during a save": 0, "between saves": 0}
    for _ in range(times):
        before = (steps(folder) or [0])[-1] if folder.exists() else 0
        child = zygote.start(folder, *changes)
        if rng.random() < 0.8:  # else while it starts, restores, or compiles
            goal = before + 2 * rng.randrange(1, 5)
            until(lambda goal=goal: folder.exists() and (steps(folder) or [0])[-1] >= goal, child)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child.pid, signal.SIGKILL)
        code, told = child.wait()
        assert code == -signal.SIGKILL, told
        saving = list((folder / "checkpoints").glob("*.incomplete*"))
        key = "during a save" if saving else "between saves"
        fell[key if steps(folder) else "before any checkpoint"] += 1
    code, told = zygote.run(folder, *changes)
    assert code == 0 and "refused" not in told, told
    return fell


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(zygote, tmp_path, times):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    changes = (*FREQUENT, f"num_steps={15 * times}")
    fell = kill_and_go_on(zygote, folder, changes, times, seed=times)
    code, told = zygote.run(whole, *changes)
    assert code == 0, told
    print(f"\n{times} kills: {fell}")
    assert_same_run(folder, whole)
    assert_whole(folder)
    assert times < 20 or fell["during a save"] >= 3, fell


@pytest.mark.slow
def test_signals_at_random_moments(zygote, tmp_path):
    """From outside, whatever the run is doing: exit code 75, and nothing half-written."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    rng = random.Random(1)
    for turn in range(10):
        child = zygote.start(folder, *FREQUENT)
        until(lambda child=child: "parameters, norm" in child.told(), child)
        time.sleep(rng.uniform(0, 0.8))
        os.kill(child.pid, (signal.SIGTERM, signal.SIGINT)[turn % 2])
        code, told = child.wait()
        assert code == 75 and not crashed(told), told
        assert_whole(folder)
    for each in (folder, whole):
        code, told = zygote.run(each, *FREQUENT)
        assert code == 0, told
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_the_attentive_reader_with_dropout(tmp_path):
    """The same of an experiment, each part in a Python of its own."""
    arguments = [
        *("train.py", "--config=configs/attentive_reader.py:smoke", "--config.dropout=0.3"),
        *("--config.checkpoint_steps=6", "--config.log_steps=4", "--config.schedule=constant"),
    ]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    done = runs.run([*arguments, f"--workdir={whole}"])
    assert done.returncode == 0, done.stderr
    for number in (13, 20):  # in mid-epoch, and no multiple of 4, 6 or 20
        done = runs.run([*arguments, f"--workdir={folder}", f"--config.num_steps={number}"])
        assert done.returncode == 0, done.stderr
    assert "going on from step 13" in done.stderr
    assert state_hash(folder) == state_hash(whole)
    # A run that was to end at 13 has a line there, and begins the means of the next one anew.
    kept = [[row for row in rows(each) if row["step"] not in (13, 16)] for each in (folder, whole)]
    assert kept[0] == kept[1] and len(kept[0]) > 3

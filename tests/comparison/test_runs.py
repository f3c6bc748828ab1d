"""Training runs one by one: processes that end well, badly, or because of a signal."""

import sys

import pytest
from ml_collections import ConfigDict

from lnjax.comparison import outcome, runs

ENDS = "import sys; sys.exit({})"
# Of train.py before its loop: no handler is set yet, so that a signal ends it at once.
STARTS = "import pathlib, time; pathlib.Path({!r}).touch(); time.sleep(60)"


def train(folders, programs, stopping=lambda: False, jobs=1):
    todo = [
        (folder, [sys.executable, "-c", program])
        for folder, program in zip(folders, programs, strict=True)
    ]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return runs._one_by_one(todo, jobs, stopping)


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / "seed-0", tmp_path / "seed-1"]


def test_each_end_is_recorded(folders):
    assert train(folders, [ENDS.format(0), ENDS.format(3)])
    assert [outcome.read(folder).status for folder in folders] == ["done", "not finite"]


def test_a_run_that_fails_is_no_outcome(folders):
    with pytest.raises(runs.Failed, match=r"seed-0: train\.py ended with 2"):
        train(folders, [ENDS.format(2), ENDS.format(0)])
    assert [outcome.read(folder) for folder in folders] == [None, None]


def test_an_interrupted_run_is_to_go_on(folders):
    assert not train(folders, [ENDS.format(75), ENDS.format(0)])
    assert outcome.read(folders[0]) is None
    assert outcome.read(folders[1]).status == "done"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_before_the_loop_is_no_failure(folders, jobs, tmp_path):
    began = [tmp_path / f"began-{number}" for number in range(2)]
    programs = [STARTS.format(str(path)) for path in began]
    done = train(folders, programs, lambda: all(path.exists() for path in began[:jobs]), jobs)
    assert not done
    assert [path.exists() for path in began] == [True, jobs == 2]
    assert [outcome.read(folder) for folder in folders] == [None, None]


def test_a_run_of_more_steps_is_not_the_one_that_is_asked_for(folders):
    def train_arm(num_steps):
        started = []
        runs.train_arm(
            [ConfigDict({"seed": 0, "num_steps": num_steps, "schedule": "constant"})],
            folders[:1],
            outcome,  # of no task, which nothing here trains
            lambda config, folder: started.append(folder) or [sys.executable, "-c", "pass"],
            how="no",
        )
        return started

    folders[0].mkdir()
    outcome.record(folders[0], "done", 20, together=1)
    assert train_arm(20) == [] and train_arm(30) == folders[:1]
    outcome.record(folders[0], "done", 20, together=1)
    with pytest.raises(ValueError, match="a run of 20 steps, and 10 are asked for; take at least"):
        train_arm(10)
    outcome.record(folders[0], "not finite", 20, together=1)
    assert train_arm(10) == []

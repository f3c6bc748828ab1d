"""compare.py as a user runs it: what it leaves, what it trains again, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lnjax.comparison import results, tables
from tests import runs

SMALL = ("--config=configs/pi_mnist.py:smoke", "--seeds=2")
ARMS = "--arms=norm:layer,batch"
FILES = {"results.json", "table.md", "figure.svg", "figure.png", "report.html"}


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs.share_caches(tmp_path_factory, monkeypatch)
        yield


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a whole comparison, its seeds trained together; not to be changed."""
    folder = tmp_path_factory.mktemp("compare") / "new" / "folder"
    done = runs.run(["compare.py", *SMALL, ARMS, "--together=yes", f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    return folder


def lines(folder):
    """What a run tells, without the time it took."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def times(folder):
    """When each file that training writes was written."""
    files = [*folder.glob("*/seed-*/metrics.jsonl"), *folder.glob("*/seed-*/outcome.json")]
    return {path: path.stat().st_mtime_ns for path in files}


def test_what_it_leaves(compared):
    assert FILES <= {path.name for path in compared.iterdir()}
    assert all((compared / name).stat().st_size > 500 for name in FILES)
    for norm in ("layer", "batch"):
        for seed in (0, 1):
            run = compared / f"norm={norm}" / f"seed-{seed}"
            config = json.loads((run / "config.json").read_text())
            assert (config["norm"], config["seed"]) == (norm, seed)
            assert lines(run)[-1]["step"] == config["num_steps"]


def test_the_table_is_made_of_the_record_alone(compared):
    found = results.read(compared / "results.json")
    assert tables.table(found) == (compared / "table.md").read_text()
    (part,) = found["parts"]
    last = [run["lines"][-1]["train/nll"] for run in part["arms"][0]["runs"]]
    expected = f"{np.mean(last):.4g} ± {np.std(last, ddof=1) / np.sqrt(2):.2g}"
    assert f"| norm=layer | 2 of 2 | {expected} |" in tables.table(found)


def test_seeds_differ_and_arms_share_the_order_of_the_data(compared):
    of = {
        (norm, seed): json.loads(
            (compared / f"norm={norm}" / f"seed-{seed}" / "manifest.json").read_text()
        )["data"]
        for norm in ("layer", "batch")
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert of["layer", seed] == of["batch", seed]
    assert of["layer", 0] != of["layer", 1]
    first = lines(compared / "norm=layer" / "seed-0"), lines(compared / "norm=layer" / "seed-1")
    assert first[0] != first[1]


def test_a_finished_comparison_trains_nothing(compared, tmp_path):
    before = times(compared)
    assert len(before) == 8
    record = (compared / "results.json").read_bytes()
    done = runs.run(["compare.py", *SMALL, ARMS, f"--workdir={compared}"])
    assert done.returncode == 0, done.stderr
    assert times(compared) == before
    again = json.loads((compared / "results.json").read_bytes())
    assert again["parts"] == json.loads(record)["parts"]


def test_together_and_alone_are_the_same_numbers(compared, tmp_path):
    arguments = [*SMALL, "--arms=norm:layer", "--together=no", "--jobs=2", f"--workdir={tmp_path}"]
    done = runs.run(["compare.py", *arguments])
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        run = f"norm=layer/seed-{seed}"
        alone, together = lines(tmp_path / run), lines(compared / run)
        assert [row.keys() for row in alone] == [row.keys() for row in together]
        for one, other in zip(alone, together, strict=True):
            for name, value in one.items():
                assert other[name] == pytest.approx(value, rel=1e-4), (name, one["step"])
        # and train.py goes on from what training together leaves
        assert (compared / run / "checkpoints" / "20.sha256").exists()


def test_a_killed_comparison_trains_no_finished_run_again(compared, tmp_path):
    command = [sys.executable, "compare.py", *SMALL, ARMS, f"--workdir={tmp_path}"]
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    process = subprocess.Popen(command, cwd=runs.ROOT, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    first = [tmp_path / "norm=layer" / f"seed-{seed}" / "outcome.json" for seed in (0, 1)]
    while not all(path.exists() for path in first) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = times(tmp_path)
    assert all(path in before for path in first)
    done = runs.run(command[1:])
    assert done.returncode == 0, done.stderr
    after = times(tmp_path)
    assert {path: after[path] for path in first} == {path: before[path] for path in first}
    assert len(after) == 8
    for path in (path.parent for path in after if path.name == "outcome.json"):
        assert lines(path) == lines(compared / path.relative_to(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "expected --config=configs/x.py with --arms, or --figure=1 to 6"),
        (["--figure=7"], "the paper has the figures 1 to 6"),
        (["--figure=6", SMALL[0]], "expected --config"),
        ([SMALL[0]], "--config needs arms"),
        ([SMALL[0], "--arms=nrom:layer"], "no key 'nrom'; did you mean 'norm'?"),
        ([SMALL[0], "--arms=norm:layer,sideways"], "sideways"),
        ([SMALL[0], "--arms=norm:layer", "--tune=learning_rate"], "expected key:value"),
    ],
)
def test_refusals(arguments, told, tmp_path):
    folder = tmp_path / "run"
    done = runs.run(["compare.py", *arguments, f"--workdir={folder}"])
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert told in line
    assert not folder.exists()

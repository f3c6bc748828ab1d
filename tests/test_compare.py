"""compare.py as a user runs it: what it leaves, what it trains again, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lnjax.comparison import results, tables
from tests import runs
from tests.runs import caches as caches
from tests.runs import rows

SMALL = ("--config=configs/pi_mnist.py:smoke", "--seeds=2")
ARMS = "--arms=norm:layer,batch"
FILES = {"results.json", "table.md", "figure.svg", "figure.png", "report.html"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a whole comparison, its seeds trained together; not to be changed."""
    folder = tmp_path_factory.mktemp("compare") / "new" / "folder"
    done = runs.run(["compare.py", *SMALL, ARMS, "--together=yes", f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    return folder


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
            assert rows(run)[-1]["step"] == config["num_steps"]


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
    first = (
        rows(compared / "norm=layer" / "seed-0"),
        rows(compared / "norm=layer" / "seed-1"),
    )
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


@pytest.mark.slow  # comparison/test_together.py has the numbers
def test_together_and_alone_are_the_same_numbers(compared, tmp_path):
    arguments = [*SMALL, "--arms=norm:layer", "--together=no", "--jobs=2", f"--workdir={tmp_path}"]
    done = runs.run(["compare.py", *arguments])
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        run = f"norm=layer/seed-{seed}"
        alone, together = rows(tmp_path / run), rows(compared / run)
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
        assert rows(path) == rows(compared / path.relative_to(tmp_path))


def test_each_arm_gets_what_is_best_for_it_on_validation_data(tmp_path):
    tuning = ["--tune=learning_rate:1e-3,1e-9", "--tune=norm_logits:false", "--tune_steps=10"]
    arguments = [SMALL[0], "--seeds=1", "--arms=norm:layer", *tuning, f"--workdir={tmp_path}"]
    done = runs.run(["compare.py", *arguments])
    assert done.returncode == 0, done.stderr
    tried = {}
    for folder in (tmp_path / "tuning" / "norm=layer").iterdir():
        last = rows(folder)[-1]
        assert (last["step"], json.loads((folder / "config.json").read_text())["seed"]) == (
            10,
            1000,
        )
        tried[folder.name] = last["eval/nll"]
    assert len(tried) == 2
    best = min(tried, key=lambda name: tried[name])
    ((arm,),) = [part["arms"] for part in results.read(tmp_path / "results.json")["parts"]]
    assert arm["tuned"]["tried"] == tried
    assert arm["tuned"]["name"] == best and "learning_rate=1e-3" in best
    config = json.loads((tmp_path / "norm=layer" / "seed-0" / "config.json").read_text())
    assert config["learning_rate"] == 1e-3 and config["num_steps"] == 20
    assert "norm_logits=false" in best and config["norm_logits"] is False
    assert f"{best} was the best of" in (tmp_path / "table.md").read_text()


# What compare.py says to each of the lists of arguments in argv[1], as by separate processes.
# argv[2] is how far it goes: "compare", or "asked", which trains nothing.
SEVERAL = """
import json, pathlib, sys
from absl import flags
import compare

_, lists, function = sys.argv
told = []
for arguments in json.loads(lists):
    sys.argv = ["compare.py", *arguments]  # where ml_collections looks for --config.key
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    flags.FLAGS(sys.argv)
    try:
        getattr(compare, function)(pathlib.Path(flags.FLAGS.workdir or "runs/none"))
        told.append(None)
    except ValueError as error:
        told.append(str(error))
print(json.dumps(told))
"""
REFUSED = [
    ([], "expected --config=configs/x.py with --arms, or --figure=1 to 6"),
    (["--figure=7"], "the paper has the figures 1 to 6"),
    (["--figure=6", SMALL[0]], "expected --config"),
    ([SMALL[0]], "--config needs arms"),
    ([SMALL[0], "--arms=nrom:layer"], "no key 'nrom'; did you mean 'norm'?"),
    ([SMALL[0], "--arms=norm:layer,sideways"], "sideways"),
    ([SMALL[0], "--arms=norm:layer", "--tune=learning_rate"], "expected key:value"),
    ([SMALL[0], ARMS, "--tune_steps=5"], "--tune_steps has no --tune"),
    ([SMALL[0], ARMS, "--smoke"], "--smoke, --data_dir and --set belong to --figure"),
    (["--figure=6", "--smoke", "--set=norm:layer,none"], "--set: expected one value"),
    (["--figure=2", "--set=num_steps:12"], "num_steps=12 must be a positive multiple"),
]


def several(lists, function):
    done = runs.run(["-c", SEVERAL, json.dumps(lists), function])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_refusals(tmp_path):
    folder = tmp_path / "run"
    told = several([[*arguments, f"--workdir={folder}"] for arguments, _ in REFUSED], "compare")
    for (arguments, expected), found in zip(REFUSED, told, strict=True):
        assert found is not None and expected in found and "\n" not in found, arguments
    assert not folder.exists()


def test_a_refusal_is_one_line(tmp_path):
    done = runs.run(["compare.py", SMALL[0], f"--workdir={tmp_path / 'run'}"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config needs arms") and done.stderr.count("\n") == 1


def test_every_command_of_the_documents_is_one():
    commands = []
    names = ("README.md", "docs/RESULTS.md", "compare.py")
    for path in [*map(runs.ROOT.joinpath, names), *(runs.ROOT / "configs").glob("*.py")]:
        text = re.sub(r"\\+\n\s*", " ", path.read_text())
        found = re.findall(r"python compare\.py ([^`#|\n]*)", text)
        words = [command.split("    ")[0].replace("<folder>", "x").split() for command in found]
        commands += [[word for word in each if "..." not in word] for each in words]
    assert len(commands) > 10
    assert several(commands, "asked") == [None] * len(commands)

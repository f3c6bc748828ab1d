"""train.py: what a run leaves, that it goes on exactly where it stopped, and what it refuses."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import tasks
import train
from configs import common
from lnjax.data import pipeline
from lnjax.training import workdir
from lnjax.training.checkpoint import CheckpointError, Checkpoints
from lnjax.training.optimizer import make_optimizer
from lnjax.training.step import run_shapes, train_step
from lnjax.training.task import LossAux, TaskData
from tests import runs
from tests.data.conftest import IamTree
from tests.runs import caches as caches
from tests.runs import rows, steps
from tests.training.toy_tasks import Linear, Normalized, make_batch


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return runs.reference(tmp_path_factory)


def last_tree(folder, module=None):
    """The arrays of the newest checkpoint."""
    run = workdir.read(folder)
    config = ConfigDict(run.config)
    task = (module or tasks.load(config.task)).make_task(config, run.spec)
    shapes = run_shapes(run.batch, task=task, tx=make_optimizer(config))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(shapes)
    assert not restored.refused
    return restored.step, restored.tree


def assert_same_run(folder, other):
    (step, tree), (other_step, other_tree) = last_tree(folder), last_tree(other)
    assert step == other_step
    assert jax.tree.structure(tree) == jax.tree.structure(other_tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        want = dict(jax.tree_util.tree_leaves_with_path(other_tree))[path]
        assert np.asarray(leaf).tobytes() == np.asarray(want).tobytes(), path
    assert rows(folder) == rows(other)


# ---- what a run leaves -----------------------------------------------------------------------


def test_what_a_run_leaves(reference):
    names = {path.name for path in reference.iterdir()}
    assert names == {
        *("config.json", "data.json", "manifest.json", "metrics.jsonl"),
        *("checkpoints", "samples", "tensorboard"),
    }
    config = json.loads((reference / "config.json").read_text())
    assert config["num_steps"] == 60 and config["schedule"] == "constant"
    assert set(common.get_config()) <= set(config)
    data = json.loads((reference / "data.json").read_text())
    assert (
        data["batch"]["strokes"] == [[4, 48, 3], "float32"] and len(data["spec"]["alphabet"]) == 56
    )
    manifest = json.loads((reference / "manifest.json").read_text())
    assert manifest["seed"] == 0 and manifest["versions"]["jax"] == jax.__version__
    assert manifest["data"]["name"] == "handwriting" and manifest["data"]["batch_size"] == 4
    assert len(manifest["baselines"]) == 1 and "train.py" in manifest["command"]
    for name in ("00000025", "00000050", "00000060"):
        assert (reference / "samples" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((reference / "samples").iterdir())) == 3
    (events,) = (reference / "tensorboard").iterdir()
    assert b"eval/nats_per_point" in events.read_bytes()
    assert steps(reference) == [40, 50, 60]


def test_metrics_of_a_run(reference):
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    train_steps = [line["step"] for line in lines if "train/loss" in line]
    eval_steps = [line["step"] for line in lines if "eval/loss" in line]
    assert train_steps == [7, 14, 21, 28, 35, 42, 49, 56, 60] and eval_steps == [25, 50, 60]
    assert len(lines) == 12
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    for line in lines:
        assert list(line)[:2] == ["step", "seconds"]
        assert all(type(value) is float for value in list(line.values())[1:])
        per = {"loss", "nats_per_point", "nats_per_sequence"}
        if "eval/loss" in line:
            want = {f"eval/{name}" for name in (*per, "nats_per_point_other_text")}
        else:
            want = {f"train/{name}" for name in (*per, "grad_norm")}
        assert set(line) - {"step", "seconds"} == want
    evals = [line for line in lines if "eval/loss" in line]
    assert evals[-1]["eval/nats_per_point"] < evals[0]["eval/nats_per_point"]


def test_what_a_run_says(reference):
    told = (reference.parent / "stderr").read_text().splitlines()
    # Whatever is printed of the embedded set carries its name.
    named = [line for line in told if line.startswith("handwriting/embedded: ")]
    assert "parameters, norm layer" in named[0] and "one Gaussian" in named[1]
    assert sum("eval/nats_per_point" in line for line in named) == 3
    assert told[-1] == f"done: {reference} is at step 60"


def test_tensorflow_is_never_imported(reference):
    assert not (reference.parent / "tensorflow-was-imported").exists()


# ---- stopped and resumed ---------------------------------------------------------------------

# train.py in a process that sends itself a signal at a step, once a path exists.
SIGNALLED = """
import os, pathlib, signal, sys, time
from absl import app, flags
import train

name, at, path = sys.argv[1:4]
del sys.argv[1:4]
one_step, done = train.train_step, 0

def train_step(*args, **kwargs):
    global done
    done += 1
    result = one_step(*args, **kwargs)
    if done == int(at):
        deadline = time.monotonic() + 60
        while not pathlib.Path(path).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.Signals[name])
    return result

train.train_step = train_step
flags.mark_flag_as_required("config")
app.run(train.main, flags_parser=train.parse_flags)
"""


def stop(folder, name, at, when):
    """Runs until step `at` and the existence of a path in `folder`, then gets the signal."""
    command = ["-c", SIGNALLED, name, at, folder / when, *runs.ARGUMENTS, f"--workdir={folder}"]
    return runs.run(command)


def resume(folder, *arguments):
    done = runs.run(["train.py", *runs.ARGUMENTS, f"--workdir={folder}", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def terminated(tmp_path_factory):
    """The folder of a run that got SIGTERM at step 33, not to be changed, and what it told."""
    folder = tmp_path_factory.mktemp("terminated") / "run"
    done = stop(folder, "SIGTERM", 33, "checkpoints/30")
    assert done.returncode == 75, done.stderr
    return folder, done.stderr


@pytest.mark.slow  # of a toy: tests/faults/test_stopped.py
def test_killed_and_resumed(reference, tmp_path, capfd):
    # Step 30 is saved; lines of the log are those of 28 and 35.
    done = stop(tmp_path, "SIGKILL", 33, "checkpoints/30")
    assert done.returncode == -signal.SIGKILL
    assert rows(tmp_path) == [row for row in rows(reference) if row["step"] <= 28]
    assert steps(tmp_path)[-1] == 30
    assert main(*runs.ARGUMENTS, f"--workdir={tmp_path}") == 0
    assert f"going on from step 30 of {tmp_path}" in capfd.readouterr().err
    assert_same_run(tmp_path, reference)
    assert (tmp_path / "manifest.json").exists() and (tmp_path / "manifest-from-30.json").exists()


def test_terminated_and_resumed(reference, terminated, tmp_path):
    told = terminated[1]
    assert told.count("SIGTERM: writing a checkpoint") == 1 and "Traceback" not in told
    folder = tmp_path / "run"
    shutil.copytree(terminated[0], folder)
    assert steps(folder) == [20, 30, 33]  # one more, at the step where it stopped
    assert f"going on from step 33 of {folder}" in resume(folder)
    assert_same_run(folder, reference)


def test_damaged_and_resumed(reference, terminated, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(terminated[0], folder)
    damaged = runs.flip_a_byte(folder / "checkpoints/33")
    assert main(*runs.ARGUMENTS, f"--workdir={folder}") == 0
    told = capfd.readouterr().err
    (refused,) = [line for line in told.splitlines() if line.startswith("refused: ")]
    assert f"step 33: {damaged.relative_to(folder / 'checkpoints')}" in refused
    assert "moved to 33.damaged-1" in refused
    assert told.index("refused: ") < told.index(f"going on from step 30 of {folder}")
    assert_same_run(folder, reference)


@pytest.mark.slow  # test_interrupt has both signals, without a network
def test_interrupted(tmp_path):
    done = stop(tmp_path, "SIGINT", 33, "checkpoints/30")
    assert done.returncode == 75 and "SIGINT: writing a checkpoint" in done.stderr
    assert steps(tmp_path) == [20, 30, 33]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment(reference, tmp_path, seed):
    """Killed by another process, wherever it is: in a step, a save, an evaluation."""
    command = [sys.executable, "train.py", *runs.ARGUMENTS, f"--workdir={tmp_path}"]
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    rng = random.Random(seed)
    for _ in range(3):
        with subprocess.Popen(command, cwd=runs.ROOT, env=env, stderr=subprocess.DEVNULL) as child:
            deadline = time.monotonic() + 120
            before = (tmp_path / "metrics.jsonl").exists() and len(rows(tmp_path))
            while child.poll() is None and time.monotonic() < deadline:
                if (tmp_path / "metrics.jsonl").exists() and len(rows(tmp_path)) != before:
                    break
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.4))
            child.kill()
    resume(tmp_path)
    assert_same_run(tmp_path, reference)


def test_a_finished_run_is_left_as_it_is(reference, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    kept = {name: (folder / name).read_text() for name in ("metrics.jsonl", "config.json")}
    assert main(*runs.ARGUMENTS, f"--workdir={folder}") == 0
    assert kept == {name: (folder / name).read_text() for name in kept}
    assert steps(folder) == [40, 50, 60]


# ---- what is refused -------------------------------------------------------------------------


def main(*arguments):
    """train.py in this process; returns its exit code."""
    argv = ["train.py", *map(str, arguments)]
    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(runs.ROOT)
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for --config.x
        try:
            with warnings.catch_warnings():  # ml_collections reads the file by an old way
                warnings.filterwarnings("ignore", r"the load_module\(\)", DeprecationWarning)
                rest = train.parse_flags(argv)
            return train.main(rest)
        except SystemExit as stopped:
            return stopped.code


def test_a_misspelt_key_in_a_process(tmp_path):
    done = runs.run(
        ["train.py", runs.SMOKE, "--config.learning_rat=1", f"--workdir={tmp_path / 'run'}"]
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and 'Did you mean "learning_rate"' in line
    assert not (tmp_path / "run").exists()


PAPER = "--config=configs/handwriting.py:paper"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((runs.SMOKE, "--config.nom=none"), 'Did you mean "norm"'),
        ((runs.SMOKE, "--config.mesh.dat=2"), 'Did you mean "data"'),
        ((runs.SMOKE, "--config.batch_size=many"), "--config.batch_size=many"),
        ((runs.SMOKE, "--confg=x"), "'confg'"),
        ((runs.SMOKE, "layer"), "unknown argument 'layer'"),
        (("--config=configs/handwriting.py:pape",), "'paper', 'smoke'"),
        (("--config=configs/handwritin.py",), "configs/handwritin.py"),
        (("--config=configs/common.py",), "there is no task ''; known: "),
        ((PAPER,), "--config.data_dir"),
        ((PAPER, "--config.data_dir=/nowhere"), "/nowhere"),
        ((runs.SMOKE, "--config.norm=batch"), "norm='batch'"),
        ((runs.SMOKE, "--config.data=imaginary"), "'imaginary'"),
        ((runs.SMOKE, "--config.schedule=linear"), "'constant' or 'cosine'"),
        ((runs.SMOKE, "--config.nonfinite=ignore"), "'stop' or 'skip'"),
        ((runs.SMOKE, "--config.adam=wrong"), "'corrected' or 'authors'"),
        ((runs.SMOKE, "--config.clip=value"), "'global' or 'per_tensor' or 'reader'"),
        ((runs.SMOKE, "--config.mesh.data=64"), "mesh.data=64"),
        ((runs.SMOKE, "--config.batch_size=0"), "at least 1"),
        ((runs.SMOKE, "--config.steps_per_call=3"), "multiple of steps_per_call=3"),
        ((runs.SMOKE, "--config.log_steps=0"), "log_steps=0"),
        ((runs.SMOKE, "--config.dtype=float23"), "float23"),
        ((runs.SMOKE, "--config.eval_split=tset"), "tset"),
    ],
    ids=lambda value: value.rpartition("=")[2] if isinstance(value, str) else value[-1],
)
def test_refusals(arguments, message, reference, tmp_path, capfd, monkeypatch):
    # A wrong value is found before the first step; the reference has prepared the data.
    monkeypatch.setattr(train, "train_step", None)
    folder = tmp_path / "run"
    assert main(*arguments, f"--workdir={folder}") == 2
    out, err = capfd.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.startswith("error: ") and message in line + err and out == ""
    assert not folder.exists()


def test_a_workdir_that_is_a_file(tmp_path, capfd):
    (tmp_path / "run").write_text("mine")
    assert main(runs.SMOKE, f"--workdir={tmp_path / 'run'}") == 2
    assert "error: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "was"), [("seed", 1, 0), ("batch_size", 8, 4), ("norm", "none", "layer")]
)
def test_another_config_is_refused(reference, capfd, key, value, was):
    before = runs.contents(reference)
    assert main(*runs.ARGUMENTS, f"--config.{key}={value}", f"--workdir={reference}") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(reference) in line
    assert f"{key} was {was!r} and is {value!r}" in line
    assert runs.contents(reference) == before


# ---- variants of a run -----------------------------------------------------------------------

TINY = (
    *(runs.SMOKE, "--config.num_layers=1", "--config.features=4", "--config.max_points=6"),
    *("--config.num_steps=4", "--config.log_steps=2", "--config.eval_steps=4"),
    "--config.checkpoint_steps=2",
)


@pytest.mark.parametrize(
    "override", [pytest.param("norm=none", marks=pytest.mark.slow), "dtype=bfloat16"]
)
def test_variants_train(override, tmp_path, capfd):
    assert main(*TINY, f"--config.{override}", f"--workdir={tmp_path}") == 0
    lines = rows(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 4]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    step, tree = last_tree(tmp_path)
    leaves = jax.tree_util.tree_leaves_with_path(tree["state"].params)
    assert step == 4 and all(leaf.dtype == jnp.float32 for _, leaf in leaves)
    has_scale = any("scale" in jax.tree_util.keystr(path) for path, _ in leaves)
    assert has_scale == (override != "norm=none")
    norm = "none" if override == "norm=none" else "layer"
    assert f"parameters, norm {norm}" in capfd.readouterr().err


@pytest.mark.slow
def test_the_papers_variant_trains_on_a_tree(tmp_path, capfd):
    IamTree(tmp_path / "iam")
    sizes = ("features=8", "max_points=12", "points_per_letter=2.0", "eval_batch_size=2")
    steps_of_it = ("num_steps=2", "log_steps=1", "eval_steps=2", "checkpoint_steps=2")
    arguments = [PAPER, f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.{override}" for override in (*sizes, *steps_of_it)]
    assert main(*arguments, f"--config.data_dir={tmp_path / 'iam'}") == 0
    train_1, train_2, evaluation = rows(tmp_path / "run")
    assert (train_1["step"], train_2["step"], evaluation["step"]) == (1, 2, 2)
    assert np.isfinite(list(evaluation.values())).all()
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["data"]["config"] == "real"
    err = capfd.readouterr().err
    assert "handwriting/real: step 2" in err and "embedded" not in err
    # The same files in another place are no other run.
    (tmp_path / "iam").rename(tmp_path / "moved")
    assert main(*arguments, f"--config.data_dir={tmp_path / 'moved'}") == 0
    assert "going on from step 2" in capfd.readouterr().err
    assert rows(tmp_path / "run") == [train_1, train_2, evaluation]


# Rounding in the first steps is a hundred times larger ten steps later: runs of another program,
# or on other devices, are compared where they are still near.
SHORT = [f"--config.{key}=7" for key in runs.KEYS[1:]]


def assert_near(folder, reference):
    (got, _), want = rows(folder), rows(reference)[0]
    assert got["step"] == want["step"] == 7
    assert got == pytest.approx(want, rel=1e-3)


@pytest.mark.slow  # test_step has the same of the step alone
def test_several_steps_per_call_are_the_same_run(reference, tmp_path):
    arguments = (*runs.ARGUMENTS, *SHORT, "--config.steps_per_call=7", f"--workdir={tmp_path}")
    assert main(*arguments) == 0
    assert_near(tmp_path, reference)
    assert last_tree(tmp_path)[1]["state"].step == 7


@pytest.mark.slow
def test_four_devices_are_the_same_run(reference, tmp_path):
    done = runs.run(
        [
            *("train.py", *runs.ARGUMENTS, *SHORT),
            *("--config.mesh.data=4", f"--workdir={tmp_path}"),
        ],
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    assert done.returncode == 0, done.stderr
    assert_near(tmp_path, reference)


# ---- the loop, with a toy for a task ---------------------------------------------------------


class Root(Linear):
    """The loss is finite where its derivative is not: at the parameters it starts from."""

    def loss(self, params, model_state, batch, rngs, *, train):
        loss, aux = super().loss(params, model_state, batch, rngs, train=train)
        root = jnp.sqrt(jnp.sum(jnp.square(params["w"])))
        total, count = aux.sums["loss"]
        sums = {**aux.sums, "loss": (total + root * count, count)}
        return loss + root, LossAux(sums, model_state)


def toy(task):
    """A module of tasks/ with 13 records; `module.digest` is part of the fingerprint."""

    def collate(examples):
        batch = {name: np.stack([e[name] for e in examples]) for name in ("x", "y")}
        return {**batch, "mask": np.ones(len(examples), bool)}

    def make_data(config):
        whole = make_batch(1, rows=13)
        records = [{"x": whole["x"][i], "y": whole["y"][i]} for i in range(13)]
        evaluation = pipeline.eval_batches(
            records, batch_size=config.eval_batch_size, collate=collate
        )
        return TaskData(
            train=pipeline.train_batches(
                records, seed=config.seed, batch_size=config.batch_size, collate=collate
            ),
            evals={"eval": evaluation},
            fingerprint={"name": "toy", "config": config.data, "digest": module.digest},
            spec={},
        )

    module = SimpleNamespace(make_data=make_data, make_task=lambda *_: task, digest="1")
    return module


@pytest.fixture
def toy_run(monkeypatch, tmp_path):
    """A function that trains a toy in one folder, and its module."""

    def go(task=None, **changes):
        if task is not None:
            go.module = toy(task)
            monkeypatch.setattr(tasks, "load", lambda name: go.module)
        config = common.get_config()
        config.update(dict(task="toy", batch_size=4, eval_batch_size=8, num_steps=6, log_steps=4))
        config.update(dict(eval_steps=3, checkpoint_steps=2, learning_rate=1e-2))
        config.update(changes)
        config.lock()
        return train.train(train.set_up(config, go.folder))

    go.folder = tmp_path / "run"
    return go


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_one_compilation_per_process(toy_run, norm):
    for number in (6, 12):  # a new run; one that goes on
        before = train_step._cache_size()
        assert toy_run(Normalized(norm), num_steps=number) == 0
        assert train_step._cache_size() == before + 1
        assert steps(toy_run.folder)[-1] == number
    assert [row["step"] for row in rows(toy_run.folder)] == [3, 4, 6, 6, 8, 9, 12, 12]


class Slow(Linear):
    """A step of it keeps the device busy for a good part of a second."""

    def loss(self, params, model_state, batch, rngs, *, train):
        loss, aux = super().loss(params, model_state, batch, rngs, train=train)
        numbers = jnp.broadcast_to(jax.lax.stop_gradient(params["b"]), (10_000,))
        busy = jax.lax.fori_loop(0, 3000, lambda _, x: jnp.sin(x + 0.1), numbers)
        sums = {**aux.sums, "busy": (busy[0], jnp.ones(()))}
        return loss, LossAux(sums, aux.model_state)


def test_the_host_does_not_wait_between_log_lines(toy_run, monkeypatch):
    """No step but the first after a log line finds that the one before it is done.

    On an accelerator the guard names the line that fetches; on a CPU it guards nothing.
    """
    found, per_line = [], 4

    def observed(state, *args, **kwargs):
        found.append(state.step.is_ready())
        new = train_step(state, *args, **kwargs)
        before_a_line = len(found) % per_line == 0
        guard = "allow" if before_a_line else "disallow_explicit"
        jax.config.update("jax_transfer_guard_device_to_host", guard)
        return new

    monkeypatch.setattr(train, "train_step", observed)
    numbers = dict(num_steps=2 * per_line, log_steps=per_line)
    try:
        toy_run(Slow(), **numbers, eval_steps=2 * per_line, checkpoint_steps=2 * per_line)
    finally:
        jax.config.update("jax_transfer_guard_device_to_host", "allow")
    assert [step % per_line for step, ready in enumerate(found) if ready] == [0, 0]


def test_training_means_are_over_the_steps_since_the_last_line(toy_run):
    toy_run(Linear(), learning_rate=0.0, num_steps=13, log_steps=13, eval_steps=13)
    trained, evaluated = rows(toy_run.folder)
    # Nothing moves: 13 steps of 4 see each of the 13 records 4 times, as the evaluation does once.
    assert trained["train/loss"] == pytest.approx(evaluated["eval/loss"], rel=1e-6)
    assert (trained["train/train"], evaluated["eval/train"]) == (1, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_steps", 8), ("log_steps", 1), ("eval_steps", 5), ("checkpoint_steps", 1)),
        *(("steps_per_call", 2), ("eval_batch_size", 5), ("data_dir", "elsewhere")),
    ],
)
def test_what_may_change_may_change(toy_run, key, value):
    assert key in workdir.MAY_CHANGE
    toy_run(Linear(), num_steps=4, eval_steps=4)
    changes = {"num_steps": 8, "eval_steps": 4, key: value}
    assert toy_run(**changes) == 0
    assert rows(toy_run.folder)[-1]["step"] == 8
    config = json.loads((toy_run.folder / "config.json").read_text())
    assert config[key] == value


def test_every_key_that_may_change_is_tried():
    (mark,) = [m for m in test_what_may_change_may_change.pytestmark if m.name == "parametrize"]
    of_one_task = {"chunk"}  # of handwriting, and tried there
    tried = {key for key, _ in mark.args[1]}
    assert tried == workdir.MAY_CHANGE - of_one_task - {"mesh"}
    assert set(common.get_config()) >= workdir.MAY_CHANGE - of_one_task


def test_steps_per_call_that_do_not_meet_the_step_of_the_run(toy_run):
    """Stopped at step 3, going on by twos: the end is at 8, or it is refused."""
    toy_run(Linear(), num_steps=3)
    before = runs.contents(toy_run.folder)
    try:
        toy_run(num_steps=8, steps_per_call=2, eval_steps=4)
    except CheckpointError:
        assert runs.contents(toy_run.folder) == before
    else:
        assert steps(toy_run.folder)[-1] == 8
        assert 8 in [row["step"] for row in rows(toy_run.folder) if "train/loss" in row]


def test_other_data_are_refused(toy_run):
    toy_run(Linear())
    before = runs.contents(toy_run.folder)
    toy_run.module.digest = "2"
    with pytest.raises(CheckpointError, match='digest: saved "1", now "2"'):
        toy_run(num_steps=8)
    assert runs.contents(toy_run.folder) == before


def test_a_loss_that_is_not_finite_stops_the_run(toy_run, capfd):
    changes = dict(learning_rate=1e30, num_steps=8, log_steps=4, checkpoint_steps=1)
    assert toy_run(Linear(), **changes) == train.EXIT_NONFINITE
    err = capfd.readouterr().err
    assert "error: loss, gradient or parameters not finite at or shortly before step 2" in err
    assert "nonfinite=skip" in err and "Traceback" not in err
    assert steps(toy_run.folder) == [1]
    assert toy_run(**changes) == train.EXIT_NONFINITE  # the same again: the same end


def test_no_checkpoint_holds_what_is_not_finite(toy_run, capfd):
    """ "the checkpoints are older": going on from one of them must be possible."""
    assert toy_run(Root(), checkpoint_steps=1, log_steps=1) == train.EXIT_NONFINITE
    if steps(toy_run.folder):
        _, tree = last_tree(toy_run.folder, toy_run.module)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree["state"]))


def test_skip_leaves_broken_updates_out(toy_run):
    assert toy_run(Root(), nonfinite="skip") == 0
    _, tree = last_tree(toy_run.folder, toy_run.module)
    np.testing.assert_array_equal(tree["state"].params["w"], 0)  # every update was broken
    assert all(row["step"] for row in rows(toy_run.folder))


def test_an_older_run_without_a_checkpoint_starts_again(toy_run):
    toy_run(Linear())
    want = rows(toy_run.folder)
    shutil.rmtree(toy_run.folder / "checkpoints")
    toy_run()
    assert rows(toy_run.folder) == want


def test_all_checkpoints_damaged(toy_run):
    toy_run(Linear())
    for step in steps(toy_run.folder):
        runs.flip_a_byte(Path(toy_run.folder, "checkpoints", str(step)))
    before = runs.contents(toy_run.folder)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        toy_run(num_steps=8)
    assert runs.contents(toy_run.folder) == before


def test_more_steps_are_refused_where_the_rate_depends_on_their_number(toy_run):
    toy_run(Linear(), schedule="cosine")
    with pytest.raises(ValueError, match="num_steps was 6 and is 8"):
        toy_run(schedule="cosine", num_steps=8)


def test_two_processes_in_one_folder(toy_run):
    with workdir.lock(toy_run.folder):
        with pytest.raises(ValueError, match="another process trains in"):
            toy_run(Linear())
    assert toy_run(Linear()) == 0


def test_skip_does_not_save_what_is_not_finite(toy_run):
    """The 21st broken update in a row is let through: the run ends, the checkpoints are good."""
    root = {"nonfinite": "skip", "num_steps": 40, "log_steps": 1, "checkpoint_steps": 1}
    assert toy_run(Root(), eval_steps=40, **root) == train.EXIT_NONFINITE
    assert steps(toy_run.folder)[-1] == 20
    _, tree = last_tree(toy_run.folder, toy_run.module)
    assert np.isfinite(tree["state"].params["w"]).all()

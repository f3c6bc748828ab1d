"""Several processes train one run: the curve of one, one set of files, and an end for all of them.

Real processes, which meet on the loopback: slow, as each takes five seconds of a core to start. See
tests/faults/test_devices.py on the tolerance.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lnjax.training import processes, workdir
from lnjax.training.interrupt import EXIT_INTERRUPTED
from tests import runs
from tests.faults.processes import ABORTED, END_SECONDS, free_port
from tests.runs import caches as caches
from tests.runs import rows, steps

TOLERANCE = 1e-3
STEPS = 6


def arguments(folder, *changes, steps=STEPS):
    keys = {"num_steps": steps, "log_steps": 1, "eval_steps": steps, "checkpoint_steps": 2}
    keys |= {"batch_size": 8, "eval_batch_size": 200, "schedule": "constant", "norm": "batch"}
    return [
        "--config=configs/pi_mnist.py:smoke",
        f"--workdir={folder}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
        *(f"--config.{change}" for change in changes),
    ]


def start(arguments, *, devices=1, script=("train.py",), **env):
    """One process, as a user would start it, on `devices` forced devices of a CPU."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join(map(str, (runs.WITHOUT_TORCH, runs.ROOT)))
    return subprocess.Popen(
        [sys.executable, *script, *map(str, arguments)],
        cwd=runs.ROOT,
        env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": flags, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Together:
    """Several of them, or one without any flag; those that still run at the end are killed."""

    def __init__(self, number, arguments, *, script=("train.py",), devices=1):
        flags = [f"--processes={number}", f"--coordinator=127.0.0.1:{free_port()}"]
        self.children = [
            start(
                [
                    *(arguments(i) if callable(arguments) else arguments),
                    *([*flags, f"--process_id={i}"] if number > 1 else []),
                ],
                script=script,
                devices=devices,
            )
            for i in range(number)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.children:
            child.kill()
            child.communicate()

    def ends(self, seconds=200):
        """The exit codes and what each told, when all have ended; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        told = [
            child.communicate(timeout=max(1, deadline - time.monotonic()))[0]
            for child in self.children
        ]
        return [child.returncode for child in self.children], told


def together(number, arguments, **kwargs):
    with Together(number, arguments, **kwargs) as all_of_them:
        return all_of_them.ends()


def assert_near(folder, other):
    got, want = rows(folder), rows(other)
    assert len(got) == len(want)
    for one, two in zip(got, want, strict=True):
        # skip-thoughts' gain of a centre is a difference of nearly equal losses
        assert one == pytest.approx(two, rel=TOLERANCE, abs=1e-6)


def until(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process, not to be changed; and beside it one of twice the steps."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = runs.run(["train.py", *arguments(folder)])
    assert done.returncode == 0, done.stderr
    return folder


# ---- the run


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.glob("*")} | {
        path.name for path in (folder / "checkpoints").glob("*")
    }


@pytest.mark.slow
def test_two_processes_are_the_run_of_one(alone, tmp_path):
    folder = tmp_path / "run"
    codes, told = together(2, arguments(folder, "mesh.data=2"))
    assert codes == [0, 0], told
    assert_near(folder, alone)
    # Written once, by the first, in the same form; and one process goes on from it.
    assert names(folder) == names(alone)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["process_count"], manifest["device_count"]) == (2, 2)
    for name in ("config.json", "data.json"):
        one, two = (json.loads((where / name).read_text()) for where in (alone, folder))
        assert one | {"mesh": {}} == two | {"mesh": {}}
    assert f"done: {folder} is at step {STEPS}" in told[0] and "step 1/6" in told[0]
    assert "done" not in told[1] and "step 1/6" not in told[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "devices", "mesh"),
    [(4, 1, ["mesh.data=4"]), (2, 4, ["mesh.data=8"]), (2, 2, ["mesh.data=2", "mesh.model=2"])],
)
def test_more_of_them(alone, tmp_path, number, devices, mesh):
    shard = ["mesh.shard=hidden_*/kernel:1,logits/kernel:0"] if len(mesh) > 1 else []
    folder = tmp_path / "run"
    codes, told = together(number, arguments(folder, *mesh, *shard), devices=devices)
    assert codes == [0] * number, told
    assert_near(folder, alone)


@pytest.mark.slow
def test_a_model_over_two_processes(alone, tmp_path):
    """No process has all of a parameter: gathered for evaluation and checkpoint, and sent back."""
    folder = tmp_path / "run"
    mesh = ["mesh.data=1", "mesh.model=2", "mesh.shard=hidden_*/kernel:1"]
    for end in (4, STEPS):
        codes, told = together(2, arguments(folder, *mesh, steps=end))
        assert codes == [0, 0], told
    assert "going on from step 4" in told[0]
    assert [row for row in rows(folder) if "train/loss" in row] == [
        pytest.approx(row, rel=TOLERANCE) for row in rows(alone) if "train/loss" in row
    ]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["order_embeddings", "skip_thoughts", "draw"])
def test_a_task_that_looks_at_whole_splits(tmp_path, config):
    """Retrieval, sums of squares, samples and length buckets: as one process has them."""

    def of(folder, data):
        keys = ["num_steps=3", "log_steps=1", "eval_steps=3", "checkpoint_steps=3"]
        keys += ["batch_size=8", "eval_batch_size=200", "schedule=constant", f"mesh.data={data}"]
        start = [f"--config=configs/{config}.py:smoke", f"--workdir={folder}"]
        return start + [f"--config.{key}" for key in keys]

    one, two = tmp_path / "one", tmp_path / "two"
    done = runs.run(["train.py", *of(one, 1)])
    assert done.returncode == 0, done.stderr
    codes, told = together(2, of(two, 2))
    assert codes == [0, 0], told
    assert_near(two, one)
    assert names(two) == names(one)


# ---- its end


@pytest.mark.slow
@pytest.mark.parametrize(("number", "victim"), [(2, 0), (2, 1), (4, 3)])
def test_one_is_killed(alone, tmp_path, number, victim):
    """The others end by themselves; half as many go on from the last checkpoint."""
    folder = tmp_path / "run"
    keys = [f"mesh.data={number}", "log_steps=10", "checkpoint_steps=10", "eval_steps=100000"]
    with Together(number, arguments(folder, *keys, steps=100_000)) as run:
        until(lambda: max(steps(folder), default=0) >= 20)
        run.children[victim].kill()
        killed = time.monotonic()
        codes, told = run.ends(END_SECONDS)
        print(f"{number} processes, number {victim} killed: {time.monotonic() - killed:.1f} s")
    assert codes[victim] == -signal.SIGKILL
    others = [code for i, code in enumerate(codes) if i != victim]
    assert set(others) <= {processes.EXIT_LOST, ABORTED}, told
    end = rows(folder)[-1]["step"] + 20
    keys = [f"mesh.data={number // 2}", *keys[1:-1], f"eval_steps={end}"]
    last = arguments(folder, *keys, steps=end)
    codes, told = together(number // 2, last)
    assert codes == [0] * (number // 2) and "going on from step" in told[0], told
    assert rows(folder)[-1]["step"] == steps(folder)[-1] == end


@pytest.mark.slow
@pytest.mark.parametrize("told_process", [0, 1])
def test_a_signal_to_one_stops_all_at_one_step(alone, tmp_path, told_process):
    folder = tmp_path / "run"
    many = ["log_steps=1", "checkpoint_steps=100000", "eval_steps=100000"]
    with Together(2, arguments(folder, "mesh.data=2", *many, steps=100_000)) as run:
        until(lambda: (folder / "metrics.jsonl").exists() and len(rows(folder)) >= 3)
        run.children[told_process].send_signal(signal.SIGTERM)
        codes, told = run.ends(END_SECONDS)
    assert codes == [EXIT_INTERRUPTED] * 2, told
    assert "SIGTERM: writing a checkpoint" in told[told_process]
    (saved,) = steps(folder)
    assert rows(folder)[-1]["step"] == saved
    # One process goes on, and has what a run has that never stopped.
    whole = tmp_path / "whole"
    for where in (folder, whole):
        end = arguments(where, *many[:2], f"eval_steps={saved + 3}", steps=saved + 3)
        done = runs.run(["train.py", *end])
        assert done.returncode == 0, done.stderr
    # Rounding of some steps more: what is wrong by design is wrong from the first step on.
    got, want = rows(folder), rows(whole)
    assert [row["step"] for row in got] == [row["step"] for row in want]
    for one, two in zip(got, want, strict=True):
        if "train/loss" in two:
            assert one["train/loss"] == pytest.approx(two["train/loss"], rel=0.05)
    for one, two in zip(got[:STEPS], want[:STEPS], strict=True):
        assert one == pytest.approx(two, rel=TOLERANCE)


BUG = """
import sys
from absl import app, flags
import train

one_step = train.train_step

def train_step(*args, **kwargs):
    if "--process_id=1" in sys.argv and train_step.done == 3:
        raise ValueError("a bug")
    train_step.done += 1
    return one_step(*args, **kwargs)

train_step.done = 0
train.train_step = train_step
app.run(train.main, flags_parser=train.parse_flags)
"""


@pytest.mark.slow
def test_an_error_in_one_ends_all(tmp_path):
    folder = tmp_path / "run"
    many = arguments(folder, "mesh.data=2", steps=1000)
    started = time.monotonic()
    codes, told = together(2, many, script=("-c", BUG))
    assert time.monotonic() - started < 120
    assert codes[1] == 1 and "ValueError: a bug" in told[1]
    assert codes[0] in (processes.EXIT_LOST, ABORTED), told[0]


# ---- its start


@pytest.mark.slow
def test_what_one_refuses_all_refuse(tmp_path):
    """A key that differs; a set that is on one machine alone; a folder in which another trains."""

    def other_rate(i):
        return arguments(tmp_path / "run", "mesh.data=2", f"learning_rate={0.1 * (1 + i)}")

    def no_data(i):
        real = ["data=real", "data_dir=/nowhere"] if i else []
        return arguments(tmp_path / "run", "mesh.data=2", *real)

    same = arguments(tmp_path / "run", "mesh.data=2")
    for given, lock, message in (
        (other_rate, False, "process 1 has another learning_rate (0.2, not 0.1) than process 0"),
        (no_data, False, "/nowhere"),
        (same, True, "another process trains in"),
    ):
        with workdir.lock(tmp_path / "run") if lock else contextlib.nullcontext():
            codes, told = together(2, given)
        assert codes == [2, 2], told
        assert all("error: " in text and message in text for text in told), told


ALONE = """
import sys
from absl import app
import train
from lnjax.training import processes

processes.START_SECONDS = 3
app.run(train.main, flags_parser=train.parse_flags)
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_the_others_never_come(tmp_path, process):
    flags = ["--processes=2", f"--process_id={process}", f"--coordinator=127.0.0.1:{free_port()}"]
    child = start([*arguments(tmp_path / "run"), *flags], script=("-c", ALONE))
    told, _ = child.communicate(timeout=60)
    assert child.returncode == processes.EXIT_LOST
    assert "joining the others at" in told and "error: not all processes came within 3 s" in told
    assert not (tmp_path / "run").exists()


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "numbers"),
    [
        (SLURM, ("SLURM_PROCID", "SLURM_LOCALID")),
        (OPEN_MPI, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")),
    ],
    ids=["slurm", "open_mpi"],
)
def test_started_by_a_cluster(alone, tmp_path, variables, numbers):
    """With the variables that srun and mpirun set (neither is needed here)."""
    folder, port = tmp_path / "run", str(free_port())
    children = [
        start(
            [*arguments(folder, "mesh.data=2"), "--processes=auto"],
            **variables,
            **dict.fromkeys(numbers, str(i)),
            JAX_COORDINATOR_PORT=port,
        )
        for i in range(2)
    ]
    try:
        told = [child.communicate(timeout=200)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], told
    assert_near(folder, alone)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("two", None, None), "--processes=two is neither a number"),
        (("0", None, None), "--processes=0 is neither a number"),
        (("2", None, "a:1"), "--processes=2 needs --process_id"),
        (("2", 0, None), "--processes=2 needs --process_id"),
        (("2", 2, "a:1"), "--process_id=2 must be from 0 to 1"),
        (("2", 0, "a"), "--coordinator=a is not host:port"),
        (("1", 0, None), "--processes is 1"),
        (("auto", None, "a:1"), "--processes is auto"),
    ],
)
def test_flags_that_do_not_go_together(given, message):
    with pytest.raises(processes.Refused, match=message):
        processes.start(*given)


@pytest.mark.slow
def test_no_cluster(tmp_path):
    done = runs.run(["train.py", *arguments(tmp_path / "run"), "--processes=auto"])
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "error: --processes=auto: there are no variables of Slurm" in done.stderr


@pytest.mark.slow
def test_sample_and_compare_are_of_one_process(tmp_path):
    for script in ("sample.py", "compare.py"):
        done = runs.run([script, "--processes=2"])
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and "'processes'" in done.stderr

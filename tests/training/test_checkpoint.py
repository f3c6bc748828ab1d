import errno
import hashlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import absl.logging
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lnjax.training import manifest
from lnjax.training.checkpoint import CheckpointError, Checkpoints, refuse_changed_data

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    model_state: dict
    opt_state: optax.OptState


def make_state(step, size=12):
    rng = np.random.default_rng(step)
    special = jnp.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.0], jnp.float32)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(3, size)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(7,)), jnp.bfloat16),
        "scalar": jnp.float32(step),
        "special": special,
    }
    moments = TX.init(params)
    return State(
        step=jnp.int32(step),
        params=params,
        model_state={
            "empty": {},
            "words": jnp.asarray(rng.integers(0, 2**32, (5,)), jnp.uint32),
            "counts": jnp.asarray(rng.integers(-9, 9, (2, 3)), jnp.int32),
            "flags": jnp.asarray(rng.integers(0, 2, (9,)), jnp.bool),
        },
        opt_state=jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), moments),
    )


def assert_same_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(want), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), path


def listing(directory):
    return {
        str(p.relative_to(directory)): p.is_file() and (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(directory.rglob("*"))
    }


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def save_steps(directory, *steps, keep=3):
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"position": step})


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@flax.struct.dataclass
class Point:
    x: jax.Array


@jax.jit
def _grow(x):
    return x * 2 + 1


donating = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_is_bit_exact(tmp_path, abstract):
    state = make_state(7)
    like = jax.eval_shape(lambda: make_state(0)) if abstract else make_state(0)
    info = {"position": {"next_index": 3}, "nested": [1, 2.5, None, "x"]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, info)
        info["position"] = "changed by the caller while the save runs"
        restored = checkpoints.restore(like)
    assert_same_bits(restored.tree, state)
    assert isinstance(restored.tree, State)
    assert isinstance(restored.tree.opt_state[1][0], optax.ScaleByAdamState)
    assert restored.tree.model_state["empty"] == {}
    assert restored.info == {"position": {"next_index": 3}, "nested": [1, 2.5, None, "x"]}
    assert (restored.step, restored.refused) == (7, ())


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 4):
            x = _grow(jnp.arange(4_000_000, dtype=jnp.float32) + step)
            want = np.array(x, copy=True)
            checkpoints.save(step, Point(x), {})
            for _ in range(4):
                x = donating(x)
            x.block_until_ready()
            restored = checkpoints.restore(Point(x))
            assert restored.step == step
            np.testing.assert_array_equal(restored.tree.x, want)


def test_restored_arrays_may_be_donated(tmp_path):
    # Many sizes: whether jax wraps memory that is not its own depends on where it lies.
    saved = [jnp.arange(900.0 + 700 * i) for i in range(12)]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, saved, {})
        first, second = checkpoints.restore(saved).tree, checkpoints.restore(saved).tree
    memory = [x.unsafe_buffer_pointer() for x in first]
    after = [donating(x) for x in first]
    # Donation took place: the memory was the arrays' own.
    assert all(x.is_deleted() for x in first)
    assert [x.unsafe_buffer_pointer() for x in after] == memory
    for x, other, grown in zip(saved, second, after, strict=True):
        np.testing.assert_array_equal(other, x)
        np.testing.assert_array_equal(donating(grown), (np.asarray(x) * 2 + 1) * 2 + 1)


def test_sums_are_those_of_hashlib(tmp_path):
    save_steps(tmp_path, 5)
    listed = {}
    for line in (tmp_path / "5.sha256").read_text().splitlines():
        digest, name = re.fullmatch(r"([0-9a-f]{64})  (5/.+)", line).groups()
        listed[name] = digest
    actual = {
        str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "5").rglob("*")
        if path.is_file()
    }
    assert listed == actual and len(actual) > 5


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
@pytest.mark.some(1)
def test_each_damaged_file_is_refused_by_name(tmp_path, damage):
    save_steps(tmp_path, 5, 10)
    files = [p for p in (tmp_path / "10").rglob("*") if p.is_file()] + [tmp_path / "10.sha256"]
    like = make_state(0)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for path in files:
            intact = path.read_bytes()
            damage(path)
            restored = checkpoints.restore(like)
            path.write_bytes(intact)
            assert restored.step == 5 and restored.info == {"position": 5}, path
            assert_same_bits(restored.tree, make_state(5))
            (line,) = restored.refused
            assert line.startswith("step 10: ")
            # A byte of the list itself may have been part of a file's name or sum.
            name = "10" if path.suffix == ".sha256" else str(path.relative_to(tmp_path))
            assert name in line
        assert checkpoints.restore(like).step == 10


def test_missing_sums_or_folder_and_extra_file_are_refused(tmp_path):
    save_steps(tmp_path, 5, 10)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        (tmp_path / "10/state/extra").write_text("")
        assert "10/state/extra: not in 10.sha256" in checkpoints.restore(make_state(0)).refused[0]
        (tmp_path / "10/state/extra").unlink()
        (tmp_path / "10.sha256").rename(tmp_path / "kept")
        assert "10.sha256: missing" in checkpoints.restore(make_state(0)).refused[0]
        assert checkpoints.steps() == [5]
        (tmp_path / "kept").rename(tmp_path / "10.sha256")
        shutil.rmtree(tmp_path / "10")
        assert "10: the folder is missing" in checkpoints.restore(make_state(0)).refused[0]
        assert checkpoints.steps() == [5]


def test_what_a_kill_leaves_is_ignored_and_cleared(tmp_path):
    save_steps(tmp_path, 5, 10, 15)
    # Killed after the sums of 15 and before its name; while 10 was deleted; while orbax wrote 20.
    (tmp_path / "15").rename(tmp_path / "15.incomplete")
    (tmp_path / "10").rename(tmp_path / "10.incomplete")
    (tmp_path / "20.incomplete.orbax-checkpoint-tmp/state").mkdir(parents=True)
    (tmp_path / "20.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "25.incomplete").mkdir()
    (tmp_path / "25.sha256.tmp").write_text("half")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [5]
        restored = checkpoints.restore(make_state(0))
        assert (restored.step, restored.refused) == (5, ())
        checkpoints.save(15, make_state(15), {})
        checkpoints.wait()
        assert checkpoints.restore(make_state(0)).step == 15
    left = ["15", "15.sha256", "20.orbax-checkpoint-tmp", "5", "5.sha256"]
    assert names(tmp_path) == left


def test_no_step_is_none_and_no_good_step_is_an_error(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(make_state(0)) is None
    save_steps(tmp_path, 5, 10)
    (tmp_path / "5.sha256").unlink()
    flip(tmp_path / "10/state/_METADATA")
    before = listing(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(2):  # a second try must not find an empty directory
            with pytest.raises(CheckpointError) as caught:
                checkpoints.restore(make_state(0))
            for part in ("step 10: 10/state/_METADATA", "step 5: 5.sha256", "intact copy"):
                assert part in str(caught.value)
    assert listing(tmp_path) == before


def test_refused_step_can_be_saved_again(tmp_path):
    save_steps(tmp_path, 5, 10)
    for number in (1, 2):
        with Checkpoints(tmp_path) as checkpoints:
            flip(tmp_path / "10/state/_METADATA")
            damaged = (tmp_path / "10/state/_METADATA").read_bytes()
            restored = checkpoints.restore(make_state(0))
            assert restored.step == 5
            assert f"(moved to 10.damaged-{number})" in restored.refused[0]
            assert checkpoints.steps() == [5]
            checkpoints.save(10, make_state(100 + number), {})
            again = checkpoints.restore(make_state(0))
            assert (again.step, again.refused) == (10, ())
            assert_same_bits(again.tree, make_state(100 + number))
        kept = tmp_path / f"10.damaged-{number}"
        assert (kept / "state/_METADATA").read_bytes() == damaged
        assert kept.with_name(kept.name + ".sha256").is_file()


def test_one_step_can_be_asked_for(tmp_path):
    save_steps(tmp_path, 5, 10, 15)
    flip(tmp_path / "10/info/metadata")
    before = listing(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore(make_state(0), step=5).tree, make_state(5))
        with pytest.raises(CheckpointError, match="step 10: 10/info/metadata"):
            checkpoints.restore(make_state(0), step=10)
        with pytest.raises(CheckpointError, match=r"no step 7 .* \[5, 10, 15\]"):
            checkpoints.restore(make_state(0), step=7)
        with pytest.raises(CheckpointError, match="step 15 is already in"):
            checkpoints.save(15, make_state(15), {})
    assert listing(tmp_path) == before


def test_old_steps_go_after_a_newer_one_is_complete(tmp_path, monkeypatch):
    save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["3", "3.sha256", "4", "4.sha256"]
    with Checkpoints(tmp_path, keep=1) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(manifest, "write_sums", lambda *_: 1 / 0)
        checkpoints.save(5, make_state(5), {})
        with pytest.raises(CheckpointError, match=r"step 5 .* ZeroDivisionError"):
            checkpoints.wait()
        assert checkpoints.steps() == [3, 4]
    save_steps(tmp_path, 2, keep=1)  # older than those there: it is not deleted itself
    assert names(tmp_path) == ["2", "2.sha256", "3", "3.sha256", "4", "4.sha256"]
    save_steps(tmp_path, 5, keep=1)
    assert names(tmp_path) == ["5", "5.sha256"]
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_failed_save_is_reported_by_the_next_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "write_sums", full)
            checkpoints.save(2, make_state(2), {})
            with pytest.raises(CheckpointError, match=r"step 2 .*No space left"):
                checkpoints.save(3, make_state(3), {})
        assert checkpoints.steps() == [1]
        checkpoints.save(2, make_state(2), {})  # said once, and the step is free again
        assert checkpoints.restore(make_state(0)).step == 2


def test_disk_that_takes_no_more_fails_in_the_background(tmp_path):
    state = Point(jnp.asarray(np.random.default_rng(0).normal(size=300_000), jnp.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
            checkpoints.save(2, state, {})
            with pytest.raises(CheckpointError, match=r"saving step 2 in .* failed"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.restore(state).step == 1
        checkpoints.save(2, state, {})
        assert_same_bits(checkpoints.restore(state).tree, state)


def test_error_at_exit_does_not_hide_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "write_sums", lambda *_: 1 / 0)
    with pytest.raises(CheckpointError, match="step 1 "), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
    with pytest.raises(KeyError) as caught, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, make_state(2), {})
        raise KeyError("loop")
    assert "saving step 2" in caught.value.__notes__[0]


def test_info_that_is_no_json_is_refused_at_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(1, make_state(1), {"array": jnp.zeros(2)})
        with pytest.raises(ValueError):
            checkpoints.save(1, make_state(1), {"loss": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("leaf", [object(), jnp.zeros((0, 4))])
def test_tree_that_orbax_refuses(tmp_path, leaf):
    before = set(threading.enumerate())
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"saving step 1 .*leaf"):
            checkpoints.save(1, {"leaf": leaf}, {})
        checkpoints.save(1, make_state(1), {})
        assert checkpoints.restore(make_state(0)).step == 1
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # one that waits for what never comes would keep the process alive
        assert not thread.is_alive(), thread


def test_another_model_is_named_leaf_by_leaf(tmp_path):
    save_steps(tmp_path, 5)
    state = make_state(0)
    wrong = state.replace(
        params=state.params | {"kernel": jnp.zeros((3, 13)), "half": jnp.zeros((7,))},
        model_state={},
    )
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as caught:
        checkpoints.restore(wrong)
    text = str(caught.value)
    assert 'params/kernel: saved "float32[3, 12]", now "float32[3, 13]"' in text
    assert 'params/half: saved "bfloat16[7]", now "float32[7]"' in text
    assert 'model_state/flags: saved "bool[9]", now absent' in text
    assert "opt_state" not in text
    assert names(tmp_path) == ["5", "5.sha256"]  # another model is no damage


def test_read_only_changes_nothing(tmp_path):
    save_steps(tmp_path, 5, 10)
    flip(tmp_path / "10/state/_METADATA")
    (tmp_path / "12.incomplete").mkdir()
    paths = [tmp_path, *tmp_path.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    before = listing(tmp_path)
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore(make_state(0))
        with pytest.raises(CheckpointError, match="read only"):
            checkpoints.save(20, make_state(20), {})
    for path in paths:
        path.chmod(modes[path])
    assert restored.step == 5
    assert restored.refused[0].startswith("step 10: 10/state/_METADATA")
    assert "moved" not in restored.refused[0]
    assert listing(tmp_path) == before
    with Checkpoints(tmp_path / "absent", read_only=True) as checkpoints:
        assert checkpoints.restore(make_state(0)) is None and checkpoints.steps() == []
    assert not (tmp_path / "absent").exists()


def test_orbax_does_not_log(tmp_path, caplog):
    with caplog.at_level("DEBUG", logger="absl"):
        save_steps(tmp_path, 1)
        absl.logging.info("of the application")
    assert [record.message for record in caplog.records] == ["of the application"]


FINGERPRINT = {"seed": 3, "batch_size": 32, "digest": "ab12", "splits": [0.9, 0.1]}


@pytest.mark.parametrize("key, value", [("seed", 4), ("batch_size", 64), ("digest", "cd34")])
def test_changed_data_are_refused(key, value):
    refuse_changed_data(FINGERPRINT, FINGERPRINT | {"splits": (0.9, 0.1)})
    with pytest.raises(CheckpointError) as caught:
        refuse_changed_data(FINGERPRINT, FINGERPRINT | {key: value})
    text = str(caught.value)
    assert "\n" not in text
    for part in (key, str(FINGERPRINT[key]), str(value), "new run in another directory"):
        assert part in text
    for other in FINGERPRINT.keys() - {key}:
        assert other not in text
    with pytest.raises(CheckpointError, match=f"{key}: saved .*, now absent"):
        refuse_changed_data(FINGERPRINT, {k: v for k, v in FINGERPRINT.items() if k != key})


SAVE_FOREVER = """
import itertools, sys
import jax.numpy as jnp
from lnjax.training.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep=2) as checkpoints:
    jnp.full((200_000,), 1.0).block_until_ready()
    print("up", flush=True)
    for step in itertools.count(1):
        checkpoints.save(step, {"w": jnp.full((200_000,), float(step))}, {"step": step})
"""


def run_python(code, *arguments, flags="", **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
        **kwargs,
    )


@pytest.mark.parametrize("times", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path, times):
    # A third is killed in the first saves, when there may be no step at all.
    early = times // 3
    delays = [random.uniform(0, 0.3) for _ in range(early)]
    delays += [random.uniform(1, 2) for _ in range(times - early)]
    children = [run_python(SAVE_FOREVER, tmp_path / str(i)) for i in range(len(delays))]
    deadlines = []
    for child, delay in zip(children, delays, strict=True):
        assert child.stdout.readline() == "up\n"
        deadlines.append(time.monotonic() + delay)
    for child, deadline in zip(children, deadlines, strict=True):
        time.sleep(max(0.0, deadline - time.monotonic()))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
    like = {"w": jnp.zeros((200_000,))}
    found = []
    for i in range(len(children)):
        with Checkpoints(tmp_path / str(i), keep=2) as checkpoints:
            restored = checkpoints.restore(like)
            step = restored.step if restored else 0
            assert step == (checkpoints.steps() or [0])[-1]
            if restored:
                assert restored.refused == () and restored.info == {"step": step}
                assert (np.asarray(restored.tree["w"]) == step).all()
            checkpoints.save(step + 1, {"w": jnp.full((200_000,), step + 1.0)}, {})
            assert (np.asarray(checkpoints.restore(like).tree["w"]) == step + 1).all()
        kept = [step, step + 1] if step else [1]
        assert names(tmp_path / str(i)) == sorted(
            f"{s}{end}" for s in kept for end in ("", ".sha256")
        )
        found.append(step)
    assert sum(step > 1 for step in found) >= times // 3, (found, delays)


RESTORE_ON_TWO = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from lnjax.training.checkpoint import Checkpoints
mesh = jax.make_mesh((2,), ("data",))
cut, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
like = {
    "cut": jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=cut),
    "whole": jax.ShapeDtypeStruct((5,), jnp.float32, sharding=whole),
}
with Checkpoints(sys.argv[1], read_only=True) as checkpoints:
    tree = checkpoints.restore(like).tree
assert tree["cut"].sharding == cut and tree["whole"].sharding == whole
tree = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(tree)
np.testing.assert_array_equal(tree["cut"], np.arange(24.0).reshape(6, 4) + 1)
np.testing.assert_array_equal(tree["whole"], np.arange(5.0) + 1)
print("restored")
"""


def test_restored_on_another_number_of_devices(tmp_path):
    tree = {"cut": jnp.arange(24.0).reshape(6, 4), "whole": jnp.arange(5.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {})
    flags = "--xla_force_host_platform_device_count=2"
    with run_python(RESTORE_ON_TWO, tmp_path, flags=flags) as child:
        assert child.communicate()[0] == "restored\n"

"""Handwriting in segments (`bptt`): values, gradients, what is carried, what is not, resuming."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import common
from configs import handwriting as config_file
from lnjax.data.segments import Segment
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import TrainState, init_state
from lnjax.training.step import eval_step, run_shapes, train_step
from tasks import handwriting
from tasks.handwriting import mixture
from tests import runs
from tests.runs import caches  # noqa: F401
from tests.tasks import small
from tests.trees import assert_close, assert_equal

N = 4  # points of a segment
SPEC = small.SPECS["handwriting"]
TWO_LAYERS = small.make_task("handwriting")
WHOLE = dataclasses.replace(TWO_LAYERS, num_layers=1)  # half the time to compile
TASK = dataclasses.replace(WHOLE, bptt=N)
LENGTHS = (9, 12, 11, 5, 14, 3)
TEXTS = ("abc", "fed", "a", "cafe", "bad", "be")
T, U = 16, 4
RNG = jax.random.key(0)


@pytest.fixture(scope="module")
def lines():
    rng = np.random.default_rng(0)
    strokes = [rng.normal(size=(length, 3)).astype(np.float32) for length in LENGTHS]
    for line in strokes:
        line[:, 2] = line[:, 2] > 0.5
    return [dict(strokes=line, text=text) for line, text in zip(strokes, TEXTS, strict=True)]


@pytest.fixture(scope="module")
def both_layers():
    return small.variables("handwriting", noise=0.1)[0]


@pytest.fixture(scope="module")
def params(both_layers):
    readout = both_layers["readout"]
    first = {**readout, "kernel": readout["kernel"][: WHOLE.features]}
    return {"first": both_layers["first"], "readout": first}


def segment(lines, rows, first, length=N):
    """The segment of each of some lines that begins at its point `first`."""
    cut = [Segment(row, first, min(first + length, LENGTHS[row])) for row in rows]
    examples = [lines[row] for row in rows]
    return handwriting.collate_segments(examples, cut, SPEC, length=length, max_letters=U)


def whole(lines, rows, max_points=T):
    examples = [lines[row] for row in rows]
    return handwriting.collate_lines(examples, SPEC, max_points=max_points, max_letters=U)


@partial(jax.jit, static_argnames=("task",))
def nats(task, params, model_state, batch):
    """(sum of nats, aux) and the gradient of that sum."""

    def total(params):
        loss, aux = task.loss(params, model_state, batch, {}, train=True)
        return loss * aux.sums["loss"][1], aux

    return jax.value_and_grad(total, has_aux=True)(params)


def garbage(rows=3, task=TASK):
    return {"carry": jax.tree.map(lambda leaf: leaf + 5.0, task.network.initial_carry(rows))}


def in_segments(task, lines, params, rows, model_state):
    """Nats and gradient of three segments of lines of 9 to 12 points, added."""
    added = 0.0, jax.tree.map(jnp.zeros_like, params)
    for first in range(0, 12, N):
        batch = segment(lines, rows, first)
        (value, aux), gradient = nats(task, params, model_state, batch)
        added = jax.tree.map(jnp.add, added, (value, gradient))
        model_state = aux.model_state
    return added


def oracle(task, params, batch):
    """The whole line point by point, where no gradient passes before every N-th point."""
    network, xs = task.network, jnp.swapaxes(batch["strokes"], 0, 1)
    mask = jnp.swapaxes(batch["mask"], 0, 1)
    previous = jnp.pad(xs[:-1], ((1, 0), (0, 0), (0, 0)))

    def point(carry, inputs):
        t, x, real = inputs
        carry = jax.tree.map(
            lambda leaf: jnp.where(t % N == 0, jax.lax.stop_gradient(leaf), leaf), carry
        )
        carry, out = network.apply(
            {"params": params}, carry, x[None], batch["text"], batch["text_mask"], real[None]
        )
        return carry, out.mixture[0]

    start = network.initial_carry(xs.shape[1])
    _, outputs = jax.lax.scan(point, start, (jnp.arange(len(xs)), previous, mask))
    density = mixture.from_outputs(outputs, task.sigma_floor)
    return -jnp.sum(jnp.where(mask, mixture.log_density(density, xs[..., :2], xs[..., 2]), 0))


def check_segments(task, lines, params):
    rows, task = (0, 1, 2), dataclasses.replace(task, bptt=0)
    in_parts = dataclasses.replace(task, bptt=N)
    value, gradient = in_segments(in_parts, lines, params, rows, garbage(task=task))
    batch = whole(lines, rows)
    (plain, aux), uncut = nats(task, params, {}, batch)
    assert float(value) == pytest.approx(float(plain), rel=1e-6) and aux.model_state == {}
    expected, cut = jax.jit(jax.value_and_grad(partial(oracle, task)))(params, batch)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(cut))
    assert_close(*(jax.tree.map(lambda g: g / size, tree) for tree in (gradient, cut)), 1e-5)
    # And that is another gradient than that of the whole line.
    pairs = zip(jax.tree.leaves(uncut), jax.tree.leaves(cut), strict=True)
    assert max(float(jnp.abs(a - b).max()) for a, b in pairs) > 1e-3 * size


def test_segments_are_the_whole_line_with_gradients_cut(lines, params):
    check_segments(TASK, lines, params)


@pytest.mark.slow
def test_segments_of_two_layers(lines, both_layers):
    check_segments(TWO_LAYERS, lines, both_layers)


@pytest.mark.slow
@pytest.mark.parametrize("bptt", [0, N])
def test_chunks_change_nothing(lines, both_layers, bptt):
    """`chunk` is what is stored: values, gradients and the state that is carried are the same."""
    task = dataclasses.replace(TWO_LAYERS, bptt=bptt)
    batch = segment(lines, (0, 1, 2), N) if bptt else whole(lines, (0, 1, 2))
    state = garbage(task=task) if bptt else {}
    got, want = (
        nats(dataclasses.replace(task, chunk=chunk), both_layers, state, batch) for chunk in (3, 0)
    )
    size = float(optax.tree.norm(want[1]))
    assert_close(got[0], want[0], 1e-5)
    assert_close(*(jax.tree.map(lambda g: g / size, tree) for tree in (got[1], want[1])), 1e-5)


def test_a_segment_as_long_as_the_lines_is_the_line(lines, params):
    """Whatever state was carried: every line begins."""
    rows = (3, 5, 4)
    task = dataclasses.replace(TASK, bptt=T)
    got = nats(task, params, garbage(), segment(lines, rows, 0, T))
    want = nats(WHOLE, params, {}, whole(lines, rows))
    assert_equal((got[0][0], got[0][1].sums, got[1]), (want[0][0], want[0][1].sums, want[1]))


def test_no_row_sees_another_and_no_line_the_one_before(lines, params):
    model_state = {"carry": jax.tree.map(lambda leaf: leaf + 0.1, TASK.network.initial_carry(3))}
    batch = segment(lines, (0, 1, 2), N)
    batch["start"] = np.array([False, True, False])
    (_, aux), _ = nats(TASK, params, model_state, batch)

    def changed(row):
        other = jax.tree.map(lambda leaf: leaf.at[row].add(1.0), model_state)
        (_, aux), _ = nats(TASK, params, other, batch)
        return aux.model_state["carry"]

    def differs(got, row):
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(aux.model_state["carry"]), strict=True)
        return any(bool(jnp.any(a[row] != b[row])) for a, b in pairs)

    assert [differs(changed(0), row) for row in range(3)] == [True, False, False]
    assert [differs(changed(1), row) for row in range(3)] == [False] * 3  # it starts anew


def test_lines_are_counted_where_they_begin(lines, params):
    batch = segment(lines, (0, 1, 2), N)
    (_, aux), _ = nats(TASK, params, garbage(), batch)
    assert aux.sums["nats_per_sequence"][1] == 0 and aux.sums["loss"][1] == 12
    (_, aux), _ = nats(TASK, params, garbage(), segment(lines, (0, 1, 2), 0))
    assert aux.sums["nats_per_sequence"][1] == 3


def test_evaluation_reads_whole_lines_and_carries_nothing(lines, params):
    batch = whole(lines, (0, 1))
    batch |= {f"other_{key}": batch[key] for key in ("text", "text_mask")}
    state = TrainState(jnp.zeros((), jnp.int32), params, garbage(), ())
    got = eval_step(state, batch, RNG, task=TASK)
    want = eval_step(state.replace(model_state={}), batch, RNG, task=WHOLE)
    assert_equal(got, want)


# ---- in the train step -----------------------------------------------------------------------


def make_batches(lines, **changes):
    config = ConfigDict({"bptt": N, "seed": 0, "batch_size": 3, **changes})
    return handwriting.segment_batches(lines, SPEC, config, max_points=T, max_letters=U)


def make_tx(**changes):
    config = common.get_config()
    config.update({"num_steps": 12, **changes})
    return make_optimizer(config)


SKIP = make_tx(nonfinite="skip")


def start(batch):
    return init_state(RNG, batch, task=TASK, tx=SKIP)


def advance(state, batches, number):
    for _ in range(number):
        state, sums = train_step(state, next(batches), RNG, task=TASK, tx=SKIP)
    return state, sums


def test_a_run_goes_on_within_a_line_bit_by_bit(lines):
    batches = make_batches(lines)
    state = start(next(make_batches(lines)))
    assert_equal(state.model_state, {"carry": TASK.network.initial_carry(3)})
    shapes = run_shapes(next(make_batches(lines)), task=TASK, tx=SKIP)["state"].model_state
    half, _ = advance(state, batches, 4)
    assert jax.tree.map(jnp.shape, half.model_state) == jax.tree.map(jnp.shape, shapes)
    saved, position = jax.tree.map(np.array, half), batches.get_state()
    coming = next(batches)
    assert not coming["start"].all() and coming["mask"].any(axis=1).all()  # within lines
    batches.set_state(position)
    want, want_sums = advance(half, batches, 5)
    again = make_batches(lines)
    again.set_state(position)
    got, got_sums = advance(jax.device_put(saved), again, 5)
    assert_equal((got, got_sums), (want, want_sums))
    # The carry is part of it: without, the same batches give something else.
    again.set_state(position)
    lost = saved.replace(model_state=jax.tree.map(np.zeros_like, saved.model_state))
    other, _ = advance(jax.device_put(lost), again, 5)
    assert not np.array_equal(other.params["readout"]["bias"], want.params["readout"]["bias"])


def test_a_broken_line_ends_with_itself(lines):
    """With nonfinite=skip: updates are left out, and the row is whole when its next line begins."""
    broken = [dict(line) for line in lines]
    broken[1]["strokes"] = broken[1]["strokes"].copy()
    broken[1]["strokes"][2] = np.nan
    batches, finite = make_batches(broken), []
    state = start(next(make_batches(lines)))
    for _ in range(20):
        state, sums = train_step(state, next(batches), RNG, task=TASK, tx=SKIP)
        finite.append(bool(jnp.isfinite(sums["loss"][0])))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.model_state))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))
    assert 0 < finite.count(False) < 10


# ---- config and data -------------------------------------------------------------------------


def test_batches_of_a_config(lines, monkeypatch):
    from lnjax.data import preparation

    statistics = {name: SPEC[name] for name in ("offset_mean", "offset_std")}
    splits = {"train": lines, "validation": lines[:3]}
    prepared = preparation.Prepared("handwriting", "embedded", "1", "0", statistics, splits)
    monkeypatch.setattr(preparation, "prepare", lambda *_, **__: prepared)
    config = config_file.get_config("smoke")
    config.update({"bptt": N, "max_points": 0, "max_letters": 0, "batch_size": 2})
    data = handwriting.make_data(config)
    batch = next(data.train)
    shapes = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in batch.items()}
    assert shapes == {
        "strokes": ((2, N, 3), "float32"),
        "mask": ((2, N), "bool"),
        "text": ((2, 4), "int32"),
        "text_mask": ((2, 4), "bool"),
        "before": ((2, 3), "float32"),
        "start": ((2,), "bool"),
    }
    assert next(iter(data.evals["eval"]))["strokes"].shape[1] == max(LENGTHS)  # nothing is cut
    assert data.fingerprint["bptt"] == N
    config.bptt = 0
    whole = handwriting.make_data(config)
    assert "bptt" not in whole.fingerprint and "start" not in next(whole.train)
    config.update({"bptt": N, "max_points": 6})
    ends = [int(b["mask"].sum(axis=1).max()) for b in (next(data.train) for _ in range(4))]
    assert max(ends) == N
    cut = handwriting.make_data(config).train
    assert {int(next(cut)["mask"].sum(axis=1).min()) for _ in range(20)} <= {2, 3, 4, 1}


@pytest.mark.parametrize("key", ["bptt", "max_points", "max_letters"])
def test_negative_numbers_are_refused(key):
    config = config_file.get_config("smoke")
    config[key] = -1
    for make in (handwriting.make_data, partial(handwriting.make_task, spec=SPEC)):
        with pytest.raises(ValueError, match=f"{key}=-1 must be at least 0"):
            make(config)


@pytest.mark.slow
def test_a_resumed_process_ends_where_the_whole_run_does(tmp_path):
    """Segments of 20 of 48 points, checkpoints at 10 and 20: the resumed run starts in lines."""
    import shutil

    from lnjax.training import trained

    arguments = ["train.py", runs.SMOKE, "--config.bptt=20"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        done = runs.run([*arguments, f"--workdir={folder}"])
        assert done.returncode == 0, done.stderr
    shutil.rmtree(cut / "checkpoints" / "20")
    done = runs.run([*arguments, f"--workdir={cut}"])
    assert "going on from step 10" in done.stderr, done.stderr
    ends = [trained.load(folder, handwriting.make_task) for folder in (whole, cut)]
    assert "carry" in ends[0].state.model_state
    assert_equal(*(jax.tree.map(np.asarray, end.state) for end in ends))
    done = runs.run([*arguments, "--config.bptt=0", f"--workdir={cut}"])
    assert done.returncode == 2 and "bptt was 20 and is 0" in done.stderr

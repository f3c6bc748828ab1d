"""Laws of the tasks that classify images, over both of them and all their norms."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import optax
import pytest

import train
from lnjax.training import metrics
from lnjax.training.state import TrainState, init_state
from lnjax.training.step import eval_step, train_step
from tests import runs
from tests.tasks.classifiers import (
    CLASSES,
    NORMS,
    ORACLES,
    REAL,
    B,
    convnet_task,
    loss_and_gradients,
    make_batch,
    pi_mnist_task,
    random_variables,
    scores,
)
from tests.trees import assert_equal

TASKS = [make(norm) for make in (pi_mnist_task, convnet_task) for norm in NORMS]
every_task = pytest.mark.parametrize(
    "task", TASKS, ids=[f"{task.name}-{task.norm}" for task in TASKS]
)
layer_and_batch = pytest.mark.parametrize(
    "task",
    [task for task in TASKS if task.norm in ("layer", "batch")],
    ids=lambda task: f"{task.name}-{task.norm}",
)
RNG = jax.random.key(0)


@layer_and_batch
@pytest.mark.some(2)
def test_gradients_are_the_differences_of_the_oracle(task, rng, x64):
    task = dataclasses.replace(task, dtype="float64")
    params, state = random_variables(task, rng, np.float64)
    batch = make_batch(task, rng)
    _, gradients = loss_and_gradients(task, params, state, batch, True)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)

    def loss_at(step):
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        logits, _ = ORACLES[task.name](task, moved, state.get("batch_stats", {}), batch, True)
        return scores(logits, batch)[0] / REAL

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    products = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), gradients, direction)
    assert sum(jax.tree.leaves(products)) == pytest.approx(slope, rel=1e-6)
    assert abs(slope) > 1e-3


@every_task
@pytest.mark.some(4)
def test_the_loss_falls(task):
    """Labels that the brightness decides, as a net learns quickly; one train step for all norms."""
    rng = np.random.default_rng(1)
    batch = make_batch(task, rng, rows=24, real=20)
    bright = np.argsort(np.argsort(batch["image"].reshape(24, -1).mean(axis=1)))
    batch["label"] = (bright * CLASSES // 24).astype(np.int32)
    tx = optax.adam(2e-2)
    state = init_state(RNG, batch, task=task, tx=tx)
    tree = jax.tree.structure(state)
    losses = []
    for _ in range(60):
        state, sums = train_step(state, batch, RNG, task=task, tx=tx)
        assert sums["loss"][1] == 20
        losses.append(float(sums["loss"][0]) / 20)
    assert jax.tree.structure(state) == tree and state.step == 60
    assert (set(state.model_state) == {"batch_stats"}) == (task.norm == "batch")
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0] < 2


@pytest.mark.parametrize("make", [pi_mnist_task, convnet_task])
@pytest.mark.some(1)
def test_all_norms_start_from_the_same_kernels(make, rng):
    """compare.py compares the norms in pairs of one seed."""
    batch = make_batch(make(), rng)
    first, *others = (make(norm).init(RNG, batch)["params"] for norm in NORMS)
    for other in others:
        for name in first:
            assert_equal(first[name]["kernel"], other[name]["kernel"])


@every_task
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.some(7)
def test_what_stands_in_masked_rows_reaches_nothing(task, train, rng):
    params, state = random_variables(task, rng)
    batch = make_batch(task, rng)
    other = make_batch(task, rng)
    dirty = {name: np.concatenate([batch[name][:REAL], other[name][REAL:]]) for name in batch}
    dirty["label"][REAL:] = CLASSES + 90
    assert not np.array_equal(dirty["image"], batch["image"])
    got = loss_and_gradients(task, params, state, dirty, train)
    assert_equal(got, loss_and_gradients(task, params, state, batch, train))


@every_task
def test_evaluation_does_not_depend_on_how_rows_are_batched(task, rng):
    params, model_state = random_variables(task, rng)
    state = TrainState(np.int32(0), params, model_state, ())
    whole = make_batch(task, rng, real=B)
    at_once = eval_step(state, whole, RNG, task=task)
    total = None
    for rows in ([0, 1, 2], [3], [4, 5, 6]):  # in batches of B, padded
        piece = {name: np.zeros_like(leaf) for name, leaf in whole.items()}
        for name, leaf in whole.items():
            piece[name][: len(rows)] = leaf[rows]
        sums = eval_step(state, piece, RNG, task=task)
        total = sums if total is None else metrics.add(total, sums)
    for name in ("loss", "nll", "error"):
        np.testing.assert_allclose(total[name], at_once[name], rtol=1e-5)
    values = metrics.finalize(total, task, "eval")
    assert set(values) == {"eval/loss", "eval/nll", "eval/error"}
    assert at_once["error"][1] == B and values["eval/error"] == at_once["error"][0] / B


def test_a_batch_without_a_real_row_is_no_nan(rng):
    for task in (TASKS[0], TASKS[2]):
        params, state = random_variables(task, rng)
        batch = make_batch(task, rng, real=0)
        (loss, aux), gradients = loss_and_gradients(task, params, state, batch, True)
        assert loss == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
        assert_equal(dict(aux.model_state), state)


def test_half_precision_is_near(rng):
    for task in (TASKS[0], TASKS[5]):
        params, state = random_variables(task, rng)
        batch = make_batch(task, rng)
        half = dataclasses.replace(task, dtype="bfloat16")
        (got, _), gradients = loss_and_gradients(half, params, state, batch, True)
        (want, _), _ = loss_and_gradients(task, params, state, batch, True)
        assert got.dtype == np.float32 and got == pytest.approx(float(want), rel=0.05)
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(gradients))


# ---- configs that cannot be used -------------------------------------------------------------

REFUSALS = [
    ({"norm": "group"}, r"norm='group' is not known; {} has layer, rms, batch, weight, none"),
    ({"norm": ""}, "norm='' is not known"),
    ({"dtype": "float16"}, "dtype='float16' is not known.*'float32' and 'bfloat16'"),
    ({"features": 0}, "features=0 must be positive"),
    ({"num_layers": -1}, "num_layers=-1 must be positive"),
    ({"momentum": 1.0}, "momentum=1.0 must be at least 0 and below 1"),
    ({"momentum": -0.1}, "momentum=-0.1 must be"),
]


@pytest.mark.parametrize("name", ["pi_mnist", "convnet"])
@pytest.mark.parametrize(("changes", "message"), REFUSALS)
def test_refusals(name, changes, message):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.update(changes)
    with pytest.raises(ValueError, match=message.format(name)):
        importlib.import_module(f"tasks.{name}").make_task(config, {"num_classes": 10})


def test_a_kernel_has_a_size():
    config = importlib.import_module("configs.convnet").get_config("smoke")
    config.kernel_size = 0
    with pytest.raises(ValueError, match="kernel_size=0 must be positive"):
        importlib.import_module("tasks.convnet").make_task(config, {"num_classes": 10})


# ---- a whole run -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stops"), [("pi_mnist", [10, 20]), ("convnet", [20])])
@pytest.mark.some(1)
def test_a_run_of_the_loop(name, stops, tmp_path, tmp_path_factory, monkeypatch, capfd):
    """In one go, or going on with it half way: the running averages are in the checkpoint."""
    runs.share_caches(tmp_path_factory, monkeypatch)
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.norm = "batch"
    for config.num_steps in stops:
        assert train.train(train.set_up(config, tmp_path)) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "train/nll" in line]
    evaluated = [line for line in lines if "eval/nll" in line]
    assert [line["step"] for line in logged] == [5, 10, 15, 20]
    assert [line["step"] for line in evaluated] == stops
    assert logged[-1]["train/nll"] < logged[0]["train/nll"]
    for line in evaluated:
        assert line["test/nll"] > 0 and 0 < line["test/error"] < 1
        # 500 images each
        assert line["eval/error"] * 500 == pytest.approx(round(line["eval/error"] * 500))
    told = capfd.readouterr().err
    assert ("going on from step 10" in told) == (len(stops) == 2) and "norm batch" in told
    assert "digits/embedded: test/error of the class most frequent in training: 0.9" in told

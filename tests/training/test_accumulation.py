"""Accumulated gradients in the train step: the large batch, its masks, resuming, several a call."""

import chex
import jax
import numpy as np
import pytest

from configs import common
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import init_state
from lnjax.training.step import train_step, train_steps
from tests import runs
from tests.runs import caches  # noqa: F401
from tests.training.toy_tasks import Linear, Normalized, make_batch
from tests.trees import assert_equal

RNG = jax.random.key(0)
EVERY = 3


def make_tx(**changes):
    config = common.get_config()
    config.update({"num_steps": 12, "clip_norm": 0.05, "accumulate": EVERY, **changes})
    return make_optimizer(config)


TX, WHOLE = make_tx(), make_tx(accumulate=1)


def start(task, tx, rows=8):
    return init_state(RNG, make_batch(0, rows), task=task, tx=tx)


def advance(task, tx, state, batches):
    each = []
    for batch in batches:
        state, sums = train_step(state, batch, RNG, task=task, tx=tx)
        each.append(sums)
    return state, each


def together(batches):
    return jax.tree.map(lambda *rows: np.concatenate(rows), *batches)


def test_batches_give_the_update_of_one_large_batch():
    """Within 1e-5 of the parameters, over four updates under a clip that acts."""
    task, batches = Normalized("layer"), [make_batch(seed, 8) for seed in range(4 * EVERY)]
    got, each = advance(task, TX, start(task, TX), batches)
    large = [together(batches[i : i + EVERY]) for i in range(0, len(batches), EVERY)]
    want, at_once = advance(task, WHOLE, start(task, WHOLE), large)
    chex.assert_trees_all_close(got.params, want.params, rtol=1e-5, atol=1e-6)
    assert min(float(sums["grad_norm"][0]) for sums in at_once) > 0.05  # the clip acts
    # The metrics are those of all cases: here the parameters of the large batch are the same.
    for name in ("loss",):
        few = [sum(float(sums[name][k]) for sums in each[:EVERY]) for k in (0, 1)]
        np.testing.assert_allclose(few, [float(x) for x in at_once[0][name]], rtol=1e-5)
    # The step counts batches; between two updates nothing moves.
    assert got.step == 4 * EVERY and want.step == 4
    within, _ = advance(task, TX, start(task, TX), batches[: EVERY - 1])
    chex.assert_trees_all_equal(within.params, start(task, TX).params)


def test_each_batch_counts_the_same_whatever_its_mask():
    """A mean of means: what is documented, and what it is not."""
    task, tx = Linear(), make_tx(accumulate=2, clip_norm=0.0, num_steps=2)
    batches = [make_batch(1, 8, real=2), make_batch(2, 8, real=8)]
    got, _ = advance(task, tx, start(task, tx), batches)
    # From zeros, so the error is -y; m of Adam's first update is a tenth of the gradient.
    means = [
        -2 * b["y"][: b["mask"].sum()] @ b["x"][: b["mask"].sum()] / b["mask"].sum()
        for b in batches
    ]
    mu = [s for s in jax.tree.leaves(got.opt_state, is_leaf=lambda s: hasattr(s, "mu"))]
    (adam,) = [s for s in mu if hasattr(s, "mu")]
    np.testing.assert_allclose(adam.mu["w"], 0.1 * np.mean(means, axis=0), rtol=1e-4)
    pooled = np.average(means, axis=0, weights=[2, 8])
    assert not np.allclose(adam.mu["w"], 0.1 * pooled, rtol=0.05)


def test_several_steps_in_one_call_may_cut_an_update():
    """Four batches a call, three an update."""
    task, batches = Normalized("layer"), [make_batch(seed, 8) for seed in range(4 * EVERY)]
    want, _ = advance(task, TX, start(task, TX), batches)
    state = start(task, TX)
    for i in range(0, len(batches), 4):
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches[i : i + 4])
        state, _ = train_steps(state, stacked, RNG, task=task, tx=TX)
    chex.assert_trees_all_close(state, want, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_within_an_update_bit_by_bit():
    task, batches = Normalized("batch"), [make_batch(seed, 8) for seed in range(7)]
    whole, _ = advance(task, TX, start(task, TX), batches)
    for stop in (1, 2, 4):
        half, _ = advance(task, TX, start(task, TX), batches[:stop])
        saved = jax.device_put(jax.tree.map(np.array, half))
        resumed, _ = advance(task, TX, saved, batches[stop:])
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@pytest.mark.slow
def test_a_resumed_process_ends_where_the_whole_run_does(tmp_path):
    """Checkpoints at 5 and 10 of 12 batches, 4 an update: the resumed run starts within one."""
    keys = {"accumulate": 4, "num_steps": 12, "log_steps": 6, "eval_steps": 12}
    arguments = [
        "--config=configs/pi_mnist.py:smoke",
        *(f"--config.{key}={value}" for key, value in keys.items()),
        "--config.checkpoint_steps=5",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert runs.run(["train.py", *arguments, f"--workdir={whole}"]).returncode == 0
    done = runs.run(["train.py", *arguments, f"--workdir={cut}"])
    assert done.returncode == 0, done.stderr
    import shutil

    shutil.rmtree(cut / "checkpoints" / "12")
    done = runs.run(["train.py", *arguments, f"--workdir={cut}"])
    assert "going on from step 10" in done.stderr, done.stderr
    from lnjax.training import trained
    from tasks import pi_mnist

    ends = [trained.load(folder, pi_mnist.make_task, task="pi_mnist") for folder in (whole, cut)]
    assert_equal(*(jax.tree.map(np.asarray, end.state) for end in ends))

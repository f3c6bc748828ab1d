"""Seeds under one vmap: each is what it is alone, stopped or not, lost or not; and when not."""

from functools import partial

import jax
import numpy as np
import pytest

from configs import common
from lnjax.comparison import outcome, together
from lnjax.training import metrics
from lnjax.training.checkpoint import Checkpoints
from lnjax.training.evaluation import evaluate
from lnjax.training.mesh import make_mesh, place_batch
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import init_state
from lnjax.training.step import run_shapes, train_step
from tests.comparison.toy_module import Module
from tests.runs import rows
from tests.training.toy_tasks import Linear

SEEDS = (3, 4, 7)


def config_of(seed, **changes):
    config = common.get_config()
    config.update(task="toy", seed=seed, num_steps=12, batch_size=5, learning_rate=0.1)
    config.update(log_steps=4, eval_steps=6, checkpoint_steps=3)
    config.update(**changes)
    return config.lock()


def train(folder, module, seeds=SEEDS, *, stopping=lambda: False, free_memory=None, **changes):
    folders = [folder / f"seed-{seed}" for seed in seeds]
    done = together.train(
        [config_of(seed, **changes) for seed in seeds],
        folders,
        module,
        folder / "together",
        stopping=stopping,
        free_memory=free_memory,
    )
    return done, folders


def alone(seed, module):
    """The lines and the parameters of one run, by the parts that train.py is made of."""
    config = config_of(seed)
    data, task, tx = module.make_data(config), module.make_task(config, {}), make_optimizer(config)
    mesh, rng = make_mesh(1), jax.random.key(seed)
    state = init_state(rng, place_batch(data.train.at(0), mesh), task=task, tx=tx)
    sums, told = None, []
    for step in range(1, config.num_steps + 1):
        state, new = train_step(state, place_batch(next(data.train), mesh), rng, task=task, tx=tx)
        sums = new if sums is None else metrics.add(sums, new)
        if step % config.log_steps == 0:
            told.append({"step": step, **metrics.finalize(sums, task, "train")})
            sums = None
        if step % config.eval_steps == 0:
            found = evaluate(state, data.evals["eval"], rng, task=task, mesh=mesh, prefix="eval")
            told.append({"step": step, **found})
    return told, state


def assert_close(rows, expected):
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_each_seed_is_what_it_is_alone(tmp_path, steps_per_call):
    module = Module()
    changes = {"checkpoint_steps": 4} if steps_per_call == 2 else {}
    done, folders = train(tmp_path, module, steps_per_call=steps_per_call, **changes)
    assert done
    for seed, folder in zip(SEEDS, folders, strict=True):
        told, state = alone(seed, module)
        assert_close(rows(folder), told)
        assert outcome.read(folder) == outcome.Outcome("done", 12, 3)
        config = config_of(seed)
        task, tx = module.make_task(config, {}), make_optimizer(config)
        shapes = run_shapes(module.make_data(config).train.at(0), task=task, tx=tx)
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            restored = checkpoints.restore(shapes)
        assert restored.step == 12 and restored.info["position"] == {"next_index": 12}
        close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, restored.tree["state"], state)


@pytest.mark.parametrize("stop", [1, 3, 4, 11])
@pytest.mark.some(2)
def test_stopped_and_gone_on_with_it_is_the_same(tmp_path, stop):
    _, whole = train(tmp_path / "whole", Module())
    calls = iter(range(1, 100))
    done, folders = train(tmp_path, Module(), stopping=lambda: next(calls) == stop)
    assert not done and all(outcome.read(folder) is None for folder in folders)
    done, _ = train(tmp_path, Module())
    assert done
    for one, other in zip(folders, whole, strict=True):
        assert rows(one) == rows(other)


def test_a_seed_that_is_lost_takes_no_other_with_it(tmp_path):
    _, whole = train(tmp_path / "whole", Module())
    done, folders = train(tmp_path, Module(broken={4: 5}))
    assert done
    found = [outcome.read(folder) for folder in folders]
    # seen at the next checkpoint
    assert [(each.status, each.step) for each in found] == [
        ("done", 12),
        ("not finite", 6),
        ("done", 12),
    ]
    assert rows(folders[0]) == rows(whole[0]) and rows(folders[2]) == rows(whole[2])
    assert rows(folders[1]) == rows(whole[1])[:1]
    assert not (folders[1] / "checkpoints").exists()


def test_a_lost_seed_stays_lost_when_gone_on_with(tmp_path):
    calls = iter(range(1, 100))
    module = Module(broken={4: 2})
    train(tmp_path, module, stopping=lambda: next(calls) == 8)
    done, folders = train(tmp_path, module)
    assert done and outcome.read(folders[1]).status == "not finite"
    assert outcome.read(folders[0]).status == "done"


def test_all_are_lost(tmp_path):
    done, folders = train(tmp_path, Module(broken={3: 0, 4: 1}), seeds=(3, 4))
    assert done and {outcome.read(folder).status for folder in folders} == {"not finite"}


def test_batches_of_different_shapes_are_apart(tmp_path):
    with pytest.raises(together.Apart, match="different shapes"):
        train(tmp_path, Module(lengths=(0, 1)))
    # at first of one shape
    with pytest.raises(together.Apart, match="different shapes"):
        train(tmp_path, Module(lengths=(0, 0, 0, 0, 0, 1)), seeds=(0, 1))


def test_a_step_that_does_not_fit_is_apart(tmp_path):
    with pytest.raises(together.Apart, match=r"a step of 3 seeds takes .* MiB that are free"):
        train(tmp_path, Module(), free_memory=1000)
    assert not list(tmp_path.iterdir())


def test_models_that_differ_are_apart(tmp_path):
    module = Module()
    module.make_task = lambda config, spec: Linear(("noise",), float(config.seed))
    with pytest.raises(together.Apart, match="different models"):
        train(tmp_path, module)


def test_a_damaged_outcome_is_told(tmp_path):
    (tmp_path / "outcome.json").write_text('{"status": "done"')
    with pytest.raises(ValueError, match=r"outcome\.json is damaged .*; delete it"):
        outcome.read(tmp_path)

"""Several devices: the same curve as on one, and what cannot be shared is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lnjax.training.mesh import check_batch_size, make_mesh, place_batch, place_state

ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys
import jax, numpy as np, optax
sys.path.insert(0, sys.argv[1])  # not `tests.training`: other packages are called `tests` too
from toy_tasks import Normalized, make_batch
from lnjax.training.evaluation import evaluate
from lnjax.training.mesh import make_mesh, place_batch, place_state
from lnjax.training.state import init_state
from lnjax.training.step import train_step, train_steps

rng = jax.random.key(0)
tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
batches = [make_batch(seed, rows=16, real=11) for seed in range(24)]
told = {"devices": len(jax.devices())}
for norm in ("layer", "batch"):
    task = Normalized(norm)
    for count in (1, 8):
        mesh = make_mesh(count)
        state = place_state(init_state(rng, batches[0], task=task, tx=tx), mesh)
        before, losses = train_step._cache_size(), []
        for batch in batches[:20]:
            placed = place_batch(batch, mesh)
            assert len(placed["x"].sharding.device_set) == count
            assert placed["x"].addressable_shards[0].data.shape == (16 // count, 3)
            state, sums = train_step(state, placed, rng, task=task, tx=tx)
            losses.append([float(leaf) for leaf in sums["loss"]])
        compilations = train_step._cache_size() - before
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches[20:])
        placed = place_batch(stacked, mesh, stacked=True)
        assert placed["x"].addressable_shards[0].data.shape == (4, 16 // count, 3)
        state, sums = train_steps(state, placed, rng, task=task, tx=tx)
        losses.append([float(leaf) for leaf in sums["loss"]])
        assert all(len(leaf.sharding.device_set) == count for leaf in jax.tree.leaves(state))
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
        told[f"{norm}-{count}"] = {
            "losses": losses,
            "compilations": compilations,
            "eval": evaluate(state, batches[:3], rng, task=task, mesh=mesh, prefix="eval"),
        }
print(json.dumps(told))
"""


def test_eight_devices_give_the_curve_of_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["devices"] == 8
    for norm in ("layer", "batch"):
        one, eight = told[f"{norm}-1"], told[f"{norm}-8"]
        # Sums over the devices are added in another order; 24 steps of Adam carry that on.
        np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-4)
        assert [count for _, count in one["losses"]] == [11.0] * 20 + [44.0]
        assert np.mean(one["losses"][15:20]) < 0.9 * np.mean(one["losses"][:5])
        assert eight["eval"] == pytest.approx(one["eval"], rel=1e-4)
        assert one["compilations"] == eight["compilations"] == 1


def test_batches_are_cut_and_states_are_whole():
    mesh = make_mesh(1)
    assert mesh.axis_names == ("data",) and mesh.size == 1
    batch = place_batch({"x": np.zeros((4, 3)), "mask": np.ones(4, bool)}, mesh)
    assert batch["x"].sharding.spec == PartitionSpec("data")
    stacked = place_batch({"x": np.zeros((2, 4, 3))}, mesh, stacked=True)
    assert stacked["x"].sharding.spec == PartitionSpec(None, "data")
    state = place_state({"params": np.zeros(3)}, mesh)
    assert state["params"].sharding.is_fully_replicated


@pytest.mark.parametrize("count", [0, -1, len(jax.devices()) + 1])
def test_more_devices_than_there_are(count):
    number = len(jax.devices())
    with pytest.raises(ValueError, match=rf"mesh\.data={count}.* {number} device.*from 1 to"):
        make_mesh(count)


def test_a_batch_that_cannot_be_shared():
    class Three:
        size = 3

    check_batch_size("batch_size", 12, Three)
    with pytest.raises(ValueError, match=r"batch_size=16 is not a multiple of mesh\.data=3"):
        check_batch_size("batch_size", 16, Three)

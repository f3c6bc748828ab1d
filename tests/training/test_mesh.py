"""Several devices: the same curve as on one, each holding its part; what cannot be is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from lnjax.training.mesh import (
    check_batch_size,
    make_mesh,
    on_host,
    own_rows,
    parse_rule,
    place_batch,
    place_state,
    state_shardings,
)
from lnjax.training.state import TrainState

ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys
import jax, numpy as np, optax
sys.path.insert(0, sys.argv[1])  # not `tests.training`: other packages are called `tests` too
from toy_tasks import Normalized, make_batch
from lnjax.training.checkpoint import Checkpoints
from lnjax.training.evaluation import evaluate
from lnjax.training.mesh import make_mesh, make_state, on_host, place_batch, plan_state
from lnjax.training.step import train_step, train_steps

rng = jax.random.key(0)
tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
batches = [make_batch(seed, rows=16, real=11) for seed in range(24)]
told = {"devices": len(jax.devices())}
RULE = "Dense_0/kernel:1,Dense_1/*l:0,LayerNorm_0/*:0"


def shards(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): sorted(
            {part.data.shape for part in leaf.addressable_shards}
        )
        for path, leaf in leaves
    }


def make(task, data, model, rule):
    mesh = make_mesh(data, model)
    plan = plan_state(batches[0], task=task, tx=tx, mesh=mesh, rule=rule)
    batch = place_batch(batches[0], mesh)
    return mesh, plan, make_state(rng, batch, task=task, tx=tx, plan=plan)


for norm, data, model, rule in (
    ("layer", 1, 1, ""), ("layer", 8, 1, ""), ("layer", 2, 4, RULE), ("batch", 1, 1, ""),
    ("batch", 8, 1, ""),
):
    task = Normalized(norm)
    mesh, plan, state = make(task, data, model, rule)
    started = shards(state)
    before, losses = train_step._cache_size(), []
    for batch in batches[:20]:
        placed = place_batch(batch, mesh)
        assert len(placed["x"].sharding.device_set) == data * model
        assert placed["x"].addressable_shards[0].data.shape == (16 // data, 3)
        state, sums = train_step(state, placed, rng, task=task, tx=tx)
        losses.append([float(leaf) for leaf in sums["loss"]])
    compilations = train_step._cache_size() - before
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches[20:])
    placed = place_batch(stacked, mesh, stacked=True)
    assert placed["x"].addressable_shards[0].data.shape == (4, 16 // data, 3)
    state, sums = train_steps(state, placed, rng, task=task, tx=tx)
    losses.append([float(leaf) for leaf in sums["loss"]])
    assert all(len(leaf.sharding.device_set) == data * model for leaf in jax.tree.leaves(state))
    assert shards(state) == started
    told[f"{norm}-{data}-{model}"] = {
        "losses": losses,
        "compilations": compilations,
        "eval": evaluate(state, batches[:3], rng, task=task, mesh=mesh, prefix="eval"),
        "shards": started,
    }
    if norm == "layer" and data == 2:
        # The same checkpoint on other meshes: bit by bit, and where that mesh wants it.
        with Checkpoints(sys.argv[2]) as checkpoints:
            checkpoints.save(24, state, {})
            for data, model, rule in ((1, 1, ""), (8, 1, ""), (2, 2, RULE), (2, 4, RULE)):
                other, plan, like = make(task, data, model, rule)
                back = checkpoints.restore(like).tree
                for one, two in zip(*map(jax.tree.leaves, (on_host(state), back)), strict=True):
                    assert one.tobytes() == np.asarray(two).tobytes()
                assert shards(back) == shards(like)
                if model == 4:
                    before = train_step._cache_size()
                    train_step(back, place_batch(batches[0], other), rng, task=task, tx=tx)
                    assert train_step._cache_size() == before
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    folder = tmp_path_factory.mktemp("checkpoints")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["layer-8-1", "layer-2-4", "batch-8-1"])
@pytest.mark.some(2)
def test_eight_devices_give_the_curve_of_one(told, name):
    assert told["devices"] == 8
    one, eight = told[name[:5] + "-1-1"], told[name]
    # Sums over the devices are added in another order; 24 steps of Adam carry that on.
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-4)
    assert [count for _, count in one["losses"]] == [11.0] * 20 + [44.0]
    assert np.mean(one["losses"][15:20]) < 0.9 * np.mean(one["losses"][:5])
    assert eight["eval"] == pytest.approx(one["eval"], rel=1e-4)
    assert one["compilations"] == eight["compilations"] == 1


def test_each_device_holds_its_part(told):
    whole, cut = told["layer-1-1"]["shards"], told["layer-2-4"]["shards"]
    parts = {  # of the rule in CHILD, over four devices
        "Dense_0/kernel": [[3, 2]],
        "Dense_1/kernel": [[2, 1]],
        "LayerNorm_0/bias": [[2]],
        "LayerNorm_0/scale": [[2]],
    }
    assert cut.keys() == whole.keys()
    for kind in ("params", "opt_state/1/0/mu", "opt_state/1/0/nu"):
        for name, shapes in parts.items():
            assert cut[f"{kind}/{name}"] == shapes != whole[f"{kind}/{name}"]
    changed = {name for name in cut if cut[name] != whole[name]}
    assert len(changed) == 3 * len(parts)
    assert cut["params/Dense_1/bias"] == [[1]] and cut["opt_state/1/0/count"] == [[]]


def test_batches_are_cut_and_states_are_whole():
    mesh = make_mesh(1)
    assert mesh.axis_names == ("data", "model") and mesh.size == 1
    batch = place_batch({"x": np.zeros((4, 3)), "mask": np.ones(4, bool)}, mesh)
    assert batch["x"].sharding.spec == PartitionSpec("data")
    stacked = place_batch({"x": np.zeros((2, 4, 3))}, mesh, stacked=True)
    assert stacked["x"].sharding.spec == PartitionSpec(None, "data")
    state = place_state({"params": np.zeros(3)}, mesh)
    assert state["params"].sharding.is_fully_replicated


def test_copies_on_the_host_are_copies():
    x = jnp.arange(3.0)
    copy = on_host({"x": x, "n": 3})
    x.delete()
    assert isinstance(copy["x"], np.ndarray) and copy["x"].tolist() == [0, 1, 2] and copy["n"] == 3


@pytest.mark.parametrize("count", [0, -1, len(jax.devices()) + 1])
def test_more_devices_than_there_are(count):
    number = len(jax.devices())
    with pytest.raises(ValueError, match=rf"mesh\.data={count}.* {number} device.*from 1 to"):
        make_mesh(count)


def test_more_parts_of_the_model_than_there_are():
    with pytest.raises(ValueError, match=r"mesh\.data=1 times mesh\.model=64, but this"):
        make_mesh(1, 64)


def test_a_batch_that_cannot_be_shared():
    three = SimpleNamespace(shape={"data": 3, "model": 2})
    check_batch_size("batch_size", 12, three)
    with pytest.raises(ValueError, match=r"batch_size=16 is not a multiple of mesh\.data=3"):
        check_batch_size("batch_size", 16, three)


# ---- what processes hold


def mesh_of(monkeypatch, processes, each, data, model):
    """`make_mesh` over as many pretended devices of each process, in a mixed-up order."""
    devices = [
        SimpleNamespace(process_index=process, id=i, platform="cpu")
        for i in range(each)
        for process in range(processes)
    ]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(
        "lnjax.training.mesh.Mesh",
        lambda array, names: SimpleNamespace(
            devices=array, shape=dict(zip(names, array.shape, strict=True))
        ),
    )
    return make_mesh(data, model)


@pytest.mark.parametrize(
    ("processes", "each", "data", "model", "rows"),
    [
        (2, 4, 8, 1, [(0, 12), (12, 24)]),
        (2, 4, 4, 1, [(0, 12), (12, 24)]),  # two devices of each
        (4, 2, 4, 2, [(0, 6), (6, 12), (12, 18), (18, 24)]),
        (4, 1, 2, 2, [(0, 12), (0, 12), (12, 24), (12, 24)]),  # a model over two processes
    ],
)
def test_every_process_has_its_rows(monkeypatch, processes, each, data, model, rows):
    mesh = mesh_of(monkeypatch, processes, each, data, model)
    found = []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        mine = own_rows(24, mesh)
        found.append((mine.start, mine.stop))
    assert found == rows


@pytest.mark.parametrize(
    ("processes", "each", "data", "model", "message"),
    [
        (2, 4, 1, 1, r"mesh\.data=1 cannot be divided among 2 processes.*mesh\.data to 8 for all"),
        (2, 4, 7, 1, r"mesh\.data=7 cannot be divided"),
        (3, 2, 2, 3, r"mesh\.model=3 cannot be divided"),
        (2, 4, 16, 1, r"these 2 processes have 8 device"),
    ],
)
def test_devices_that_processes_cannot_share(monkeypatch, processes, each, data, model, message):
    with pytest.raises(ValueError, match=message):
        mesh_of(monkeypatch, processes, each, data, model)


# ---- mesh.shard


def state_of(tx):
    params = {
        "embedding": np.zeros((6, 4)),
        "kernel": np.zeros((4, 6)),
        "cell": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)},
    }
    return jax.eval_shape(lambda: TrainState(jnp.zeros(()), params, {}, tx.init(params)))


def cut(state, rule, model=2):
    where = state_shardings(state, AbstractMesh((4, model), ("data", "model")), rule)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(where)
        if leaf.spec != PartitionSpec()
    }


@pytest.mark.parametrize(
    ("tx", "moments"),
    [
        (optax.adam(1e-3), ("0/mu", "0/nu")),
        (
            optax.apply_if_finite(optax.adam(1e-3), 3),
            ("inner_state/0/mu", "inner_state/0/nu"),
        ),
        (
            optax.MultiSteps(optax.chain(optax.clip(1.0), optax.sgd(1e-3, momentum=0.9)), 2),
            ("acc_grads", "inner_opt_state/1/0/trace"),
        ),
    ],
)
def test_moments_are_cut_like_their_parameters(tx, moments):
    got = cut(state_of(tx), "kernel:1, */kernel:0")
    first, second = PartitionSpec(None, "model"), PartitionSpec("model")
    wanted = {"params/kernel": first, "params/cell/kernel": second}
    for moment in moments:
        wanted |= {f"opt_state/{moment}/kernel": first, f"opt_state/{moment}/cell/kernel": second}
    assert got == wanted


def test_a_pattern_is_of_the_whole_path():
    state = state_of(optax.sgd(1e-3))
    assert list(cut(state, "kernel:0")) == ["params/kernel"]
    assert list(cut(state, "*kernel:0")) == ["params/cell/kernel", "params/kernel"]
    assert cut(state, "", model=1) == {}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("embeding:0", "'embeding' matches no parameter; there are cell/bias, cell/kernel, emb"),
        ("embedding:2", r"embedding:2: embedding has 2 dimension\(s\)"),
        ("kernel:0,*kernel:1", r"\*kernel:1: kernel is matched with dimension 0 too"),
        ("embedding", r"'embedding' is not pattern:dimension"),
        ("embedding:first", "is not pattern:dimension"),
        ("embedding:-1", "is not pattern:dimension"),
        (":0", "is not pattern:dimension"),
        ("kernel:0,kernel:0", "each pattern once"),
        ("", r"mesh\.model=4, but mesh\.shard is empty"),
    ],
)
def test_rules_that_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        cut(state_of(optax.adam(1e-3)), rule, model=4)


def test_a_dimension_that_does_not_divide():
    with pytest.raises(ValueError, match=r"embedding has 6 there, no multiple of mesh\.model=4"):
        cut(state_of(optax.adam(1e-3)), "embedding:0", model=4)


def test_a_rule_is_read():
    assert parse_rule("") == {}
    assert parse_rule(" a/*:0 ,b:12,") == {"a/*": 0, "b": 12}

"""Sums over batches of different sizes, and an evaluation that counts every example once."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lnjax.data import pipeline
from lnjax.training import metrics
from lnjax.training.evaluation import evaluate
from lnjax.training.mesh import make_mesh
from lnjax.training.state import init_state
from lnjax.training.task import TaskDefaults
from tests.training.toy_tasks import Linear, make_batch

RNG = jax.random.key(0)


def test_ratios_are_of_sums_and_not_means_of_ratios(rng):
    sizes = (1, 50, 7)
    values = [rng.normal(3, 5, size).astype(np.float32) for size in sizes]
    total = None
    for batch in values:
        sums = {"x": (jnp.sum(batch), jnp.float32(len(batch))), "n": (jnp.int32(2), jnp.int32(1))}
        total = sums if total is None else metrics.add(total, sums)
    got = metrics.finalize(total, TaskDefaults(), "eval")
    want = np.concatenate(values).astype(np.float64).mean()
    assert set(got) == {"eval/x", "eval/n"}
    assert got["eval/x"] == pytest.approx(want, rel=1e-5) and got["eval/n"] == 2
    assert abs(np.mean([batch.mean() for batch in values]) - want) > 0.1  # the wrong answer
    assert all(type(value) is float for value in got.values())


def test_sums_reach_the_host_unchanged():
    pair = (jnp.float32(0.1), jnp.float32(3))
    assert metrics.on_host({"x": pair}) == {"x": (float(np.float32(0.1)), 3.0)}


def test_sums_over_nothing_are_left_out():
    sums = {"seen": (jnp.float32(4), jnp.float32(2)), "never": (jnp.float32(0), jnp.float32(0))}
    assert metrics.finalize(sums, TaskDefaults(), "train") == {"train/seen": 2.0}


def test_a_task_may_derive_metrics():
    class Perplexity(TaskDefaults):
        def metrics(self, sums):
            return {"perplexity": float(np.exp(sums["nats"][0] / sums["nats"][1]))}

    sums = {"nats": (jnp.float32(6), jnp.float32(3)), "never": (jnp.float32(1), jnp.float32(0))}
    got = metrics.finalize(sums, Perplexity(), "eval")
    assert got == {"eval/perplexity": pytest.approx(np.exp(2), rel=1e-6)}


# ---- a whole split ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ranked(Linear):
    """Needs the whole split at once: the rank of the largest prediction."""

    looks_at: int | None = None  # batches; None: all

    def outputs(self, params, model_state, batch, rngs):
        return {"y": batch["x"] @ params["w"] + params["b"]}

    def evaluate(self, pairs):
        real = [
            np.asarray(outputs["y"])[np.asarray(batch["mask"])]
            for batch, outputs in itertools.islice(pairs, self.looks_at)
        ]
        return {
            "largest": float(np.argmax(np.concatenate(real))),
            "rows": float(len(np.concatenate(real))),
        }


RECORDS = 11


def split(batch_size):
    whole = make_batch(5, rows=RECORDS)

    def collate(examples):
        return {
            "x": np.stack([e["x"] for e in examples]),
            "y": np.stack([e["y"] for e in examples]),
            "mask": np.ones(len(examples), bool),
        }

    records = [{"x": whole["x"][i], "y": whole["y"][i]} for i in range(RECORDS)]
    return pipeline.eval_batches(records, batch_size=batch_size, collate=collate)


def oracle():
    whole = make_batch(5, rows=RECORDS)
    y = whole["x"].astype(np.float64) @ [0.3, -1.0, 2.0] + 0.25
    return {"eval/loss": np.mean((y - whole["y"]) ** 2), "eval/largest": np.argmax(y)}


@pytest.mark.parametrize("looks_at", [None, 1, 0], ids=lambda n: f"looks_at_{n}")
@pytest.mark.parametrize("batch_size", [4, 11, 16])
def test_every_example_counts_once(batch_size, looks_at):
    if looks_at == 0:
        task = Linear()  # a task that looks at nothing: TaskDefaults.evaluate
    else:
        task = Ranked(looks_at=looks_at)
    state = init_state(RNG, make_batch(0, batch_size), task=task, tx=optax.sgd(0.1))
    state = state.replace(params={"w": jnp.float32([0.3, -1.0, 2.0]), "b": jnp.float32(0.25)})
    batches = split(batch_size)
    for _ in range(2):  # a split can be evaluated again
        got = evaluate(state, batches, RNG, task=task, mesh=make_mesh(1), prefix="eval")
        assert got["eval/loss"] == pytest.approx(oracle()["eval/loss"], rel=1e-5)
        assert got["eval/train"] == 0
        if looks_at is None:
            assert got["eval/largest"] == oracle()["eval/largest"] and got["eval/rows"] == RECORDS
        elif looks_at:
            assert got["eval/rows"] == min(batch_size, RECORDS)
        else:
            assert set(got) == {"eval/loss", "eval/train"}

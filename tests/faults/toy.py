"""A task for the loop: a perceptron with dropout and a batch norm, on 37 records.

``python tests/faults/toy.py --config=tests/faults/toy_config.py --workdir=...`` is train.py with
this task. Each batch also carries the numbers of its records, which reach the metrics: their order
is part of what two runs are compared by.
"""

import dataclasses
import os
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import tasks
import train
from lnjax.data import DataError, pipeline
from lnjax.training.task import LossAux, TaskData, TaskDefaults

NUM_RECORDS, D = 37, 3
signalled = None, 0  # a signal, and the step at which this process gets it


@dataclasses.dataclass(frozen=True)
class Toy(TaskDefaults):
    norm: str
    dropout: float
    features: int
    name: str = "toy"
    rng_streams: tuple[str, ...] = ("dropout",)

    def init(self, rng, batch):
        kernels = {"first": jax.random.normal(rng, (D, self.features))}
        kernels["second"] = jnp.zeros(self.features)
        statistics = {"mean": jnp.zeros(self.features)} if self.norm == "batch" else {}
        return {"params": kernels, "batch_stats": statistics}

    def loss(self, params, model_state, batch, rngs, *, train):
        hidden = batch["x"] @ params["first"]
        mean = model_state["batch_stats"].get("mean")
        if mean is not None:
            used = jnp.mean(hidden, axis=0) if train else mean
            hidden = hidden - used[None]
            model_state = {"batch_stats": {"mean": 0.9 * mean + 0.1 * used}}
        hidden = jnp.tanh(hidden)
        if train:
            kept = jax.random.bernoulli(rngs["dropout"], 1 - self.dropout, hidden.shape)
            hidden = jnp.where(kept, hidden / (1 - self.dropout), 0.0)
        errors = jnp.square(hidden @ params["second"] - batch["y"])
        count = jnp.sum(batch["mask"], dtype=errors.dtype)
        total = jnp.sum(jnp.where(batch["mask"], errors, 0.0))
        weights = jnp.arange(1.0, 1.0 + len(batch["y"]))  # the order inside a batch counts
        order = jnp.sum(weights * batch["record"])
        sums = {"loss": (total, count), "order": (order, jnp.ones(()))}
        return total / count, LossAux(sums, model_state)


def records(broken=-1, huge=-1):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(NUM_RECORDS, D)).astype(np.float32)
    y = (x[:, 0] - 2 * x[:, 1]).astype(np.float32)
    if broken >= 0:
        x[broken, 1] = np.nan
    if huge >= 0:
        y[huge] = 1e22
    return [{"x": x[i], "y": y[i], "record": np.float32(i)} for i in range(NUM_RECORDS)]


def collate(examples, unreadable=-1):
    if any(each["record"] == unreadable for each in examples):
        raise DataError(f"record {unreadable} cannot be read; restore it from a copy")
    batch = {name: np.stack([each[name] for each in examples]) for name in examples[0]}
    return {**batch, "mask": np.ones(len(examples), bool)}


class Signalled:
    """Batches; this process gets the signal when it takes that of the step, if one is set."""

    def __init__(self, batches):
        self._batches = batches
        self.get_state, self.set_state = batches.get_state, batches.set_state
        self.records = batches.records

    def __next__(self):
        number, step = signalled
        if self.get_state()["next_index"] == step - 1:
            os.kill(os.getpid(), number)
        return next(self._batches)


def make_data(config):
    return TaskData(
        train=Signalled(
            pipeline.train_batches(
                records(config.broken_record, config.huge_record),
                seed=config.seed,
                batch_size=config.batch_size,
                collate=partial(collate, unreadable=config.unreadable_record),
                num_threads=config.num_threads,
            )
        ),
        evals={
            "eval": pipeline.eval_batches(
                records(), batch_size=config.eval_batch_size, collate=collate
            )
        },
        fingerprint={
            "name": "toy",
            "config": config.data,
            "seed": config.seed,
            "batch_size": config.batch_size,
        },
        spec={},
    )


def make_task(config, spec):
    return Toy(config.norm, config.dropout, config.features)


def main():
    """train.py, with this for the module of its task."""
    tasks.load = lambda name: sys.modules[__name__]
    flags.mark_flag_as_required("config")
    app.run(train.main, flags_parser=train.parse_flags)


if __name__ == "__main__":
    main()

"""A module as those of tasks/: a linear regression whose data depend on the seed."""

import numpy as np

from lnjax.training.task import TaskData
from tests.training.toy_tasks import D, Linear

WEIGHTS = np.arange(1.0, D + 1)


class Stream:
    """Batches by their number; `lengths` of rows in turn, `broken` number whose targets are NaN."""

    def __init__(self, seed, size, lengths=(0,), broken=None):
        self.seed, self.size, self.lengths, self.broken = seed, size, lengths, broken
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self):
        batch = self.at(self.number)
        self.number += 1
        return batch

    def at(self, number):
        rng = np.random.default_rng((self.seed, number))
        rows = self.size + self.lengths[(self.seed + number) % len(self.lengths)]
        x = rng.normal(size=(rows, D)).astype(np.float32)
        y = (x @ WEIGHTS + 1).astype(np.float32)
        if number == self.broken:
            y[:] = np.nan
        return {"x": x, "y": y, "mask": np.ones(rows, bool)}

    def get_state(self):
        return {"next_index": self.number}

    def set_state(self, state):
        self.number = state["next_index"]


class Module:
    """`make_data` and `make_task`; the options are those of `Stream`, `broken` by seed."""

    def __init__(self, *, lengths=(0,), broken=None):
        self.lengths, self.broken = lengths, broken or {}

    def make_data(self, config):
        held_out = Stream(10_000, 7).at(0)
        return TaskData(
            Stream(config.seed, config.batch_size, self.lengths, self.broken.get(config.seed)),
            {"eval": [held_out]},
            {"name": "toy", "config": "embedded", "seed": config.seed},
            {},
        )

    def make_task(self, config, spec):
        return Linear(("noise",), 0.1)

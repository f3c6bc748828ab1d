"""Where does the time of a train step go, for every task, and how does it grow?

    python benchmarks/train_step.py
    python benchmarks/train_step.py --tasks=handwriting --vary=batch_size=8,16,32,64
    python benchmarks/train_step.py --vary="max_points=112,224,448;steps_per_call=1,5"

Each arm is the config of a task with one key changed, and does what the loop of `train.py` does
between two log lines: takes a batch from the pipeline, places it, dispatches `train_step`, adds the
sums. Arms are interleaved; a turn is `--steps` optimizer steps, and waits for the device once, at
its end. Columns: steps a second; milliseconds of a step; the ratio of its median to that of the
unchanged config, with the quartiles of the ratio within a round in brackets; and of a step the
milliseconds in which the host waits for the next batch, and in which it places a batch and
dispatches (on CPU, XLA may run a small program within the dispatch). It needs the packages of the
extra `tasks`; the embedded data are prepared on first use.
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import digits, interleaved, machine_line, milliseconds, options, quartiles, ratio, table

sys.path.insert(0, str(Path(__file__).parents[1]))  # tasks and configs are not installed

import tasks
from lnjax.training import metrics
from lnjax.training.mesh import make_mesh, make_state, place_batch, plan_state
from lnjax.training.optimizer import make_optimizer
from lnjax.training.step import train_step, train_steps

# What is varied of each task, one key at a time: the batch, the length, and what else matters.
VARIED: dict[str, dict[str, list[Any]]] = {
    "handwriting": {
        "batch_size": [4, 8, 32, 64],
        "max_points": [56, 112, 448],
        "norm": ["none"],
        "steps_per_call": [5, 25],
    },
    "pi_mnist": {
        "batch_size": [4, 32],
        "norm": ["batch", "weight", "none"],
        "steps_per_call": [5],
    },
    "convnet": {
        "batch_size": [4, 256],
        "norm": ["batch", "weight", "none"],
        "steps_per_call": [5],
    },
    "draw": {
        "batch_size": [16, 32, 128],
        "glimpses": [4, 16],
        "attention": [False],
        "norm": ["none"],
    },
}


class Arm:
    """One config, ready to train; `__call__` is a turn."""

    def __init__(self, config: Any, steps: int):
        module = tasks.load(config.task)
        data = module.make_data(config)
        self.task, self.tx = module.make_task(config, data.spec), make_optimizer(config)
        self.mesh, self.data = make_mesh(config.mesh.data, config.mesh.model), data.train
        self.per_call = config.steps_per_call
        self.calls = max(1, steps // self.per_call)
        self.rng = jax.random.key(config.seed)
        first = place_batch(next(self.data), self.mesh)
        same = {"task": self.task, "tx": self.tx}
        plan = plan_state(first, **same, mesh=self.mesh, rule=config.mesh.shard)
        self.state = make_state(self.rng, first, **same, plan=plan)
        self.waits: list[float] = []  # seconds of a step, a turn each
        self.dispatches: list[float] = []
        self.sums = None
        compiled, began = cache_sizes(), time.perf_counter()
        self.call()
        jax.block_until_ready(self.state)
        self.first_call_seconds = time.perf_counter() - began
        self.before, self.compilations = cache_sizes(), cache_sizes() - compiled

    @property
    def steps(self) -> int:
        """Optimizer steps of a turn."""
        return self.calls * self.per_call

    def call(self) -> tuple[float, float]:
        """Dispatches once; seconds of waiting for data, and of the rest."""
        began = time.perf_counter()
        if self.per_call == 1:
            batch = next(self.data)
            waited = time.perf_counter()
            placed = place_batch(batch, self.mesh)
            step: Callable[..., Any] = train_step
        else:
            several = [next(self.data) for _ in range(self.per_call)]
            waited = time.perf_counter()
            batch = jax.tree.map(lambda *rows: np.stack(rows), *several)
            placed = place_batch(batch, self.mesh, stacked=True)
            step = train_steps
        self.state, new = step(self.state, placed, self.rng, task=self.task, tx=self.tx)
        self.sums = new if self.sums is None else metrics.add(self.sums, new)
        return waited - began, time.perf_counter() - waited

    def __call__(self) -> None:
        pairs = [self.call() for _ in range(self.calls)]
        jax.block_until_ready((self.state, self.sums))
        wait, dispatch = np.sum(pairs, axis=0) / self.steps
        self.waits.append(wait)
        self.dispatches.append(dispatch)


def cache_sizes() -> int:
    """How many programs the train steps were compiled to so far."""
    return train_step._cache_size() + train_steps._cache_size()


def varied(text: str) -> dict[str, list[Any]]:
    """Of "key=a,b;other=c": the values by key, as numbers where they are."""

    def value(word: str) -> Any:
        try:
            return int(word)
        except ValueError:
            return word

    pairs = [part.partition("=") for part in text.split(";") if part]
    for key, equals, values in pairs:
        if not (key and equals and values):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=a,b;other=c")
    return {key.strip(): [value(word) for word in values.split(",")] for key, _, values in pairs}


def measure(name: str, changes: dict[str, list[Any]], args: argparse.Namespace) -> str:
    """The table of a task."""
    arms: dict[str, Arm] = {}
    for key, value in [("", None), *((key, v) for key, vs in changes.items() for v in vs)]:
        config = import_module(f"configs.{name}").get_config(args.variant)
        label = f"{key}={value}"
        if not key:
            label = f"batch_size={config.batch_size}, norm={config.norm}"
        elif key not in config:
            raise SystemExit(f"configs/{name}.py has no key {key!r}")
        else:
            config[key] = value
        arms[label] = Arm(config, args.steps)
    times = interleaved(arms, args.rounds, args.seconds)
    columns = [
        *("config", "steps/s", "a step, ms", ": unchanged", "waits for data, ms", "dispatch, ms"),
        *("first call, s", "compilations"),
    ]
    base, rows = None, []
    for label, arm in arms.items():
        seconds = times[label] / arm.steps
        base = seconds if base is None else base
        rows.append(
            [
                label,
                digits(1 / quartiles(seconds)[1]),
                milliseconds(seconds),
                ratio(seconds, base),
                milliseconds(np.array(arm.waits[1:])),
                milliseconds(np.array(arm.dispatches[1:])),
                digits(arm.first_call_seconds),
                str(arm.compilations),
            ]
        )
    again = cache_sizes() - max(arm.before for arm in arms.values())
    return f"{table(columns, rows)}\n\nCompilations after the first call of each: {again}."


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--tasks", default=",".join(VARIED), help=f"default {','.join(VARIED)}")
    parser.add_argument("--variant", default="", help='of the configs: "" (default), "paper", ...')
    parser.add_argument("--vary", type=varied, help="key=a,b;other=c instead of what is varied")
    parser.add_argument("--steps", type=int, default=25, help="of the optimizer in a turn (25)")
    args = parser.parse_args()
    for name in args.tasks.split(","):
        if name not in VARIED:
            parser.error(f"--tasks: {name!r} is none of {', '.join(VARIED)}")
        print(f"\n## {name}\n\n{measure(name, args.vary or VARIED[name], args)}", flush=True)
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()

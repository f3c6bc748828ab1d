"""Which norm trains faster, over several seeds and at equal steps?

    python benchmarks/seeds.py
    python benchmarks/seeds.py --config=pi_mnist --arms="norm=layer;norm=batch;norm=none"
    python benchmarks/seeds.py --config=convnet --seeds=3 --common="num_steps=620,log_steps=62"

Trains every arm (a config with some of its keys changed) from every seed, through the `train_step`
and the pipeline of `train.py`. The arms of one seed see the same batches in the same order and
start from the same draws of the kernels, so they are compared in pairs: the first arm minus each
other one, its mean over the seeds and the standard error of that mean. Columns: the training metric
over the last `log_steps` steps of each seed, their mean, and the means of what is held out, at the
end.
It needs the packages of the extra `tasks`; the embedded data are prepared on first use.
"""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import NOTHING, digits, machine_line, table

sys.path.insert(0, str(Path(__file__).parents[1]))  # tasks and configs are not installed

import tasks
from lnjax.training import metrics
from lnjax.training.evaluation import evaluate
from lnjax.training.mesh import make_mesh, place_batch, place_state
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import init_state
from lnjax.training.step import train_step

Changes = dict[str, str]  # key of a config -> value as it is typed


def changes(text: str) -> Changes:
    """Of "key=a,other=b" the values by key."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=a,other=b")
    return {key.strip(): value.strip() for key, _, value in pairs}


def arms(text: str) -> dict[str, Changes]:
    """Of "key=a;key=b,other=c" the changes of each arm, by their text."""
    return {part.strip(): changes(part) for part in text.split(";") if part.strip()}


def config_of(name: str, changed: Changes) -> Any:
    """The config "name" or "name:variant" with some keys changed, each in its own type."""
    module, _, variant = name.partition(":")
    config = import_module(f"configs.{module}").get_config(variant)
    for key, text in changed.items():
        if key not in config:
            raise SystemExit(f"configs/{module}.py has no key {key!r}")
        kind = type(config[key])
        if kind is bool and text not in ("true", "false"):
            raise SystemExit(f"{key}={text}: expected true or false")
        config[key] = text == "true" if kind is bool else kind(text)
    return config


def train(config: Any, tx: Any) -> dict[str, float]:
    """The metrics of a whole run: training over the last `log_steps` steps, the rest at the end."""
    module = tasks.load(config.task)
    data = module.make_data(config)
    task, mesh = module.make_task(config, data.spec), make_mesh(config.mesh.data)
    rng, start = jax.random.key(config.seed), data.train.get_state()
    first = place_batch(next(data.train), mesh)
    data.train.set_state(start)
    state = place_state(init_state(rng, first, task=task, tx=tx), mesh)
    sums = None
    for step in range(config.num_steps):
        if step == config.num_steps - config.log_steps:
            sums = None
        batch = place_batch(next(data.train), mesh)
        state, new = train_step(state, batch, rng, task=task, tx=tx)
        sums = new if sums is None else metrics.add(sums, new)
    values = metrics.finalize(sums, task, "train")
    for split, batches in data.evals.items():
        values |= evaluate(state, batches, rng, task=task, mesh=mesh, prefix=split)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="pi_mnist:small_batch", help="name[:variant]")
    parser.add_argument("--arms", type=arms, default="norm=layer;norm=batch", help="key=a;key=b")
    parser.add_argument("--common", type=changes, default="", help="key=a,other=b for all arms")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default 5)")
    parser.add_argument("--metric", default="nll", help="of training, to compare (default nll)")
    args = parser.parse_args()

    results: dict[str, list[dict[str, float]]] = {}
    for arm, changed in args.arms.items():
        config = config_of(args.config, args.common | changed)
        tx = make_optimizer(config)  # one for all seeds: the step is compiled once for each arm
        results[arm] = []
        for seed in range(args.seeds):
            config.seed = seed
            began = time.perf_counter()
            results[arm].append(train(config, tx))
            seconds = time.perf_counter() - began
            print(f"{arm}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)

    metric = f"train/{args.metric}"
    held_out = [key for key in results[next(iter(results))][0] if not key.startswith("train/")]
    held_out = [key for key in held_out if not key.endswith("/loss")]
    seeds = [f"seed {seed}" for seed in range(args.seeds)]
    first, *others = results
    of_arm = {arm: np.array([run[metric] for run in runs]) for arm, runs in results.items()}
    rows = [
        [arm, *map(digits, values), digits(values.mean())]
        + [digits(float(np.mean([run[key] for run in results[arm]]))) for key in held_out]
        for arm, values in of_arm.items()
    ]
    print(f"## {args.config}, {config.num_steps} steps, {metric} of the last {config.log_steps}\n")
    print(table(["arm", *seeds, "mean", *held_out], rows))
    if others:
        rows = []
        for arm in others:
            pairs = of_arm[first] - of_arm[arm]
            error = pairs.std(ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else None
            rows.append([f"{first} - {arm}", *map(digits, pairs), digits(pairs.mean())])
            rows[-1].append(NOTHING if error is None else digits(float(error)))
        print("\n" + table(["pairs", *seeds, "mean", "standard error"], rows))
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()

"""Trains several arms of one experiment from several seeds, and compares them.

    python compare.py --config=configs/pi_mnist.py:small_batch --arms=norm:layer,batch,none
    python compare.py --figure=6                  a figure of the paper, on the embedded data
    python compare.py --figure=4 --data_dir=...   and on the real data, at the paper's sizes

  --arms=key:value,value    what differs; repeated, every combination of the values
  --config.key=value        what all arms share
  --seeds=5                 0 to 4; a seed has the same data order in all arms
  --tune=learning_rate:1e-3,3e-3   first trains each arm with each of these from another seed, and
                            takes what is best for it on validation data
  --workdir=runs/x          where everything goes: the runs, results.json, table.md, figure.svg,
                            figure.png, report.html; the same command again trains what is missing

Exit codes: 0 done; 2 wrong flags, config, data or checkpoint; 75 stopped by SIGTERM or SIGINT after
checkpoints were written, so run the same command again.
"""

import pathlib
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import tasks
from lnjax.comparison import arms, figure, paper, report, results, runs, tables
from lnjax.training import manifest, workdir
from lnjax.training.checkpoint import CheckpointError
from lnjax.training.command import EXIT_REFUSED, flags_parser, keep_compiled, tell
from lnjax.training.interrupt import EXIT_INTERRUPTED, Interrupt
from lnjax.training.optimizer import make_optimizer

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/x.py[:variant]")
_FIGURE = flags.DEFINE_integer(
    "figure", None, "1 to 6: a figure of the paper, in place of --config"
)
_ARMS = flags.DEFINE_multi_string("arms", None, "key:value,value; default of --figure: its own")
_SEEDS = flags.DEFINE_integer("seeds", 5, "how many", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", None, "default: runs/figure-N, or runs/compare-<task>")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "--figure: folder of the real data")
_SMOKE = flags.DEFINE_bool("smoke", False, "--figure: tiny models and two seeds, to see it run")
_TUNE = flags.DEFINE_string("tune", None, "key:value,value to choose from, for each arm")
_TOGETHER = flags.DEFINE_enum(
    "together", "auto", ["auto", "yes", "no"], "the seeds of an arm under one vmap"
)
_JOBS = flags.DEFINE_integer("jobs", 1, "processes at once where not together", lower_bound=1)

ROOT = pathlib.Path(__file__).parent
TUNING_SEED = 1000  # none of those that are compared


class Part(NamedTuple):
    """One config with its arms."""

    file: str  # "configs/x.py:variant"
    config: ConfigDict
    arms: list[arms.Arm]
    folder: pathlib.Path
    panels: list[dict[str, Any]]
    axis: dict[str, Any]  # "x", its label, and "steps_per_x"
    numbers: dict[str, Any]  # of the paper, by arm and metric


class Stopped(Exception):
    """A signal came; checkpoints were written."""


def load(file: str) -> ConfigDict:
    """The config of "configs/x.py" or "configs/x.py:variant"."""
    path, _, variant = file.partition(":")
    return runpy.run_path(str(ROOT / path))["get_config"](variant)


def parts_of_figure(number: int, base: pathlib.Path) -> list[Part]:
    """What --figure asks for."""
    if number not in paper.FIGURES:
        raise ValueError(f"--figure={number}: the paper has the figures 1 to {max(paper.FIGURES)}")
    found = []
    for part in paper.FIGURES[number]["parts"]:
        real = part["real"] if _DATA_DIR.value else {}
        part = part | real
        variant = "smoke" if _SMOKE.value else part["variant"]
        file = f"configs/{part['task']}.py" + (f":{variant}" if variant else "")
        keys = dict(part["keys"])
        if _DATA_DIR.value:
            keys["data_dir"] = _DATA_DIR.value
        if _SMOKE.value:
            keys |= part["smoke"]
        config = arms.apply(load(file), keys)
        several = len(paper.FIGURES[number]["parts"]) > 1
        folder = base / (part["variant"] or part["task"]) if several else base
        axis = {"x": part["x"], "steps_per_x": part["steps_per_x"]}
        made = arms.parse(_ARMS.value or part["arms"])
        found.append(Part(file, config, made, folder, part["panels"], axis, part["numbers"]))
    return found


def part_of_config(config: ConfigDict, file: str, base: pathlib.Path) -> Part:
    """What --config asks for."""
    if not _ARMS.value:
        raise ValueError("--config needs arms, such as --arms=norm:layer,none")
    axis = {"x": "steps", "steps_per_x": 1}
    panels = paper.PANELS[config.task]
    return Part(file, config, arms.parse(_ARMS.value), base, panels, axis, {})


# ------------------------------------------------------------------------------ training


def choices_of_tune() -> list[arms.Arm]:
    """The values of --tune, each as a change; none without it."""
    return arms.parse([_TUNE.value]) if _TUNE.value else []


def check(part: Part) -> None:
    """Refuses, before anything is written, what training would refuse hours later.

    Raises:
      ValueError: an arm, the config or the data cannot be used.
    """
    module = tasks.load(part.config.task)
    choices = [choice.changes for choice in choices_of_tune()] or [{}]
    for choice in choices:
        for arm in part.arms:
            config = arms.apply(part.config, arm.changes | choice)
            workdir.check_steps(config)
            make_optimizer(config)
            module.make_task(config, module.make_data(config).spec)


def train(
    part: Part, seeds: Sequence[int], stopping: Callable[[], bool]
) -> list[dict[str, Any] | None]:
    """Trains what is missing of a part; returns, for each arm, what --tune found (or None).

    Raises:
      Stopped: a signal came.
    """
    module = tasks.load(part.config.task)
    base = load(part.file)

    def command(config: ConfigDict, folder: pathlib.Path) -> list[str]:
        changed = runs.overrides(config, base)
        train_py = [sys.executable, str(ROOT / "train.py"), f"--config={ROOT / part.file}"]
        return [*train_py, *changed, f"--workdir={folder}"]

    def all_of(configs: list[ConfigDict], folders: list[pathlib.Path]) -> None:
        options: dict[str, Any] = {
            "how": _TOGETHER.value,
            "jobs": _JOBS.value,
            "stopping": stopping,
        }
        if not runs.train_arm(configs, folders, module, command, **options):
            raise Stopped

    found = []
    for arm in part.arms:
        config = arms.apply(part.config, arm.changes)
        tuned = tune(part, arm, config, all_of) if _TUNE.value else None
        if tuned is not None:
            config = arms.apply(config, {tuned["key"]: tuned["chosen"]})
        all_of(
            [arms.apply(config, {"seed": seed}) for seed in seeds],
            [runs.folder_of(part.folder, arm, seed) for seed in seeds],
        )
        found.append(tuned)
    return found


def tune(part: Part, arm: arms.Arm, config: ConfigDict, train_all: Callable) -> dict[str, Any]:
    """Which of the values of --tune ends best on validation data, from a seed of its own."""
    metric, better = paper.TUNED_BY[config.task]
    sign = 1 if better == "lower" else -1
    tried: dict[str, float | None] = {}
    key = ""
    for choice in choices_of_tune():
        folder = part.folder / "tuning" / arm.name / choice.name
        train_all([arms.apply(config, {**choice.changes, "seed": TUNING_SEED})], [folder])
        run = results.gather_run(folder, part.folder, TUNING_SEED)
        curve = results.curve(run, metric)
        ((key, value),) = choice.changes.items()
        tried[value] = float(curve.values[-1]) if curve and run["status"] == "done" else None
    reached = {value: sign * found for value, found in tried.items() if found is not None}
    if not reached:
        raise ValueError(f"--tune={_TUNE.value}: {arm.name} is not finite with any of these")
    chosen = min(reached, key=lambda value: reached[value])
    return {"key": key, "chosen": chosen, "tried": tried, "metric": metric, "seed": TUNING_SEED}


# ------------------------------------------------------------------------------ results


def gather(title: str, parts: list[Part], tuned: list[list[Any]], seeds: Sequence[int]) -> dict:
    """The record of all runs that there are."""
    made = []
    base = parts[0].folder if len(parts) == 1 else parts[0].folder.parent
    for part, choices in zip(parts, tuned, strict=True):
        listed = [
            {
                "name": arm.name,
                "changes": arm.changes,
                "tuned": choice,
                "runs": [
                    results.gather_run(runs.folder_of(part.folder, arm, seed), base, seed)
                    for seed in seeds
                ],
            }
            for arm, choice in zip(part.arms, choices, strict=True)
        ]
        data = listed[0]["runs"][0]["manifest"]["data"]
        keys = {key: value for key, value in arms.flat(part.config).items() if key != "seed"}
        made.append(
            {
                "config": part.file,
                "task": part.config.task,
                "data": "{name}/{config}".format(**data),
                "keys": keys,
                "axis": part.axis,
                "panels": part.panels,
                "arms": listed,
                "paper": part.numbers,
            }
        )
    return {"title": title, "parts": made, "machine": manifest.run_manifest(0)}


def write_all(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """Everything that is made of the record."""
    results.write(folder / results.FILE, found)
    manifest.write_text(folder / "table.md", tables.table(found))
    figure.write(folder, found)
    report.write(folder / "report.html", found, folder)


def compare(base: pathlib.Path) -> int:
    """Everything; returns the exit code."""
    if (_FIGURE.value is None) == (_CONFIG.value is None):
        raise ValueError("expected --config=configs/x.py with --arms, or --figure=1 to 6")
    if _FIGURE.value is None:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        parts, title = [part_of_config(_CONFIG.value, file, base)], f"{file}"
    else:
        parts, title = parts_of_figure(_FIGURE.value, base), paper.FIGURES[_FIGURE.value]["title"]
    seeds = range(min(2, _SEEDS.value) if _SMOKE.value else _SEEDS.value)
    for part in parts:
        check(part)
    with Interrupt() as interrupt, workdir.lock(base):
        tuned = [train(part, seeds, lambda: interrupt.requested is not None) for part in parts]
        found = gather(title, parts, tuned, seeds)
        write_all(base, found)
    print(tables.table(found))
    tell(f"done: {base / 'report.html'}")
    return 0


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    task = "" if _CONFIG.value is None else _CONFIG.value.task
    default = f"runs/figure-{_FIGURE.value}" if _CONFIG.value is None else f"runs/compare-{task}"
    try:
        return compare(pathlib.Path(_WORKDIR.value or default))
    except Stopped:
        return EXIT_INTERRUPTED
    except (ValueError, runs.Failed, CheckpointError) as error:
        tell(f"error: {error}")
        return EXIT_REFUSED


if __name__ == "__main__":
    app.run(main, flags_parser=flags_parser(lambda: _CONFIG.value))

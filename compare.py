"""Trains several arms of one experiment from several seeds, and compares them.

    python compare.py --config=configs/pi_mnist.py:small_batch --arms=norm:layer,batch,none
    python compare.py --figure=6                  a figure of the paper, on the embedded data
    python compare.py --figure=4 --data_dir=...   and on the real data, at the paper's sizes

  --arms=key:value,value    what differs; repeated, every combination of the values
  --config.key=value        what all arms share; with --figure it is --set=key:value
  --seeds=5                 0 to 4; a seed has the same data order in all arms
  --tune=learning_rate:1e-3,3e-3   first trains each arm with each of these from another seed, and
                            takes what is best for it on validation data; repeated, every
                            combination; with --tune_steps=N in runs of N steps
  --workdir=runs/x          where everything goes: the runs, results.json, table.md, figure.svg,
                            figure.png, report.html; the same command again trains what is missing

Exit codes: 0 done; 2 wrong flags, config, data or checkpoint; 75 stopped by a signal after
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
from lnjax.comparison import arms, figure, outcome, paper, report, results, runs, tables
from lnjax.training import manifest, trained, workdir
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
_TUNE = flags.DEFINE_multi_string("tune", None, "key:value,value to choose from, for each arm")
_TUNE_STEPS = flags.DEFINE_integer("tune_steps", None, "of the runs of --tune", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", None, "--figure: key:value that all its arms share")
_TOGETHER = flags.DEFINE_enum(
    "together", "auto", ["auto", "yes", "no"], "the seeds of an arm under one vmap"
)
_JOBS = flags.DEFINE_integer("jobs", 1, "processes at once where not together", lower_bound=1)

ROOT = pathlib.Path(__file__).parent
NUM_QUERIES = 4  # of a sheet of retrievals
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
        shared, *others = arms.parse(_SET.value or [])
        if others:
            raise ValueError("--set: expected one value for each key; several values are arms")
        config = arms.apply(load(file), keys | shared.changes)
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


def tuning() -> tuple[dict[str, dict[str, str]], dict[str, int]]:
    """The choices of --tune by name, none without it, and what their runs have in common."""
    choices = {choice.name: choice.changes for choice in arms.parse(_TUNE.value or [])}
    return choices, {} if _TUNE_STEPS.value is None else {"num_steps": _TUNE_STEPS.value}


def check(part: Part) -> None:
    """Refuses, before anything is written, what training would refuse hours later.

    Raises:
      ValueError: an arm, the config or the data cannot be used.
    """
    module = tasks.load(part.config.task)
    choices, short = tuning()
    for arm in part.arms:
        config = arms.apply(part.config, arm.changes)
        spec = module.make_data(config).spec  # once: opening data may take ten seconds
        for changes in ({}, *({**changes, **short} for changes in choices.values())):
            tuned = arms.apply(config, changes)
            make_optimizer(tuned)
            module.make_task(tuned, spec)


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
            config = arms.apply(config, tuned["chosen"])
        all_of(
            [arms.apply(config, {"seed": seed}) for seed in seeds],
            [runs.folder_of(part.folder, arm, seed) for seed in seeds],
        )
        for seed in seeds:
            retrieve(config, runs.folder_of(part.folder, arm, seed))
        found.append(tuned)
    return found


def retrieve(config: ConfigDict, folder: pathlib.Path) -> None:
    """The sheet of a finished run whose samples need the data: what captions find."""
    ended = outcome.read(folder)
    if config.task != "order_embeddings" or config.data == "real" or ended is None:
        return  # the others draw in training; of real images only features are there
    sheet = folder / "samples" / f"{ended.step:08d}.png"
    if ended.status != "done" or sheet.exists():
        return
    from tasks.order_embeddings import make_task, search

    task, state, step = trained.load(folder, make_task)
    spec = workdir.read(folder).spec
    queries = search.sample(task, state.params, config, spec, NUM_QUERIES)
    sheet.parent.mkdir(exist_ok=True)
    search.write(sheet, queries, title=f"captioned_images/{config.data}, step {step}")


def tune(part: Part, arm: arms.Arm, config: ConfigDict, train_all: Callable) -> dict[str, Any]:
    """Which choice of --tune ends best on validation data, from a seed of its own."""
    metric, better = paper.TUNED_BY[config.task]
    sign = 1 if better == "lower" else -1
    tried: dict[str, float | None] = {}
    choices, short = tuning()
    for name, changes in choices.items():
        folder = part.folder / "tuning" / arm.name / name
        train_all([arms.apply(config, {**changes, **short, "seed": TUNING_SEED})], [folder])
        run = results.gather_run(folder, part.folder, TUNING_SEED)
        curve = results.curve(run, metric)
        tried[name] = float(curve.values[-1]) if curve and run["status"] == "done" else None
    reached = {name: sign * found for name, found in tried.items() if found is not None}
    if not reached:
        raise ValueError(f"--tune: {arm.name} is finite with none of {', '.join(choices)}")
    chosen = min(reached, key=lambda name: reached[name])
    return {
        "name": chosen,
        "chosen": choices[chosen],
        "tried": tried,
        "metric": metric,
        "seed": TUNING_SEED,
        "steps": short.get("num_steps", config.num_steps),
    }


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
    here = manifest.run_manifest(0)  # the runs have their own
    keys = ("platform", "device_kind", "device_count", "command", "start_time")
    return {"title": title, "parts": made, "machine": {key: here[key] for key in keys}}


def write_all(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """Everything that is made of the record."""
    results.write(folder / results.FILE, found)
    manifest.write_text(folder / "table.md", tables.table(found))
    figure.write(folder, found)
    report.write(folder / "report.html", found, folder)


def asked(base: pathlib.Path) -> tuple[str, list[Part]]:
    """Title and parts of what the flags ask for.

    Raises:
      ValueError: they contradict each other, or an arm is none.
    """
    if (_FIGURE.value is None) == (_CONFIG.value is None):
        raise ValueError("expected --config=configs/x.py with --arms, or --figure=1 to 6")
    if _FIGURE.value is None and (_SMOKE.value or _DATA_DIR.value or _SET.value):
        raise ValueError(
            "--smoke, --data_dir and --set belong to --figure; with --config take"
            " configs/x.py:smoke, --config.data_dir=... and --config.key=value"
        )
    if _TUNE_STEPS.value is not None and not _TUNE.value:
        raise ValueError("--tune_steps has no --tune to be of; add --tune=key:value,value")
    if _FIGURE.value is None:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        title, parts = file, [part_of_config(_CONFIG.value, file, base)]
    else:
        parts = parts_of_figure(_FIGURE.value, base)
        title = paper.FIGURES[_FIGURE.value]["title"]
    choices, short = tuning()
    for part in parts:
        for arm in part.arms:
            config = arms.apply(part.config, arm.changes)
            for changes in ({}, *({**changes, **short} for changes in choices.values())):
                workdir.check_steps(arms.apply(config, changes))
    return title, parts


def compare(base: pathlib.Path) -> int:
    """Everything; returns the exit code."""
    title, parts = asked(base)
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

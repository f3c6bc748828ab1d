"""The record of a comparison, `results.json`: all that its table, figure and report are made of.

    {"title": str, "parts": [part], "machine": {...}}

A part is one config with its arms; most comparisons have one. A figure with two panels of the
paper may have two.

    {"config": "configs/x.py:variant", "task": str, "data": "digits/embedded",
     "keys": {key: value},            the whole config, without seed
     "axis": {"x": "epochs", "steps_per_x": 31},
     "panels": [panel], "arms": [arm], "paper": {arm: {metric: [value, where]}}}

    panel: {"metric": "train/nll", "label": str, "better": "lower" | "higher",
            "scale": "linear" | "log", "x_scale": the same, "drawn": bool}
    arm:   {"name": "norm=layer", "changes": {key: value}, "tuned": {...} | null, "runs": [run]}
    run:   {"seed": int, "status": "done" | "not finite" | "unfinished", "step": int,
            "together": int, "folder": str, "lines": [line of metrics.jsonl], "sheet": str | null,
            "manifest": {...}}
"""

import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lnjax.comparison import outcome
from lnjax.comparison.measures import Curve
from lnjax.training import manifest
from lnjax.training.writer import read_lines

Json = dict[str, Any]
FILE = "results.json"


class Spread(NamedTuple):
    """A metric over the finished seeds of an arm; arrays (N,) float64."""

    steps: np.ndarray  # at which every seed has a value
    seconds: np.ndarray  # mean over the seeds, as `mean`
    mean: np.ndarray
    low: np.ndarray  # the lowest value of any seed
    high: np.ndarray
    each: np.ndarray  # (seeds, N): the values that these are made of, in the order of the seeds


def gather_run(folder: pathlib.Path, base: pathlib.Path, seed: int) -> Json:
    """What the folder of a run says, finished or not."""
    ended = outcome.read(folder)
    lines = _lines(folder / "metrics.jsonl")
    sheets = sorted((folder / "samples").glob("*.png"))
    path = folder / "manifest.json"
    return {
        "seed": seed,
        "status": ended.status if ended else "unfinished",
        "step": ended.step if ended else (lines[-1]["step"] if lines else 0),
        "together": ended.together if ended else 0,
        "folder": folder.relative_to(base).as_posix(),
        "lines": lines,
        "sheet": sheets[-1].relative_to(base).as_posix() if sheets else None,
        "manifest": manifest.read_json(path) if os.path.lexists(path) else {},
    }


def write(path: pathlib.Path, results: Json) -> None:
    """Writes `results`, atomically."""
    manifest.write_json(path, results)


def read(path: pathlib.Path) -> Json:
    """Reads what `write` wrote.

    Raises:
      ValueError: there is no such file, or it is damaged.
    """
    try:
        found = manifest.read_json(path, "compare.py writes it again")
    except FileNotFoundError:
        raise ValueError(f"there is no {path}; compare.py writes it") from None
    if "parts" not in found:
        raise ValueError(f"{path} is no record of a comparison; expected one of compare.py")
    return found


def curve(run: Json, metric: str) -> Curve | None:
    """One metric of a run at its log points; None if it has none.

    A value that was not finite, null in the file, is left out.
    """
    rows = [line for line in run["lines"] if line.get(metric) is not None]
    if not rows:
        return None
    steps, seconds, values = (
        np.array([row[key] for row in rows], np.float64) for key in ("step", "seconds", metric)
    )
    return Curve(steps, seconds, values)


def finished(arm: Json, panel: Json) -> dict[int, Curve]:
    """The curves of those runs of an arm that reached their last step, by seed."""
    done = [run for run in arm["runs"] if run["status"] == "done"]
    curves = {run["seed"]: curve(run, panel["metric"]) for run in done}
    return {seed: found for seed, found in curves.items() if found is not None}


def spread(arm: Json, panel: Json) -> Spread | None:
    """Mean and range over the seeds that reached their last step; None if there is none.

    Where one of them has no value, as where its loss was not finite, the mean has none.
    """
    curves = [found for _, found in sorted(finished(arm, panel).items())]
    if not curves:
        return None
    steps = functools.reduce(np.intersect1d, [found.steps for found in curves])
    places = [np.searchsorted(found.steps, steps) for found in curves]
    each = np.array([found.values[at] for found, at in zip(curves, places, strict=True)])
    seconds = np.mean([found.seconds[at] for found, at in zip(curves, places, strict=True)], axis=0)
    return Spread(steps, seconds, each.mean(axis=0), each.min(axis=0), each.max(axis=0), each)


def rivals(arms: Sequence[Json]) -> list[tuple[Json, Json]]:
    """The pairs (challenger, rival) that are compared.

    Where norms differ: each arm of layer norm with those that differ from it in the norm alone.
    Else the first arm with every other.
    """

    def rest(arm: Json) -> Mapping[str, Any]:
        return {key: value for key, value in arm["changes"].items() if key != "norm"}

    layer = [arm for arm in arms if arm["changes"].get("norm") == "layer"]
    if not layer or len({arm["changes"].get("norm") for arm in arms}) == 1:
        return [(arms[0], arm) for arm in arms[1:]]
    return [
        (one, other)
        for one in layer
        for other in arms
        if other is not one and rest(other) == rest(one)
    ]


def comparable(part: Json) -> bool:
    """Whether the paper's numbers are of the same data."""
    return not part["data"].endswith("/embedded")


def _lines(path: pathlib.Path) -> list[Json]:
    """The whole lines of a metrics file, those of one step as one."""
    rows = [row for _, row in read_lines(path)]
    merged: dict[int, Json] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    return [row for _, row in sorted(merged.items())]


def number(value: float, digits: int = 4) -> str:
    """A value as a table has it.

    >>> number(0.0123456), number(97.61234), number(float("inf")), number(float("nan"))
    ('0.01235', '97.61', 'never', '-')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:.{digits}g}"

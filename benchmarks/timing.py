"""Timing many contenders fairly: interleaved in one process, compared by ratios of medians."""

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from importlib import metadata
from typing import Any, TypeVar

import jax
import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "keras")
NOTHING = "-"  # in a table

Name = TypeVar("Name", bound=Hashable)


def options(doc: str, pause: bool = False) -> argparse.ArgumentParser:
    """A parser with the options of `interleaved`; `doc` is the script's own docstring."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="at least so many (default 7)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="at least so long in each table (default 5)"
    )
    if pause:
        parser.add_argument(
            "--pause",
            type=float,
            default=0.2,
            help="seconds of sleep before each turn, if PyTorch takes part (default 0.2): its"
            " threads spin for a while after a call, and would slow down whoever is next",
        )
    return parser


def interleaved(
    contenders: Mapping[Name, Callable[[], Any]],
    rounds: int,
    seconds: float = 0.0,
    *,
    pause: float = 0.0,
    turn: float = 0.0,
) -> dict[Name, np.ndarray]:
    """Seconds of a call, by name: all once, then all again, `rounds` times and for `seconds`.

    What else the machine does then hits all alike, and a ratio within one round is fair. The first
    round is thrown away.

    Args:
      contenders: what to call.
      rounds: at least so many.
      seconds: at least so long, pauses and all.
      pause: seconds of sleep before each turn, in no time that is returned.
      turn: a turn is one call, or as many as last so many seconds and their mean.
    """
    times: dict[Name, list[float]] = {name: [] for name in contenders}
    began = time.perf_counter()
    done = -1
    while done < rounds or time.perf_counter() - began < seconds:
        for name, call in contenders.items():
            if pause:
                time.sleep(pause)
            times[name].append(seconds_of(call, turn))
        done += 1
    return {name: np.array(values[1:]) for name, values in times.items()}


def seconds_of(call: Callable[[], Any], turn: float = 0.0) -> float:
    """Of one call, or of a mean one in a turn."""
    start, calls, elapsed = time.perf_counter(), 0, -1.0
    while elapsed < turn:
        call()
        calls, elapsed = calls + 1, time.perf_counter() - start
    return elapsed / calls


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """The first quartile, the median and the third."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def machine() -> dict[str, Any]:
    """What the numbers were taken on: processor, cores, device, versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": versions,
    }


def processor() -> str:
    """Its name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_line() -> str:
    """`machine` in one line."""
    facts = machine()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['processor']}, {facts['cores']} cores, device {facts['device']}; Python"
        f" {facts['python']}, {versions}."
    )


def digits(value: float) -> str:
    """With three digits that count."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def milliseconds(seconds: np.ndarray) -> str:
    """Their median."""
    return digits(1e3 * float(np.median(seconds)))


def median_ratio(seconds: np.ndarray, base: np.ndarray | None) -> float | None:
    """The ratio of the medians; None without a base."""
    return None if base is None else float(np.median(seconds) / np.median(base))


def ratio(seconds: np.ndarray, base: np.ndarray | None) -> str:
    """The ratio of the medians, and in brackets the quartiles of that within a round."""
    middle = median_ratio(seconds, base)
    if base is None or middle is None:
        return NOTHING
    low, _, high = quartiles(seconds / base)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

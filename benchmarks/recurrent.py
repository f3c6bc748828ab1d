"""How long does a layer-normalized recurrent layer take, forward and with gradient, beside others?

    python benchmarks/recurrent.py
    python benchmarks/recurrent.py --workloads=E --contenders="lnjax;Flax composition" --rounds=3
    python benchmarks/recurrent.py --workloads= --lengths=100,200,400,800,1600,3200,6400
    python benchmarks/recurrent.py --workloads= --widths=64,128,256,512,1024,2048

It needs jax, flax and numpy only; contenders of PyTorch and Keras take part where they are
installed. Times are medians over interleaved rounds, in each of which a contender is called for at
least a twentieth of a second. A ratio is that of the medians, with the quartiles of the ratio
within a round in brackets; below 1 is faster, or smaller, than the column's base.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from rivals import (
    COMPOSITION,
    CONTENDERS,
    NO_NORM,
    OURS,
    Runner,
    Workload,
    absence,
    add_workloads,
    build,
    known_names,
    mebibytes,
    time_passes,
    title,
)
from timing import (
    NOTHING,
    digits,
    machine,
    machine_line,
    median_ratio,
    milliseconds,
    options,
    ratio,
    table,
)

OPTIONAL = {"lnjax, scan", "lnjax, rms", "lnjax, no norm", "lnjax, bfloat16"}
DEFAULT = ";".join(name for name in CONTENDERS if name not in OPTIONAL)


@dataclass
class Result:
    """What was measured of one workload."""

    workload: Workload
    runners: dict[str, Runner]
    absent: dict[str, str]
    seconds: dict[str, dict[str, np.ndarray]]  # by pass and contender

    def ratio(self, which: str, name: str, base: str) -> str:
        times = self.seconds[which]
        return ratio(times[name], times.get(base))

    def median_ratio(self, which: str, name: str, base: str) -> float | None:
        times = self.seconds[which]
        return median_ratio(times[name], times.get(base)) if name in times else None

    def memory_ratio(self, name: str, base: str) -> float | None:
        if name not in self.runners or base not in self.runners:
            return None
        ours, theirs = self.runners[name].temporary_bytes, self.runners[base].temporary_bytes
        return ours / theirs if ours is not None and theirs else None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        contenders = {
            name: {
                **{f"{which}_seconds": list(times[name]) for which, times in self.seconds.items()},
                "compile_seconds": runner.compile_seconds,
                "temporary_bytes": runner.temporary_bytes,
            }
            for name, runner in self.runners.items()
        }
        return {
            "workload": asdict(self.workload),
            "contenders": contenders,
            "absent": self.absent,
        }


def measure(workload: Workload, args: argparse.Namespace) -> Result:
    makers = {name: partial(CONTENDERS[name], workload) for name in args.contenders}
    runners, absent = build(makers)
    return Result(workload, runners, absent, time_passes(runners, args))


def plain(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def workload_table(result: Result) -> str:
    columns = [
        "contender",
        "value and gradient, ms",
        f": {COMPOSITION}",
        f": {NO_NORM}",
        "forward, ms",
        f": {COMPOSITION}",
        "compiling forward / gradient, s",
        "temporary of gradient, MiB",
        f": {COMPOSITION}",
    ]
    rows = []
    for name, runner in result.runners.items():
        compiling = runner.compile_seconds
        rows.append(
            [
                name,
                milliseconds(result.seconds["gradient"][name]),
                result.ratio("gradient", name, COMPOSITION),
                result.ratio("gradient", name, NO_NORM),
                milliseconds(result.seconds["forward"][name]),
                result.ratio("forward", name, COMPOSITION),
                NOTHING if compiling is None else " / ".join(map(digits, compiling)),
                mebibytes(runner.temporary_bytes),
                plain(result.memory_ratio(name, COMPOSITION)),
            ]
        )
    return table(columns, rows)


def summary_table(results: dict[str, Result]) -> str:
    """The ratios of lnjax over all workloads, and their geometric means."""
    columns = [
        "workload",
        f"value and gradient : {COMPOSITION}",
        f"value and gradient : {NO_NORM}",
        f"forward : {COMPOSITION}",
        f"forward : {NO_NORM}",
        f"temporary of gradient : {COMPOSITION}",
    ]
    ratios = {
        name: [
            *(
                result.median_ratio(which, OURS, base)
                for which in ("gradient", "forward")
                for base in (COMPOSITION, NO_NORM)
            ),
            result.memory_ratio(OURS, COMPOSITION),
        ]
        for name, result in results.items()
    }
    rows = [[name, *map(plain, values)] for name, values in ratios.items()]
    means = map(geometric_mean, zip(*ratios.values(), strict=True))
    return table(columns, [*rows, ["geometric mean", *map(plain, means)]])


def geometric_mean(values: tuple[float | None, ...]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(there)))) if there else None


def sweep_table(symbol: str, results: dict[int, Result], contenders: list[str]) -> str:
    """Milliseconds of value and gradient against T, those of one step; or against H."""
    columns = [symbol, *contenders, f"{OURS} : {COMPOSITION}", f"{OURS} : {NO_NORM}"]
    rows = []
    for size, result in results.items():
        times = result.seconds["gradient"]
        steps = result.workload.steps if symbol == "T" else 1
        rows.append(
            [
                str(size),
                *(
                    milliseconds(times[name] / steps) if name in times else NOTHING
                    for name in contenders
                ),
                *(
                    result.ratio("gradient", OURS, base) if OURS in times else NOTHING
                    for base in (COMPOSITION, NO_NORM)
                ),
            ]
        )
    return table(columns, rows)


def sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def main() -> None:
    parser = options(__doc__, pause=True)
    add_workloads(parser)
    parser.add_argument(
        "--contenders",
        type=lambda text: known_names(text, ";", CONTENDERS),
        default=DEFAULT,
        help=f"semicolon list (default {DEFAULT}; also {'; '.join(sorted(OPTIONAL))})",
    )
    parser.add_argument(
        "--lengths", type=sizes, default=[], help="comma list of T, at B 8, H 128, D 128"
    )
    parser.add_argument(
        "--widths", type=sizes, default=[], help="comma list of H, at T 50, B 32, D = H"
    )
    parser.add_argument("--out", help="a JSON file for every time that was taken")
    args = parser.parse_args()
    record: dict[str, Any] = {"machine": machine()}

    def save(section: str, results: dict[Any, Result]) -> None:
        record[section] = {name: result.record() for name, result in results.items()}
        if args.out:
            with open(args.out, "w") as file:
                json.dump(record, file)

    results: dict[str, Result] = {}
    for name, workload in args.workloads.items():
        results[name] = measure(workload, args)
        print(title(name, workload))
        print(workload_table(results[name]) + absence(results[name].absent), flush=True)
        save("workloads", results)
    if results:
        print(f"\n## {OURS} : others\n\n{summary_table(results)}", flush=True)
    sweeps = {
        "T": ("ms per step", {size: Workload(size, 8, 128, 128) for size in args.lengths}),
        "H": ("ms", {size: Workload(50, 32, size, size) for size in args.widths}),
    }
    for symbol, (unit, workloads) in sweeps.items():
        swept: dict[int, Result] = {}
        for size, workload in workloads.items():
            swept[size] = measure(workload, args)
            save(symbol, swept)
        if swept:
            print(f"\n## Value and gradient against {symbol}, {unit}\n")
            print(sweep_table(symbol, swept, args.contenders), flush=True)
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()

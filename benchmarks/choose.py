"""Which chunks are fastest on this machine?

    python benchmarks/choose.py --workloads=A1,E
    python benchmarks/choose.py --workloads=C --lengths=4,8 --unrolls=8 --saved=all,carry

Value and gradient of `lnjax.RNN` with each candidate `Chunked(length, unroll, saved)`, interleaved
with what `lnjax.cells.choice.choose` takes. It needs jax, flax and numpy only. Every candidate is
compiled: with all of them that takes minutes a workload.
"""

import argparse
from functools import partial
from itertools import product

import numpy as np
from rivals import (
    Runner,
    Workload,
    add_workloads,
    build,
    known_names,
    mebibytes,
    of_lnjax,
    time_passes,
    title,
)
from timing import digits, machine_line, milliseconds, options, ratio, table

from lnjax.cells.choice import choose
from lnjax.cells.chunked import Chunked

SAVED = ("carry", "recurrent", "all")


def chosen(workload: Workload) -> Chunked:
    """What lnjax takes by itself."""
    size = workload.features
    return choose((workload.steps, workload.batch, workload.inputs), (size, workload.gates * size))


def candidates(workload: Workload, args: argparse.Namespace) -> list[Chunked]:
    """Every combination once, cut to the sequence and the chunk."""
    every = {}
    for length, unroll, saved in product(args.lengths, args.unrolls, args.saved):
        length = workload.steps if length == "T" else min(int(length), workload.steps)
        every[Chunked(length, min(unroll, length), saved)] = None
    return list(every)


def label(chunked: Chunked) -> str:
    return f'`Chunked({chunked.length}, {chunked.unroll}, "{chunked.saved}")`'


def compare(workload: Workload, args: argparse.Namespace) -> tuple[str, str]:
    """The table of a workload, and the line of what was fastest."""
    ours = label(chosen(workload))
    makers = {ours: partial(of_lnjax, workload)}
    for chunked in candidates(workload, args):
        maker = partial(of_lnjax, workload, implementation=chunked)
        makers.setdefault(label(chunked), maker)
    runners, _ = build(makers)
    times = time_passes(runners, args, ("gradient",))["gradient"]
    order = sorted(runners, key=lambda name: float(np.median(times[name])))
    best = order[0]

    def row(name: str, runner: Runner) -> list[str]:
        marks = [mark for mark, at in (("fastest", best), ("choice", ours)) if at == name]
        return [
            name,
            milliseconds(times[name]),
            ratio(times[name], times[ours]),
            mebibytes(runner.temporary_bytes),
            digits(sum(runner.compile_seconds)),
            ", ".join(marks),
        ]

    columns = ["candidate", "value and gradient, ms", ": choice", "temporary, MiB"]
    columns += ["compiling forward and gradient, s", ""]
    line = f"`choose` takes {ours}, {milliseconds(times[ours])} ms; "
    if best == ours:
        line += "nothing was faster."
    else:
        line += f"{best} was fastest, {milliseconds(times[best])} ms:"
        line += f" {ratio(times[best], times[ours])} of it."
    return table(columns, [row(name, runners[name]) for name in order]), line


def main() -> None:
    parser = options(__doc__)
    add_workloads(parser)
    parser.add_argument(
        "--lengths",
        type=lambda text: text.split(","),
        default="4,8,16,25,50,T",
        help="comma list of steps in a chunk, T for all of them (default 4,8,16,25,50,T)",
    )
    parser.add_argument(
        "--unrolls",
        type=lambda text: [int(unroll) for unroll in text.split(",")],
        default="1,8",
        help="comma list of steps in a loop's body, cut to the length (default 1,8)",
    )
    parser.add_argument(
        "--saved",
        type=lambda text: known_names(text, ",", SAVED),
        default=",".join(SAVED),
        help=f"comma list of {', '.join(SAVED)} (default all three)",
    )
    args = parser.parse_args()
    lines = {}
    for name, workload in args.workloads.items():
        text, lines[name] = compare(workload, args)
        print(title(name, workload))
        print(text, flush=True)
    print()
    for name, line in lines.items():
        print(f"- {name}: {line}")
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()

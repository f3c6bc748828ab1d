"""Where does the time of a recurrent layer's value and gradient go, beside its products?

    python benchmarks/thunks.py
    python benchmarks/thunks.py --workloads=D --contenders="lnjax;Flax, no norm"

XLA runs a compiled program on a CPU as a list of thunks: products, fusions, copies. The profiler
says when each began and ended. Per contender: thunks in a time step, and milliseconds by kind,
summed over the threads that ran them, so that they may add up to more than what a clock shows. A
fusion counts as what is dearest in it: a product, else a sum over rows, else an exponential or
tanh, else arithmetic; what only moves numbers is a copy.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rivals import CONTENDERS, WORKLOADS, Workload
from timing import digits, machine_line, table

KINDS = ("products", "row sums", "exponentials", "arithmetic", "copies")
DEFAULT = "lnjax;Flax composition;Flax, no norm"
CALLS = 3  # that are profiled, after one that is not

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (?:\([^=]*\)|\S+) ([\w-]+)\(")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")

_PRODUCTS = {"dot", "convolution"}
_SUMS = {"reduce", "reduce-window"}
_EXPONENTIALS = {"exponential", "tanh", "logistic", "log", "exponential-minus-one", "erf"}
_MOVES = {
    *("copy", "bitcast", "broadcast", "slice", "dynamic-slice", "dynamic-update-slice", "reshape"),
    *("transpose", "concatenate", "pad", "iota", "constant", "parameter", "tuple", "convert"),
    *("get-tuple-element", "copy-start", "copy-done", "reverse", "compare", "select", "add-index"),
}


def instructions(text: str) -> dict[str, dict[str, tuple[str, str | None]]]:
    """Of compiled HLO, by computation and instruction: the operation, and what it calls."""
    found: dict[str, dict[str, tuple[str, str | None]]] = {}
    inside: dict[str, tuple[str, str | None]] = {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            inside = found.setdefault(head[1], {})
        elif instruction := _INSTRUCTION.match(line):
            called = _CALLED.search(line)
            inside[instruction[1]] = (instruction[2], called[1] if called else None)
    return found


def kinds(text: str) -> dict[str, str]:
    """The kind of every instruction that may become a thunk, by its name."""
    computations = instructions(text)

    def operations(name: str) -> Iterator[str]:
        for operation, called in computations[name].values():
            yield operation
            if called in computations:
                yield from operations(called)

    found = {}
    for inside in computations.values():
        for name, (operation, called) in inside.items():
            within = {operation, *(operations(called) if called in computations else ())}
            if operation in ("while", "conditional", "call"):
                continue
            if within & _PRODUCTS or "matmul" in name:
                found[name] = "products"
            elif within & _SUMS:
                found[name] = "row sums"
            elif within & _EXPONENTIALS:
                found[name] = "exponentials"
            elif within - _MOVES - {"fusion", "custom-call"}:
                found[name] = "arithmetic"
            else:
                found[name] = "copies"
    return found


def events(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and seconds of everything that the profiler saw on the host."""
    (path,) = folder.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                yield event.name, event.duration_ns / 1e9


def profile(workload: Workload, name: str) -> tuple[float, Counter, Counter]:
    """Seconds of one call without the profiler, and thunks and seconds by kind of one with it."""
    runner = CONTENDERS[name](workload)
    if runner.text is None:
        raise SystemExit(f"{name} is not compiled by XLA, so that it has no thunks")
    of = kinds(runner.text)
    runner.gradient()
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        runner.gradient()
        times.append(time.perf_counter() - began)
    count, seconds = Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                runner.gradient()
        for event, lasted in events(Path(folder)):
            if kind := of.get(event):
                count[kind] += 1 / CALLS
                seconds[kind] += lasted / CALLS
    return float(np.median(times)), count, seconds


def rows(key: str, contenders: list[str]) -> Iterator[list[str]]:
    workload = WORKLOADS[key]
    for name in contenders:
        taken, count, seconds = profile(workload, name)
        yield [
            key,
            name,
            digits(1000 * taken),
            digits(sum(count.values()) / workload.steps),
            *(digits(1000 * seconds[kind]) for kind in KINDS),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="of benchmarks/rivals.py")
    parser.add_argument("--contenders", default=DEFAULT, help="those of JAX, ; between them")
    options = parser.parse_args()
    head = ["workload", "contender", "ms", "thunks a step", *(f"{kind}, ms" for kind in KINDS)]
    print(machine_line())
    print()
    contenders = options.contenders.split(";")
    found: list[Any] = []
    for key in options.workloads.split(","):
        found += rows(key, contenders)
    print(table(head, found))


if __name__ == "__main__":
    main()

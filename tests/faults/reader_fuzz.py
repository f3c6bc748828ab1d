"""Damages the files of every reader and looks at what comes back; run as a process of its own.

    python tests/faults/reader_fuzz.py --number=500 --out=report.json ["SICK" ...]

Each mutation is one of:

    refused      the reader's one documented error, with the name of a file of the set
    equal        accepted, and what was read is what is read from the intact files
    other        accepted with other content; then its digest is another too, if it has one
    violation    anything else: another exception, other content under the same digest, other
                 content of a set that exists in one version only, too long, too much memory

The process is limited: a mutation may take SECONDS and raise the peak of resident memory by MEBI.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if __name__ == "__main__":  # else a package called tests in the environment would come first
    sys.modules["tests"] = types.ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]
    sys.modules["tests"].__file__ = __file__  # TFDS looks for it

from lnjax.data import DataError
from tests.faults import mutations
from tests.faults.reader_cases import CASES, Read, Reader

SECONDS = 20
MEBI = 256  # above what the process had before the mutation
ROOM = 2 << 30  # address space above what the process begins with


class TooLong(BaseException):
    """Not an Exception: no reader may swallow it."""


def fingerprint(value: Any) -> str:
    """Tells any two contents apart: types, names, shapes, bits."""
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            total.update(f"array {value.dtype.str} {value.shape} ".encode())
            total.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict):
            total.update(f"dict {len(value)} ".encode())
            for key, inner in value.items():
                add(key)
                add(inner)
        elif isinstance(value, list | tuple):
            total.update(f"list {len(value)} ".encode())
            for inner in value:
                add(inner)
        else:
            text = repr(value).encode("utf-8", "surrogatepass")
            total.update(f"{type(value).__name__} {len(text)} ".encode() + text)

    add(value)
    return total.hexdigest()


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Ends what takes longer than SECONDS."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def memory(field: str) -> int:
    """A field of /proc/self/status, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.split("\n") if line.startswith(field)).split()[1])


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def one(reader: Reader, intact: Read, names: set[str]) -> tuple[str, str]:
    """What became of a mutation, and what was told."""
    try:
        with limited():
            found = reader.read()
            content = fingerprint(found.content)
    except TooLong:
        return "violation", f"longer than {SECONDS} s"
    except reader.errors as error:
        if type(error) not in (reader.errors, DataError):
            return "violation", f"{type(error).__name__}: {str(error)[:300]}"
        if not any(name in str(error) for name in names):
            return "violation", f"names no file: {str(error)[:300]}"
        return "refused", str(error)[:300]
    except BaseException as error:
        return "violation", f"{type(error).__name__}: {str(error)[:300]}"
    if content == fingerprint(intact.content):
        return "equal", ""
    if reader.pinned:
        return "violation", "other content of a set that exists once"
    if found.digest is not None and found.digest == intact.digest:
        return "violation", "other content under the same digest"
    return "other", ""


def fuzz(name: str, number: int, first: int = 0) -> dict[str, Any]:
    """The counts, and each violation with the number that repeats it."""
    report: dict[str, Any] = {"refused": 0, "equal": 0, "other": 0, "violation": 0}
    violations = []
    peak, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        folder = Path(temporary, "files")
        folder.mkdir()
        reader = CASES[name](folder, patch)
        intact = reader.read()
        assert fingerprint(intact.content) == fingerprint(reader.read().content)
        contents = {path: path.read_bytes() for path in reader.files}
        names = {path.name for path in reader.files} | {folder.name}
        for seed in range(first, first + number):
            rng = random.Random(f"{name} {seed}")
            damage = mutations.carry_out(reader.files, rng)
            before = memory("VmRSS")
            reset_peak()
            start = time.perf_counter()
            outcome, told = one(reader, intact, names)
            slowest = max(slowest, time.perf_counter() - start)
            grown = (memory("VmHWM") - before) / 1024
            if grown > MEBI:
                outcome, told = "violation", f"{grown:.0f} MiB; {outcome}: {told}"
            peak = max(peak, grown)
            report[outcome] += 1
            if outcome == "violation":
                where = f"{damage.path.relative_to(folder)}: {damage.kind}"
                violations.append(f"{name} {seed}: {where}: {told}")
            reader.reset()
            restore(damage.path, contents[damage.path])
        assert reader.read().digest == intact.digest
    return report | {
        "number": number,
        "peak_mib": round(peak, 1),
        "seconds": round(slowest, 2),
        "violations": violations,
    }


def restore(path: Path, content: bytes) -> None:
    """Puts a file back, whatever stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    warnings.simplefilter("error")
    report = {}
    with open(os.devnull, "w") as nowhere:
        for name in options.names or CASES:
            start = time.perf_counter()
            with contextlib.redirect_stderr(nowhere):
                report[name] = fuzz(name, options.number, options.first)
            counts = {key: value for key, value in report[name].items() if key != "violations"}
            print(f"{name}: {counts} in {time.perf_counter() - start:.1f} s", flush=True)
            for line in report[name]["violations"]:
                print("   ", line.encode("unicode_escape").decode()[:400], flush=True)
            Path(options.out).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    import tensorflow_datasets  # noqa: F401

    limit = memory("VmSize") * 1024 + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    main()
    sys.exit(0)

"""What every reader makes of damaged files: hundreds of mutations each, see `reader_fuzz`.

All of them run in one process with limits of its own; the tests below ask what became of each
reader. `pytest -m slow` has 500 mutations a reader, the others are the first 40 of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import runs
from tests.faults import mutations
from tests.faults.reader_cases import CASES

FUZZ = Path(__file__).with_name("reader_fuzz.py")
FAST, ALL = 40, 500


def fuzzed(folder: Path, number: int) -> dict:
    """The report over all readers; a pickle that ran would have left a file in the folder."""
    command = [sys.executable, str(FUZZ), f"--number={number}", f"--out={folder / 'report.json'}"]
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == ["report.json"]
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return fuzzed(tmp_path_factory.mktemp("fuzz"), FAST)


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory):
    return fuzzed(tmp_path_factory.mktemp("fuzz"), ALL)


def check(report: dict, number: int) -> None:
    assert report["violations"] == []
    assert report["refused"] + report["equal"] + report["other"] == report["number"] == number
    assert report["refused"] > number / 4  # the mutations do meet what the reader looks at


@pytest.mark.parametrize("name", CASES)
def test_damage_is_refused_or_seen(some, name):
    check(some[name], FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_damage_is_refused_or_seen_500_times(all_of_them, name):
    check(all_of_them[name], ALL)


# ---- the oracle itself: a reader that does one thing wrong is found out -------------------------

WRONG = {
    "another exception": ("json.loads(path.read_bytes())", "JSONDecodeError"),
    "the same digest": ("path", "other content under the same digest"),
    "no file named": ("refuse('it is bad')", "names no file"),
    "too long": ("path.open('rb').read() and time.sleep(60)", "longer than"),
    "too much memory": ("len(b'x' * (400 << 20))", "MiB"),
}
PROBE = """
import json, sys, time
from pathlib import Path
fuzz, wrong = sys.argv[1], json.loads(sys.argv[2])
head = Path(fuzz).read_text().rsplit("if __name__", 1)[0].replace("SECONDS = 20", "SECONDS = 1")
names = {"__name__": "__main__", "__file__": fuzz}
exec(compile(head, fuzz, "exec"), names)
from tests.faults import reader_cases as cases
def refuse(told):
    raise cases.DataError(told)
def case(act):
    def make(folder, patch):
        path = folder / "file"
        path.write_bytes(b"12345")
        def read():
            if path.read_bytes() != b"12345":
                exec(act, globals(), {"path": path})
            return cases.Read(path.read_bytes(), "digest")
        return cases.Reader(read, [path])
    return make
def damage(files, rng):
    files[0].write_bytes(b"other")
    return names["mutations"].Damage("other", files[0])
cases.CASES.update({name: case(act) for name, act in wrong.items()})
names["mutations"].carry_out = damage
sys.argv = ["fuzz", "--out=report.json", "--number=2", *wrong]
names["main"]()
"""


def test_wrong_readers_are_found_out(tmp_path):
    acts = json.dumps({name: act for name, (act, _) in WRONG.items()})
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(FUZZ), acts],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads((tmp_path / "report.json").read_text())
    for name, (_, told) in WRONG.items():
        assert reports[name]["violation"] == 2, name
        assert all(told in line for line in reports[name]["violations"]), name


def test_mutations_repeat_themselves(tmp_path):
    import random

    path = tmp_path / "file"
    changes = {change.__name__ for change in mutations.CHANGES}
    seen = set()
    for seed in range(200):
        results = []
        for _ in range(2):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(b'{"step": 10, "text": "a line\\n"}\n' * 20)
            damage = mutations.carry_out([path], random.Random(seed))
            plain = path.is_file() and not path.is_symlink()
            results.append((damage.kind, path.read_bytes() if plain else b""))
        assert results[0] == results[1]
        seen.add(results[0][0])
    kinds = changes | set(mutations.REPLACEMENTS) | set(mutations.NODES)
    assert len(seen & kinds) > 0.9 * len(kinds)

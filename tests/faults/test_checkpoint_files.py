"""Random damage to every file of a checkpoint that a run has written: found, and named."""

import os
import random
import shutil

import pytest

from lnjax.training import manifest
from tests.faults.processes import zygote as zygote
from tests.runs import caches as caches
from tests.runs import rows, steps


@pytest.fixture(scope="module")
def run_folder(zygote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    code, told = zygote.run(folder)
    assert code == 0, told
    return folder


def flip_a_bit(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def delete(path, rng):
    path.unlink()


DAMAGES = {flip_a_bit: 40, truncate: 5, delete: 1}


def test_any_damage_to_any_file_is_found(run_folder, tmp_path):
    """What `Checkpoints.restore` asks before it reads: test_checkpoint shows that it does."""
    folder = tmp_path / "60"
    source = run_folder / "checkpoints"
    shutil.copytree(source / "60", folder)
    sums = shutil.copy(source / "60.sha256", tmp_path / "60.sha256")
    assert manifest.sums_problem(folder, sums) is None
    rng, trials = random.Random(0), 0
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in (*files, sums):
        intact = path.read_bytes()
        for damage, times in DAMAGES.items():
            for _ in range(times if intact or damage is delete else 0):
                damage(path, rng)
                problem = manifest.sums_problem(folder, sums)
                # A damaged list may name another file than there is.
                assert problem is not None, (path, damage)
                assert path == sums or f"60/{path.relative_to(folder)}: " in problem
                path.write_bytes(intact)
                trials += 1
    assert manifest.sums_problem(folder, sums) is None and trials > 400
    print(f"\n{trials} damages to {len(files) + 1} files, all found")


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_falls_back_from_each_damaged_file(zygote, run_folder, tmp_path, damage):
    """A new process for every file of the newest checkpoint; it ends where it should, too."""
    newest = run_folder / "checkpoints" / "60"
    rng = random.Random(1)
    files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    files = [path for path in files if path.stat().st_size] + [newest.with_suffix(".sha256")]
    for number, path in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(run_folder, folder)
        damage(folder / path.relative_to(run_folder), rng)
        code, told = zygote.run(folder)
        (line,) = [line for line in told.splitlines() if line.startswith("refused: step 60: ")]
        name = "60" if path.suffix == ".sha256" else str(path.relative_to(newest.parent))
        assert code == 0 and name in line and f"going on from step 50 of {folder}" in told, told
        assert steps(folder)[-1] == 60 and rows(folder) == rows(run_folder)
    print(f"\n{len(files)} files, each refused by name, none loaded")

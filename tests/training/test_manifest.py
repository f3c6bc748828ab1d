import datetime
import json
import os
import subprocess

import jax
import numpy as np
import pytest

from lnjax.training import manifest


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    result = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        check=True,
        text=True,
    )
    return result.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "module.py").write_text("x = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_run_manifest_says_what_ran(monkeypatch):
    jax.devices()  # XLA reads its flags once; those set below are only to be written down
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_this_test=1")
    monkeypatch.setattr("sys.orig_argv", ["python", "train.py", "--workdir=my runs"])
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = json.loads(json.dumps(manifest.run_manifest(7, {"config": {"norm": "layer"}})))
    assert found["seed"] == 7 and found["config"] == {"norm": "layer"}
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert {"jaxlib", "flax", "optax", "orbax-checkpoint", "grain"} < found["versions"].keys()
    assert found["device_count"] == len(jax.devices())
    assert found["device_kind"] == jax.devices()[0].device_kind
    assert found["xla_flags"] == "--xla_of_this_test=1"
    assert found["command"] == "python train.py '--workdir=my runs'"
    start = datetime.datetime.fromisoformat(found["start_time"])
    assert before <= start <= datetime.datetime.now(datetime.UTC)
    assert "extra" not in found
    with pytest.raises(ValueError, match="git, seed"):
        manifest.run_manifest(7, {"seed": 8, "git": None, "other": 1})


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "_DISTRIBUTIONS", ("jax", "no-such-distribution"))
    versions = manifest.run_manifest(0)["versions"]
    assert versions == {"jax": jax.__version__, "no-such-distribution": None}


def test_git_state(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert manifest.git_state(checkout / "package") == {"commit": commit, "dirty": False}
    (checkout / "results").mkdir()
    (checkout / "results" / "new.txt").write_text("of a run")
    assert manifest.git_state(checkout / "package") == {"commit": commit, "dirty": False}
    # A folder that the project does not track, such as an environment, is not of that commit.
    assert manifest.git_state(checkout / "results") is None
    (checkout / "package" / "module.py").write_text("x = 2\n")
    assert manifest.git_state(checkout / "package") == {"commit": commit, "dirty": True}


def test_outside_git_and_without_git(checkout, tmp_path, monkeypatch):
    assert manifest.git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest.git_state(checkout / "package") is None
    assert manifest.run_manifest(0)["git"] is None


def test_write_json_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    manifest.write_json(path, {"a": [1, 2.5, None, "ä"]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None, "ä"]}
    before = path.read_bytes()
    with pytest.raises(ValueError):
        manifest.write_json(path, {"loss": float("nan")})
    with pytest.raises(TypeError):
        manifest.write_json(path, {"a": object()})

    def crash(handle):
        raise OSError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="crash"):
            manifest.write_json(path, {"a": 2})
    assert path.read_bytes() == before
    manifest.write_json(path, {"a": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


@pytest.fixture
def summed(tmp_path):
    folder = tmp_path / "written"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"a" * 100)
    (folder / "deep" / "b").write_bytes(b"")
    manifest.write_sums(folder, tmp_path / "5.sha256", "5")
    return folder.rename(tmp_path / "5"), tmp_path / "5.sha256"


def test_sums_are_in_the_format_of_sha256sum(summed):
    _, sums = summed
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    first, second = sums.read_text().splitlines()
    assert first.endswith("  5/a") and len(first) == 64 + 5
    assert second == f"{empty}  5/deep/b"


def test_any_bit_of_the_list_that_flips_is_found(summed):
    folder, sums = summed
    intact = sums.read_bytes()
    for bit in range(8 * len(intact)):
        data = bytearray(intact)
        data[bit // 8] ^= 1 << bit % 8
        sums.write_bytes(data)
        assert manifest.sums_problem(folder, sums) is not None, (bit, bytes(data))


def test_sums_problem_names_the_file(summed):
    folder, sums = summed
    assert manifest.sums_problem(folder, sums) is None
    (folder / "deep" / "b").write_bytes(b"x")
    assert manifest.sums_problem(folder, sums).startswith("5/deep/b: changed")
    (folder / "deep" / "b").unlink()
    assert manifest.sums_problem(folder, sums) == "5/deep/b: missing"
    (folder / "deep" / "b").write_bytes(b"")
    (folder / "c").write_bytes(b"")
    assert manifest.sums_problem(folder, sums) == "5/c: not in 5.sha256"
    (folder / "c").unlink()
    sums.write_bytes(b"\xff" + sums.read_bytes())
    assert manifest.sums_problem(folder, sums).startswith("5/a: changed")
    sums.write_text("nothing of the kind\n")
    assert manifest.sums_problem(folder, sums).startswith("5.sha256: damaged")
    sums.unlink()
    assert manifest.sums_problem(folder, sums).startswith("5.sha256: missing")
    assert manifest.sums_problem(folder.with_name("6"), sums) == "6: the folder is missing"


def linked(path):
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [linked, device, pipe])
def test_only_plain_files_are_vouched_for(summed, change):
    folder, sums = summed
    assert manifest.sums_problem(folder, sums) is None
    change(next(path for path in sorted(folder.rglob("*")) if path.is_file()))
    assert "a link, device or pipe" in manifest.sums_problem(folder, sums)


def test_folders_may_be_no_links_either(summed):
    folder, sums = summed
    inside = next(path for path in sorted(folder.rglob("*")) if path.is_dir())
    inside.rename(folder.parent / "outside")
    inside.symlink_to(folder.parent / "outside", target_is_directory=True)
    assert "a link, device or pipe" in manifest.sums_problem(folder, sums)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"a": 1', '{"a": NaN}', '{"a": 1, "a": 2}', '{"a":' * 100_000, b"\xff", None],
)
def test_json_that_was_not_written_by_write_json(tmp_path, content):
    path = tmp_path / "file.json"
    if content is None:
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=rf"{path} is damaged \(.*\); restore it from a copy"):
        manifest.read_json(path)
    with pytest.raises(FileNotFoundError):
        manifest.read_json(tmp_path / "nothing")

"""python -m lnjax.data: counts, exit codes, messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lnjax.data import __main__ as command
from tests.data.image_files import AmatFolder, CifarFolder, IdxFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LNJAX_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments):
    return command.main([*arguments, "--task", "handwriting"])


def test_prepare_and_check_a_small_real_tree(iam, cache, capsys):
    real = ("--config", "real", "--manual_dir", str(iam.base))
    assert run("check", *real) == 0
    assert not cache.exists()
    checked = capsys.readouterr().out
    assert run("prepare", *real) == 0
    prepared = capsys.readouterr().out
    assert cache.exists() and prepared == checked
    assert prepared.splitlines()[0] == "handwriting/real: records by split"
    assert [line.split() for line in prepared.splitlines()[1:]] == [
        ["train", "5", "expected", "5364", "(-5359)"],
        ["validation", "2", "expected", "1438", "(-1436)"],
        ["validation2", "1", "expected", "1518", "(-1517)"],
        ["test", "2", "expected", "3859", "(-3857)"],
    ]


def test_image_sets(tmp_path, monkeypatch, cache, capsys):
    folders = {
        "digits": IdxFolder(tmp_path / "mnist", monkeypatch),
        "fashion_mnist": IdxFolder(tmp_path / "fashion_mnist", monkeypatch, "fashion_mnist"),
        "cifar10": CifarFolder(tmp_path / "cifar10", monkeypatch),
        "binarized_mnist": AmatFolder(tmp_path / "binarized_mnist", monkeypatch),
    }
    train = {"digits": 25, "fashion_mnist": 25, "cifar10": 90, "binarized_mnist": 12}
    for task, folder in folders.items():
        arguments = ["--task", task, "--config", "real", "--manual_dir", str(folder.base)]
        assert command.main(["check", *arguments]) == 0
        assert not (cache / task).exists()
        checked = capsys.readouterr().out
        assert command.main(["prepare", *arguments]) == 0
        assert capsys.readouterr().out == checked
        assert checked.splitlines()[0] == f"{task}/real: records by split"
        name, found, _, expected, _ = checked.splitlines()[1].split()
        assert (name, found) == ("train", str(train[task])) and int(expected) >= 45_000


@pytest.mark.parametrize("task", ["fashion_mnist", "cifar10"])
def test_set_without_an_embedded_config(task, cache, capsys):
    for arguments in ([], ["--config", "embedded"]):
        with pytest.raises(SystemExit) as caught:
            command.main(["prepare", "--task", task, *arguments])
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert f"{task} has no config 'embedded'" in message and "--config real" in message
    assert not cache.exists()


def test_embedded(embedded, embedded_cache, monkeypatch, capsys):
    assert run("check") == 0
    assert "is not prepared" in capsys.readouterr().out
    monkeypatch.setenv("LNJAX_DATA_DIR", str(embedded_cache))
    for name in ("check", "prepare"):
        assert run(name) == 0
        assert "train          4000  expected    4000\n" in capsys.readouterr().out


def test_refusal_is_one_message_and_exit_code_2(iam):
    iam.write(iam.base / "trainset.txt", "a01-000u\nk01-001u\n")
    arguments = ["prepare", "--task", "handwriting", "--config", "real"]
    done = subprocess.run(
        [sys.executable, "-m", "lnjax.data", *arguments, "--manual_dir", str(iam.base)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "k01-001u (trainset.txt line 2)" in message
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--config", "real"], "needs --manual_dir"),
        (["prepare", "--manual_dir", "x"], "--manual_dir is for --config real"),
        (["repair"], "invalid choice: 'repair'"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err

"""Runs of train.py on the attentive reader as a user starts them, and what sample.py says."""

import shutil

import pytest

from configs import attentive_reader as config_file
from lnjax.data import cloze, prepare
from lnjax.data.cloze_questions import ClozeQuestions
from tasks import attentive_reader
from tests import runs
from tests.runs import rows

CONFIG = "--config=configs/attentive_reader.py:smoke"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder, held-out questions, what it told; what sample.py said."""
    folder = tmp_path_factory.mktemp("reader") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs.share_caches(tmp_path_factory, monkeypatch)
        held_out = list(prepare(ClozeQuestions, "embedded").splits["validation"])
        done = runs.run(["train.py", CONFIG, f"--workdir={folder}"])
        assert done.returncode == 0, done.stderr
        asked = runs.run(["sample.py", f"--workdir={folder}", f"--out={folder / 'x.png'}"])
    return folder, held_out, done.stderr, asked


def test_what_a_run_leaves(trained):
    folder, held_out, told, _ = trained
    first = rows(folder)
    assert {name for row in first for name in row} == {
        *("step", "train/grad_norm"),
        *(f"{split}/{name}" for split in ("train", "eval") for name in ("loss", "accuracy")),
        *("train/error", "eval/error"),
    }
    (last,) = [row for row in first if "eval/loss" in row]
    assert last["step"] == 20 and 0 < last["eval/accuracy"] < 0.5
    assert last["eval/accuracy"] + last["eval/error"] == pytest.approx(1)
    right = last["eval/accuracy"] * len(held_out)  # every question counts, and counts once
    assert right == pytest.approx(round(right), abs=1e-2)
    for name, value in cloze.baselines(held_out).items():
        line = f"cloze_questions/embedded: eval/accuracy of {name}: {value:.3f}"
        assert line in told.splitlines()


def test_the_batches_go_on_where_they_were(tmp_path_factory, monkeypatch):
    runs.share_caches(tmp_path_factory, monkeypatch)
    runs.assert_goes_on(attentive_reader.make_data(config_file.get_config("smoke")).train)


@pytest.mark.slow  # test_train has it of handwriting; the test above has what differs, the data
def test_a_resumed_run_is_the_same(trained, tmp_path, tmp_path_factory, monkeypatch):
    runs.share_caches(tmp_path_factory, monkeypatch)
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    for path in (folder / "checkpoints").glob("20*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = runs.run(["train.py", CONFIG, f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    assert f"going on from step 10 of {folder}" in done.stderr
    assert rows(folder) == rows(trained[0])


def test_there_is_nothing_to_draw(trained):
    *_, asked = trained
    assert asked.returncode == 2
    (line,) = [line for line in asked.stderr.splitlines() if line.startswith("error: ")]
    assert "attentive_reader" in line and not asked.stdout

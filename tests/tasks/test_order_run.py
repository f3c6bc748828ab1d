"""A run of train.py on order embeddings, stopped and gone on with; what sample.py finds with it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import runs
from tests.test_sample import SEVERAL
from tests.test_train import assert_same_run, rows

pytestmark = pytest.mark.xdist_group("order-run")

# With a constant rate the number of steps may change, and so a run can stop and go on.
ARGUMENTS = ("--config=configs/order_embeddings.py:smoke", "--config.schedule=constant")
ARGUMENTS += ("--config.eval_steps=10",)


def train(folder, *arguments):
    done = runs.run(["train.py", *ARGUMENTS, f"--workdir={folder}", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs.share_caches(tmp_path_factory, monkeypatch)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and what it told."""
    folder = tmp_path_factory.mktemp("order") / "run"
    return folder, train(folder)


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory):
    """Exit code, stdout and stderr of every call below, and the folder of the files."""
    out = tmp_path_factory.mktemp("found")
    other = out / "other-data"
    shutil.copytree(trained[0], other)
    description = json.loads((other / "data.json").read_text())
    description["spec"]["digest"] = "0" * 64
    (other / "data.json").write_text(json.dumps(description))

    def call(name, *arguments, workdir=trained[0]):
        return [f"--workdir={workdir}", f"--out={out / name}", *arguments]

    seven = "--query=a three above a seven"
    calls = {
        "png": call("a.png", seven, "--query=An eight top left, and a one bottom right."),
        "txt": call("a.txt", seven),
        "again": call("b.txt", seven),
        "unknown": call("x1.png", "--query=a thre above a dog"),
        "empty": call("x2.png", "--query=..."),
        "no query": call("x3.png"),
        "suffix": call("x4.svg", seven),
        "num": call("x5.png", seven, "--num=3"),
        "other data": call("x6.png", seven, workdir=other),
    }
    before = runs.contents(trained[0])
    done = runs.run(["-c", SEVERAL, json.dumps(list(calls.values()))])
    assert done.returncode == 0, done.stderr
    assert runs.contents(trained[0]) == before
    return out, dict(zip(calls, json.loads(done.stdout), strict=True))


def test_what_a_run_leaves(trained):
    folder, told = trained
    names = {name for row in rows(folder) for name in row}
    scores = [
        f"{kind}_{score}"
        for kind in ("image", "caption")
        for score in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "mean_rank")
    ]
    assert names == {
        *("step", "train/grad_norm", "train/loss", "train/violations"),
        *(
            f"{split}/{name}"
            for split in ("eval", "test")
            for name in (*scores, "selection", "loss", "violations")
        ),
    }
    last = rows(folder)[-1]
    assert last["step"] == 20
    assert 1 <= last["eval/image_median_rank"] <= 50 and last["eval/image_mean_rank"] < 40
    recalls = [last[f"test/image_recall_at_{k}"] for k in (1, 5, 10)]
    assert recalls == sorted(recalls) and last["test/selection"] == pytest.approx(sum(recalls))
    assert "image_recall_at_10 of chance, 50 images: 0.200" in told
    assert not (folder / "samples").exists()


def test_stopped_and_gone_on_with(trained, tmp_path):
    train(tmp_path, "--config.num_steps=10")
    assert f"going on from step 10 of {tmp_path}" in train(tmp_path)
    assert_same_run(tmp_path, trained[0])


def test_found(trained, found):
    folder, told = found
    for name in ("a.png", "a.txt"):
        assert told[name[2:]] == [0, f"{folder / name} (step 20 of {trained[0]})\n", ""]
    lines = (folder / "a.txt").read_text().splitlines()
    assert lines[0] == "a three above a seven" and len(lines) == 11
    assert [int(line.split()[0]) for line in lines[1:]] == [*range(1, 11)]
    distances = [float(line.split()[1]) for line in lines[1:]]
    assert distances == sorted(distances) and 0 <= distances[0] < distances[-1] < 1
    ids = [line.split()[2] for line in lines[1:]]
    assert len(set(ids)) == 10 and all(name.startswith("test/") for name in ids)
    assert (folder / "b.txt").read_bytes() == (folder / "a.txt").read_bytes()
    with Image.open(folder / "a.png") as sheet:
        assert sheet.format == "PNG" and sheet.info["Title"] == "embedded test images"
        assert sheet.size[0] > 10 * 2 * 56 and sheet.size[1] > 2 * 2 * 56
        pixels = np.asarray(sheet)
    assert np.mean(pixels < 128) > 0.01  # digits, not blank paper


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unknown", ["cannot look for 'dog', 'thre'", "above", "seven"]),
        ("empty", ["no word to look for in '...'"]),
        ("no query", ['--query="a three above a seven"']),
        ("suffix", ["x4.svg", ".png, .txt"]),
        ("num", ["--num is for draw, and the run is one of order_embeddings"]),
        ("other data", ["not those that the run was trained with", "train again"]),
    ],
)
def test_refusals(found, name, parts):
    folder, told = found
    code, out, err = told[name]
    assert code == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert not list(folder.glob("x[1-9].*"))

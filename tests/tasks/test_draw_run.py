"""A run of train.py on DRAW as a user starts it, and what sample.py makes of it."""

import json

import pytest
from PIL import Image

from tests import runs
from tests.test_sample import SEVERAL


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and what it told."""
    folder = tmp_path_factory.mktemp("draw") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs.share_caches(tmp_path_factory, monkeypatch)
        done = runs.run(["train.py", "--config=configs/draw.py:smoke", f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """Exit code, stdout and stderr of every call below, and the folder of the pictures."""
    out = tmp_path_factory.mktemp("pictures")

    def call(name, *arguments):
        return [f"--workdir={trained[0]}", f"--out={out / name}", *arguments]

    calls = {
        "png": call("a.png", "--num=5"),
        "again": call("b.png", "--num=5"),
        "seed": call("c.png", "--num=5", "--seed=1"),
        "gif": call("a.gif", "--num=3"),
        "copy": call("copy.gif", "--num=3", "--copy"),
        "too many": call("x1.png", "--num=101"),
        "too many copies": call("x2.png", "--num=17", "--copy"),
        "suffix": call("x3.svg"),
        "text": call("x4.png", "--text=a"),
        "no folder": call("nowhere/x5.png"),
    }
    before = runs.contents(trained[0])
    with pytest.MonkeyPatch.context() as monkeypatch:
        runs.share_caches(tmp_path_factory, monkeypatch)
        done = runs.run(["-c", SEVERAL, json.dumps(list(calls.values()))])
    assert done.returncode == 0, done.stderr
    assert runs.contents(trained[0]) == before
    return out, dict(zip(calls, json.loads(done.stdout), strict=True))


def test_what_a_run_leaves(trained):
    folder, told = trained
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row}
    assert names == {
        *("step", "seconds", "train/grad_norm"),
        *(f"{split}/{name}" for split in ("train", "eval") for name in ("loss", "nats")),
        *(f"{split}/{name}" for split in ("train", "eval") for name in ("reconstruction", "kl")),
        "eval/nats_importance_weighted",
    }
    (last,) = [row for row in rows if "eval/nats" in row]
    assert last["step"] == 20
    assert last["eval/nats"] == pytest.approx(last["eval/reconstruction"] + last["eval/kl"])
    assert last["eval/nats"] < 543.5  # 784 log 2: a blank canvas
    near = pytest.approx(last["eval/nats"], rel=0.02)
    assert last["eval/nats_importance_weighted"] == near
    (line,) = [line for line in told.splitlines() if "independent pixels" in line]
    assert line.startswith("binarized_mnist/embedded: nats of independent pixels: 20")
    with Image.open(folder / "samples" / "00000020.png") as sheet:
        assert sheet.info["Title"] == "binarized_mnist/embedded, step 20"


def test_pictures(trained, drawn):
    folder, told = drawn
    for name, path in (("png", "a.png"), ("gif", "a.gif"), ("copy", "copy.gif")):
        assert told[name] == [0, f"{folder / path} (step 20 of {trained[0]})\n", ""]
    first, again, seed = ((folder / f"{name}.png").read_bytes() for name in "abc")
    assert first == again and seed != first
    with Image.open(folder / "a.png") as sheet, Image.open(folder / "a.gif") as gif:
        assert sheet.format == "PNG"
        assert gif.n_frames == 3 + 1
        with Image.open(folder / "copy.gif") as copy:  # beside each its original
            assert copy.n_frames == 3 + 1 and copy.size[0] > gif.size[0]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("too many", ["num=101", "between 1 and 100"]),
        ("too many copies", ["num=17", "16 held-out images"]),
        ("suffix", ["x3.svg", ".png, .gif"]),
        ("text", ["--text is for handwriting, and the run is one of draw"]),
        ("no folder", ["nowhere", "x5.png"]),
    ],
)
def test_refusals(drawn, name, parts):
    folder, told = drawn
    code, out, err = told[name]
    assert code == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert not list(folder.rglob("x[1-5].*"))

"""A run of train.py on order embeddings, stopped and gone on with; what sample.py finds with it."""

import json
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import order_embeddings as config_file
from lnjax.data.captioned_images import captions_of
from lnjax.training import workdir
from lnjax.training.trained import load
from tasks import order_embeddings
from tasks.order_embeddings import search, sets
from tests import runs
from tests.runs import caches as caches
from tests.runs import rows
from tests.test_sample import SEVERAL
from tests.test_train import assert_same_run

CONFIG = "--config=configs/order_embeddings.py:smoke"


def train(folder):
    done = runs.run(["train.py", CONFIG, f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and what it told."""
    folder = tmp_path_factory.mktemp("order") / "run"
    return folder, train(folder)


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory):
    """Exit code, stdout and stderr of every call below, and the folder of the files."""
    out = tmp_path_factory.mktemp("found")

    def call(name, *arguments):
        return [f"--workdir={trained[0]}", f"--out={out / name}", *arguments]

    seven = "--query=a three above a seven"
    calls = {
        "png": call("a.png", seven, "--query=An eight top left, and a one bottom right."),
        "txt": call("a.txt", seven),
        "unknown": call("x1.png", "--query=a thre above a dog"),
        "empty": call("x2.png", "--query=..."),
        "no query": call("x3.png"),
        "suffix": call("x4.svg", seven),
        "num": call("x5.png", seven, "--num=3"),
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


def test_the_batches_go_on_where_they_were():
    runs.assert_goes_on(order_embeddings.make_data(config_file.get_config("smoke")).train)


@pytest.mark.slow  # test_train has it of handwriting; the test above has what differs, the data
def test_stopped_and_gone_on_with(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    for path in (folder / "checkpoints").glob("20*"):  # as if it had been killed on the way there
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"going on from step 10 of {folder}" in train(folder)
    assert_same_run(folder, trained[0])


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
    with Image.open(folder / "a.png") as sheet:
        assert sheet.format == "PNG" and sheet.info["Title"] == "embedded test images"
        assert sheet.size[0] > 10 * 2 * 56 and sheet.size[1] > 2 * 2 * 56
        pixels = np.asarray(sheet)
    assert np.mean(pixels < 128) > 0.01  # digits, not blank paper


def test_samples_are_what_captions_of_the_test_split_find(trained):
    task, state, _ = load(trained[0], order_embeddings.make_task)
    run = workdir.read(trained[0])
    config = ConfigDict(run.config)
    queries = search.sample(task, state.params, config, run.spec, 3)
    captions = [captions_of(record) for record in sets.prepare(config).splits["test"]]
    middle = captions[(len(captions) - 1) // 2][0]
    assert [query.text for query in queries] == [captions[0][0], middle, captions[-1][0]]
    for query in queries:
        distances = [found.distance for found in query.found]
        assert len(distances) == search.NUM_FOUND and distances == sorted(distances)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unknown", ["cannot look for 'dog', 'thre'", "above", "seven"]),
        ("empty", ["no word to look for in '...'"]),
        ("no query", ['--query="a three above a seven"']),
        ("suffix", ["x4.svg", ".png, .txt"]),
        ("num", ["--num is for draw, and the run is one of order_embeddings"]),
    ],
)
def test_refusals(found, name, parts):
    folder, told = found
    code, out, err = told[name]
    assert code == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert not list(folder.glob("x[1-9].*"))

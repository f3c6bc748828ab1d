"""Runs of train.py on skip-thoughts as a user starts them, and what sample.py makes of one."""

import json

import numpy as np
import pytest

from configs import skip_thoughts as config_file
from tasks import skip_thoughts
from tasks.skip_thoughts import encoder
from tests import runs
from tests.runs import caches as caches
from tests.tasks.test_skip_thoughts import make_config
from tests.test_sample import SEVERAL

SMOKE = "--config=configs/skip_thoughts.py:smoke"
SENTENCES = ["He went up to the city.", "Why?", 'They said to him, "Go!"']


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and what it told."""
    folder = tmp_path_factory.mktemp("skip-thoughts") / "run"
    done = runs.run(["train.py", SMOKE, f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.fixture(scope="module")
def used(trained, tmp_path_factory):
    """Exit code, stdout and stderr of every call below, and the folder they write to."""
    out = tmp_path_factory.mktemp("vectors")
    (out / "text.txt").write_text("".join(f"{line}\n" for line in SENTENCES))
    (out / "blank.txt").write_text("a b\n\nc\n")
    (out / "empty.txt").write_text("")
    calls = {
        "vectors": ("a.npy", f"--encode={out / 'text.txt'}"),
        "blank": ("x1.npy", f"--encode={out / 'blank.txt'}"),
        "empty": ("x2.npy", f"--encode={out / 'empty.txt'}"),
        "no file": ("x3.npy", f"--encode={out / 'nowhere.txt'}"),
        "nothing": ("x4.npy",),
        "suffix": ("x5.txt", f"--encode={out / 'text.txt'}"),
        "text": ("x6.npy", "--text=a"),
    }
    arguments = [
        [f"--workdir={trained[0]}", f"--out={out / name}", *rest] for name, *rest in calls.values()
    ]
    before = runs.contents(trained[0])
    done = runs.run(["-c", SEVERAL, json.dumps(arguments)])
    assert done.returncode == 0, done.stderr
    assert runs.contents(trained[0]) == before
    return out, dict(zip(calls, json.loads(done.stdout), strict=True))


def test_what_a_run_leaves(trained):
    folder, told = trained
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = ("loss", "nats_per_word", "nats_per_word_wrong_centre", "centre_gain")
    assert {name for row in rows for name in row} == {
        *("step", "seconds", "train/loss", "train/grad_norm"),
        *(f"eval/{name}" for name in (*evaluated, "centre_gain_standard_error")),
    }
    (last,) = [row for row in rows if "eval/loss" in row]
    assert last["step"] == 20
    assert last["eval/nats_per_word"] == last["eval/loss"] < np.log(50)
    (line,) = [line for line in told.splitlines() if "frequencies of words" in line]
    assert line.startswith("sentences/embedded: nats_per_word of the frequencies of words: ")


def test_the_batches_go_on_where_they_were():
    runs.assert_goes_on(skip_thoughts.make_data(config_file.get_config("smoke")).train)


def test_batches_that_are_stacked_have_one_shape(trained):
    data = skip_thoughts.make_data(make_config(length_step=3, steps_per_call=4))
    batches = [{name: leaf.shape for name, leaf in next(data.train).items()} for _ in range(48)]
    calls = [batches[start : start + 4] for start in range(0, 48, 4)]
    assert all(call == call[:1] * 4 for call in calls)
    assert any(call != calls[0] for call in calls)
    one_by_one = skip_thoughts.make_data(make_config(length_step=3))
    assert one_by_one.fingerprint != data.fingerprint  # another order


@pytest.mark.slow  # test_train has it of handwriting; the test above has what differs, the data
def test_stopped_and_resumed_it_is_the_same_run(trained, tmp_path):
    """Ten steps and then ten more: the same metrics, bit by bit, and the same vectors."""
    folder = tmp_path / "run"
    for steps in (10, 20):
        done = runs.run(["train.py", SMOKE, f"--workdir={folder}", f"--config.num_steps={steps}"])
        assert done.returncode == 0, done.stderr
    assert f"going on from step 10 of {folder}" in done.stderr

    def values(path):
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        rows = [{**row, "seconds": None} for row in rows if row["step"] > 10]
        return [row for row in rows if "train/loss" in row or "eval/loss" in row]

    assert values(folder) == values(trained[0]) and len(values(folder)) == 3
    found, expected = (encoder.load(path)(SENTENCES) for path in (folder, trained[0]))
    np.testing.assert_array_equal(found, expected)


def test_vectors(trained, used):
    folder, told = used
    assert told["vectors"] == [0, f"{folder / 'a.npy'} (step 20 of {trained[0]})\n", ""]
    vectors = np.load(folder / "a.npy")
    assert vectors.shape == (3, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    encode = encoder.load(trained[0])
    np.testing.assert_allclose(encode(SENTENCES[::-1]), vectors[::-1], rtol=1e-5, atol=1e-6)
    assert encode.table.vocabulary.words[0] == "," and len(encode.table.vocabulary) == 50


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("blank", ["sentence 2 has no words"]),
        ("empty", ["empty.txt is empty"]),
        ("no file", ["nowhere.txt cannot be read"]),
        ("nothing", ["--encode=file"]),
        ("suffix", ["x5.txt must end in .npy"]),
        ("text", ["--text is for handwriting, and the run is one of skip_thoughts"]),
    ],
)
def test_refusals(used, name, parts):
    folder, told = used
    code, out, err = told[name]
    assert code == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert not list(folder.rglob("x[1-6].*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 200_000}, r"vocabulary_size=200000 is more than the \d+ ids"),
        ({"eval_split": "held_out"}, r"eval_split='held_out' is not known.*'validation'"),
        ({"max_words": 2}, "no three sentences in a row have at most max_words=2"),
    ],
)
def test_data_that_are_refused(trained, changes, message):
    with pytest.raises(ValueError, match=message):
        skip_thoughts.make_data(make_config(**changes))


def test_another_tasks_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        encoder.load(tmp_path)
    description = {"config.json": {"task": "draw"}, "data.json": {"spec": {}, "batch": {}}}
    for name, value in description.items():
        (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(ValueError, match="a run of draw; expected one of skip_thoughts"):
        encoder.load(tmp_path)

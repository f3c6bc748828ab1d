"""sample.py: lines written by hand from a trained run, which stays as it is."""

import json
import shutil

import pytest
from PIL import Image

from tests import runs
from tests.runs import caches as caches

# sample.py for each of the lists of arguments in argv[1], as by separate processes.
SEVERAL = """
import contextlib, io, json, sys
from absl import flags
import sample

told = []
for arguments in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = sample.main(flags.FLAGS(["sample.py", *arguments]))
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
TEXT = "ab Cd."


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return runs.reference(tmp_path_factory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def damaged(reference, folder):
    """A copy of the run whose newest checkpoint has a flipped byte; `.file` is the one."""
    copy = folder / "damaged"
    shutil.copytree(reference, copy)
    return copy, runs.flip_a_byte(copy / "checkpoints/60")


@pytest.fixture(scope="module")
def written(reference, folder, damaged):
    """Exit code, stdout and stderr of every call below; the folders are as they were."""
    empty = folder / "no-checkpoint"
    empty.mkdir()
    for name in ("config.json", "data.json"):
        shutil.copy(reference / name, empty)
    here = f"--workdir={reference}"

    def call(out, *arguments, workdir=here, text=f"--text={TEXT}"):
        return [workdir, f"--out={folder / out}", text, *arguments]

    calls = {
        "svg": call("a.svg"),
        "again": call("again.svg"),
        "seed": call("seed.svg", "--seed=1"),
        "bias": call("bias.svg", "--bias=3"),
        "animated": call("a.animated.svg"),
        "png": call("a.png"),
        "gif": call("a.gif"),
        "damaged": call("damaged.svg", workdir=f"--workdir={damaged[0]}"),
        "unknown characters": call("x1.svg", text="--text=caf\u00e9 5"),
        "empty": call("x2.svg", text="--text="),
        "negative bias": call("x3.svg", "--bias=-1"),
        "suffix": call("x4.bmp"),
        "no folder": call("nowhere/x5.svg"),
        "no run": call("x6.svg", workdir=f"--workdir={folder / 'nothing'}"),
        "no checkpoint": call("x7.svg", workdir=f"--workdir={empty}"),
        "no text": call("x8.svg")[:2],
        "a flag of draw": call("x9.svg", "--num=3"),
    }
    before = runs.contents(reference), runs.contents(damaged[0])
    done = runs.run(["-c", SEVERAL, json.dumps(list(calls.values()))])
    assert done.returncode == 0, done.stderr
    assert (runs.contents(reference), runs.contents(damaged[0])) == before
    return dict(zip(calls, json.loads(done.stdout), strict=True))


def test_a_process_writes_several_lines(reference, tmp_path):
    before = runs.contents(reference)
    out = tmp_path / "two.svg"
    done = runs.run(
        [
            *("sample.py", f"--workdir={reference}", f"--out={out}", "--seed=7"),
            *(f"--text={TEXT}", "--text=a second\nand a third"),
        ]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out} (step 60 of {reference})\n"
    drawn = out.read_text()
    assert [drawn.count(f"<desc>{text}</desc>") for text in (TEXT, "a second", "and a third")] == [
        *(1, 1, 1)
    ]
    assert drawn.startswith("<svg") and "<path" in drawn
    assert runs.contents(reference) == before
    assert not (tmp_path / "sample.svg").exists()


@pytest.mark.parametrize("name", ["svg", "animated", "png", "gif"])
def test_pictures(written, folder, name):
    code, out, _ = written[name]
    path = folder / {"animated": "a.animated.svg"}.get(name, f"a.{name}")
    assert code == 0 and out.startswith(f"{path} (step 60 of ")
    if path.suffix == ".svg":
        drawn = path.read_text()
        assert f"<desc>{TEXT}</desc>" in drawn and ("<animate" in drawn) == (name == "animated")
    else:
        with Image.open(path) as picture:
            assert picture.format == name.upper() and min(picture.size) > 10
            assert getattr(picture, "n_frames", 1) > 1 or name == "png"


def test_the_seed_is_the_hand(written, folder):
    first, again, seed, bias = (
        (folder / f"{name}.svg").read_bytes() for name in ("a", "again", "seed", "bias")
    )
    assert first == again and seed != first and bias != first


def test_a_damaged_checkpoint_is_passed_over(written, folder, damaged):
    code, out, err = written["damaged"]
    assert code == 0 and "(step 50 of " in out
    (line,) = [line for line in err.splitlines() if line.startswith("refused: ")]
    assert line.startswith(
        f"refused: step 60: {damaged[1].relative_to(damaged[0] / 'checkpoints')}"
    )
    assert "<path" in (folder / "damaged.svg").read_text()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unknown characters", ["cannot write '5', '\u00e9'", "abcdefghijklmnopqrstuvwxyz"]),
        ("empty", ["there is no text to write"]),
        ("no text", ['--text="any line"']),
        ("a flag of draw", ["--num is for draw, and the run is one of handwriting"]),
        ("negative bias", ["bias=-1"]),
        ("suffix", ["x4.bmp", ".animated.svg, .svg, .png, .gif"]),
        ("no folder", ["nowhere", "x5.svg"]),
        ("no run", ["nothing", "holds no run", "train one there first"]),
        ("no checkpoint", ["no-checkpoint has no checkpoint yet"]),
    ],
)
def test_refusals(written, folder, name, parts):
    code, out, err = written[name]
    assert code == 2 and out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("not finished")]
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert not list(folder.rglob("x[1-9].*"))
    assert not (folder / "nothing").exists()
    assert not (folder / "no-checkpoint/checkpoints").exists()


@pytest.mark.parametrize("wrong", ["--txt=a", "a line without its flag"])
@pytest.mark.some(1)
def test_wrong_arguments_of_a_process(wrong, tmp_path):
    """Exit codes: 2 for wrong input, told in one line."""
    done = runs.run(["sample.py", wrong, f"--out={tmp_path / 'a.svg'}"])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1

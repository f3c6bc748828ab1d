"""The CNN questions: hand-made files and pickles in the true format, and what is refused."""

import os
import pickle
from pathlib import Path

import pytest

from lnjax.data import cnn_pickles, cnn_questions, prepare
from lnjax.data.cloze_questions import ClozeQuestions
from lnjax.data.preparation import check

CONTEXT = (
    "( @entity1 ) A storm hit @entity4 . It was cold . People of @entity4 slept . "
    "Nobody was hurt , said @entity0 . The port was closed . @entity0 left @entity1 :"
)
QUESTION = "@placeholder said nobody in @entity4 was hurt"
LINES = (
    *("http://web.archive.org/web/x", "", CONTEXT, "", QUESTION, "", "@entity0", ""),
    *("@entity1:CNN", "@entity0:Ann : Lee", "@entity4:New York"),
)


class Questions:
    """A tree of `.question` files."""

    def __init__(self, base):
        self.base = base
        for split, number in (("training", 3), ("validation", 1), ("test", 1)):
            for n in range(number):
                self.write(f"{split}/{split[:2]}{n}", LINES)

    def path(self, name):
        return self.base / "questions" / f"{name}.question"

    def write(self, name, lines):
        content = lines if isinstance(lines, bytes) else "\n".join([*lines, ""]).encode()
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def edit(self, number, line, name="training/tr1"):
        """Another text for one line, counted from 1; None takes it out."""
        lines = list(LINES)
        lines[number - 1 : number] = [] if line is None else [line]
        return self.write(name, lines)


@pytest.fixture
def tree(tmp_path):
    return Questions(tmp_path / "cnn")


@pytest.mark.parametrize("inside", [True, False])
def test_questions_as_they_are_read(tree, tmp_path, inside):
    folder = tmp_path if inside else tree.base
    prepared = prepare(ClozeQuestions, "real", manual_dir=folder, cache=tmp_path / "cache")
    assert {split: len(records) for split, records in prepared.splits.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    assert prepared.splits["train"][1] == {
        # Of six sentences four are left; "it was cold" has as many words as "the port was closed".
        "passage": "( @entity1 ) a storm hit @entity4 . it was cold . people of @entity4 slept . "
        "nobody was hurt , said @entity0 .",
        "question": QUESTION,
        "answer": "@entity0",
        "id": "tr1",
    }
    facts = prepared.statistics
    assert facts["questions"] == 3 and facts["answer_in_passage"] == 1
    # In each of three: passage and question.
    assert facts["counts"]["@entity4"] == 3 * (2 + 1) and facts["counts"]["was"] == 3 * (2 + 1)
    assert "closed" not in facts["counts"]
    assert check(ClozeQuestions, "real", manual_dir=folder, cache=tmp_path / "cache") == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }


def test_an_answer_lost_with_its_sentence_is_counted(tree, tmp_path):
    context = "a b . c d . a d . b . @entity0 said ."
    tree.write("training/tr0", [*LINES[:2], context, "", "@placeholder a b c d", *LINES[5:]])
    prepared = prepare(ClozeQuestions, "real", manual_dir=tree.base, cache=tmp_path / "cache")
    assert prepared.splits["train"][0]["passage"] == "a b . c d . a d . b ."
    assert prepared.statistics["answer_in_passage"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("number", "line", "parts"),
    [
        (9, None, None),
        (4, "text", ["line 4", "'text'", "a blank line"]),
        (3, "", ["line 3", "tokens of the context"]),
        (5, "nobody was hurt", ["line 5", "0 tokens @placeholder"]),
        (5, "@placeholder and @placeholder", ["line 5", "2 tokens @placeholder"]),
        (7, "Ann Lee", ["line 7", "'Ann Lee'", "such as @entity3"]),
        (7, "@entity7", ["line 7", "@entity7", "list from line 9"]),
        (3, "no name here .", ["line 7", "@entity0", "context of line 3"]),
        (10, "@entity0 Ann", ["line 10", "@entityN:original"]),
        (10, "@entity1:Ann", ["line 10", "@entity1 once in the list"]),
    ],
)
def test_bad_files_are_refused(tree, refused, number, line, parts):
    path = tree.edit(number, line)
    if parts is None:  # an entity less, and still a file that can be used
        assert cnn_questions.read_question(path)["answer"] == "@entity0"
        return
    message = refused(ClozeQuestions, tree.base)
    assert all(part in message for part in [str(path), *parts]), message
    assert "restore this file" in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["byte 0", "empty"]),
        ("\n".join(LINES[:8]).encode(), ["line 7", "at least 9 lines"]),
        (b"<html>\nnot found\n</html>\n", ["HTML page", "at least 9 lines"]),
        ("\n".join(LINES).encode().replace(b"storm", b"st\xffrm"), ["line 3", "no UTF-8"]),
    ],
)
def test_damaged_files_are_refused(tree, refused, content, parts):
    path = tree.write("validation/va0", content)
    message = refused(ClozeQuestions, tree.base)
    assert all(part in message for part in [str(path), *parts]), message


def test_one_name_in_two_splits_is_refused(tree, refused):
    path = tree.write("test/tr1", LINES)
    message = refused(ClozeQuestions, tree.base)
    assert str(path) in message and "training has a file of this name" in message


def test_missing_parts_are_refused(tree, refused, tmp_path):
    message = refused(ClozeQuestions, tmp_path / "nowhere")
    assert "neither questions/ nor dict.pkl" in message and "questions/training" in message
    tree.path("test/te0").unlink()
    assert "no file *.question" in refused(ClozeQuestions, tree.base)
    (tree.base / "questions" / "test").rmdir()
    assert str(tree.base / "questions" / "test") in refused(ClozeQuestions, tree.base)
    assert "--config.data_dir" in refused(ClozeQuestions, None)


# ---- pickles ---------------------------------------------------------------------------------

WORDS = ["@entity0", "@entity3", "@placeholder", "left", "said", "new york", "."]
DICTIONARY = {word: number for number, word in enumerate(WORDS, start=4)}
PASSAGES = [[4, 7, 2, 10], [5, 8, 3, 9, 1]]
PICKLES = {
    "dict": DICTIONARY,
    "train4_pass": PASSAGES,
    "train4_qs": [[6, 8, 1], [4, 6]],
    "train4_ans": [[4], [5]],
    "valid4_pass": PASSAGES[:1],
    "valid4_qs": [[6, 1]],
    "valid4_ans": [[5]],
}


@pytest.fixture
def pickles(tmp_path):
    folder = tmp_path / "pickles"
    folder.mkdir()
    for name, content in PICKLES.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return folder


def test_pickles_as_they_are_read(pickles, tmp_path):
    prepared = prepare(ClozeQuestions, "real", manual_dir=pickles, cache=tmp_path / "cache")
    train, validation = (prepared.splits[split] for split in ("train", "validation"))
    assert list(prepared.splits) == ["train", "validation"]
    assert list(train) == [
        {
            "passage": "@entity0 left <unk> .",
            "question": "@placeholder said <eos>",
            "answer": "@entity0",
            "id": "train4/0",
        },
        {
            "passage": "@entity3 said <num> new_york <eos>",
            "question": "@entity0 @placeholder",
            "answer": "@entity3",
            "id": "train4/1",
        },
    ]
    assert len(validation) == 1 and validation[0]["answer"] == "@entity3"
    assert prepared.statistics["answer_in_passage"] == 1


def test_pickles_of_python_2_are_read(tmp_path):
    # As Python 2 wrote them: strings of bytes, and `long`.
    old = b"(lp0\n(dp1\nS'@entit\\xc3\\xa9'\np2\nI4\nsa(lp3\nL1L\naa."
    path = tmp_path / "old.pkl"
    path.write_bytes(old)
    assert cnn_pickles.load(path) == [{"@entit\xc3\xa9": 4}, [1]]


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class EvilBuiltin:
    def __reduce__(self):
        return eval, ("1 + 1",)


def test_a_pickle_runs_nothing(pickles, refused, tmp_path):
    marker = tmp_path / "ran"
    (pickles / "train4_qs.pkl").write_bytes(pickle.dumps([Evil(marker)]))
    message = refused(ClozeQuestions, pickles)
    assert "train4_qs.pkl" in message and "system" in message and not marker.exists()
    (pickles / "dict.pkl").write_bytes(pickle.dumps(EvilBuiltin()))
    assert "builtins.eval" in refused(ClozeQuestions, pickles)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("train4_pass", [[4, 7], [5, 99]], ["row 1", "99", "dict.pkl"]),
        ("train4_pass", [[4, 7], [5, "a"]], ["row 1", "'a'"]),
        ("train4_pass", [[4, 7], []], ["row 1", "list of numbers"]),
        ("train4_ans", [[4]], ["1 rows", "expected 2, as train4_pass.pkl"]),
        ("train4_ans", [[4], [4, 5]], ["row 1", "@entity0 @entity3", "one entity"]),
        ("train4_ans", [[4], [7]], ["row 1", "'left'"]),
        ("train4_qs", [[8], [4, 6]], ["row 0", "0 tokens @placeholder"]),
        ("valid4_qs", {"a": 1}, ["a dict", "list of rows"]),
        ("dict", [1], ["a list", "{word: number}"]),
        ("dict", {**DICTIONARY, "a": 4}, ["'@entity0' and 'a'", "number 4"]),
        ("dict", {**DICTIONARY, "a": "4"}, ["entry 'a'", "'4'"]),
    ],
)
def test_bad_pickles_are_refused(pickles, refused, name, content, parts):
    path = pickles / f"{name}.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    message = refused(ClozeQuestions, pickles)
    assert all(part in message for part in [str(path), *parts]), message


def test_damaged_pickles_are_refused(pickles, refused):
    path: Path = pickles / "valid4_pass.pkl"
    path.write_bytes(path.read_bytes()[:-3])
    message = refused(ClozeQuestions, pickles)
    assert str(path) in message and "cannot be read as a pickle" in message
    path.write_bytes(b"")
    assert "empty" in refused(ClozeQuestions, pickles)
    path.unlink()
    assert "valid4_pass.pkl not found" in refused(ClozeQuestions, pickles)


NESTED = b"".join(b"(h%ch%ct\x85q%c" % (n, n, n + 1) for n in range(40))
HOSTILE = {
    "a memo of 64 GB": (b"\x80\x02]r\xff\xff\xff\xff.", "slot 4294967295"),
    "a memo of any size": (b"(lp99999999999\n.", "slot 99999999999"),
    "a string of 8 EB": (b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"a.", "ends within"),
    "a frame of 8 EB": (b"\x80\x04\x95" + (1 << 62).to_bytes(8, "little") + b"N.", "frame"),
    "a key that is hashed for ever": (b"\x80\x02}K\x01q\x00" + NESTED + b"K\x01s.", "b't'"),
    "a set": (b"\x80\x04\x8f(K\x01\x90.", "instruction b'\\x8f'"),
    "an object": (b"(ios\nsystem\n.", "names os.system"),
    "a call": (b"c__builtin__\nset\n((lp0\nI1\natR.", "names __builtin__.set"),
    "a persistent object": (b"Pevil\n.", "instruction b'P'"),
    "an extension": (b"\x82\x01.", "instruction b'\\x82'"),
    "lists within each other": (pickle.dumps(LISTS := [[]], protocol=2), ""),
}
LISTS[0] = LISTS


@pytest.mark.parametrize("kind", HOSTILE)
def test_pickles_that_cost_more_than_their_size(pickles, refused, kind):
    content, told = HOSTILE[kind]
    (pickles / "train4_pass.pkl").write_bytes(content)
    message = refused(ClozeQuestions, pickles)
    assert "train4_pass.pkl" in message and told in message, message


def test_rows_that_share_what_they_hold_are_told_shortly(pickles, refused):
    row = []
    for _ in range(60):
        row = [row, row]  # written out: 2^60 brackets
    (pickles / "dict.pkl").write_bytes(pickle.dumps({"a": row}, protocol=2))
    assert len(refused(ClozeQuestions, pickles)) < 1000


@pytest.mark.parametrize("protocol", range(5))
def test_plain_values_of_every_protocol(tmp_path, protocol):
    words = ["caf\u00e9", "it's", "a\nb", "x" * 300, "y" * 70_000, ""]
    numbers = [0, -1, 255, 256, 70_000, -(1 << 31), 1 << 31, 1 << 70, -(1 << 70), 1.5, 1e300]
    values = [{word: n for n, word in enumerate(words)}, numbers, words, words, [None, True, False]]
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(values * 3, protocol=protocol))
    assert cnn_pickles.load(path) == values * 3


def test_a_question_larger_than_any(tree, refused):
    path = tree.edit(3, "a " * (1 << 20))
    assert f"{path} byte {1 << 20}: the file has" in refused(ClozeQuestions, tree.base)


def test_a_question_that_is_no_file(tree, refused):
    path = tree.path("training/tr0")
    path.unlink()
    os.mkfifo(path)
    assert f"{path}: a device or pipe" in refused(ClozeQuestions, tree.base)

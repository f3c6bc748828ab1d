"""The CNN questions as the pickles of the public reader code: four sentences each, as numbers.

`dict.pkl` is {word: number}; `train4_pass.pkl` and `train4_qs.pkl` are lists of lists of numbers,
`train4_ans.pkl` a list of lists of one number; `valid4_*.pkl` are the same for validation. A pickle
can call any function it names: these are read by `plain_pickle`, which loads none that names one.
"""

import reprlib
from pathlib import Path
from typing import Any

from lnjax.data import plain_pickle
from lnjax.data.cloze import ENTITY
from lnjax.data.cnn_questions import check_question
from lnjax.data.errors import DataError

PREFIXES = {"train": "train4", "validation": "valid4"}
PARTS = ("pass", "qs", "ans")
DICTIONARY = "dict.pkl"
# What has a number in the public code and no entry in its dictionary.
RESERVED = {0: "<nil>", 1: "<eos>", 2: "<unk>", 3: "<num>"}
CURE = "take the file from the archive of the experiment's data again"
TREE = """  <data_dir>/  (or inside of it cnn/)
    dict.pkl
    train4_pass.pkl train4_qs.pkl train4_ans.pkl
    valid4_pass.pkl valid4_qs.pkl valid4_ans.pkl"""


def find(base: Path) -> Path | None:
    """The folder that holds the dictionary, if there is one."""
    return next(
        (place for place in (base, base / "cnn") if (place / DICTIONARY).is_file()),
        None,
    )


def files(folder: Path) -> list[Path]:
    """All files of the set.

    Raises: DataError if one is missing.
    """
    names = [DICTIONARY, *(f"{p}_{part}.pkl" for p in PREFIXES.values() for part in PARTS)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} not found; expected this tree:\n{TREE}")
    return [folder / name for name in names]


def load(path: Path) -> Any:
    """The content of one file; as `plain_pickle.load`."""
    return plain_pickle.load(path, CURE)


def read_tree(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The questions of both splits as texts; see `lnjax.data.cloze`.

    Raises: DataError with file and record for a number that is not in the dictionary, lists of
        unequal lengths, and whatever `load` refuses.
    """
    dictionary = _dictionary(folder / DICTIONARY)
    return {split: _read_split(folder, prefix, dictionary) for split, prefix in PREFIXES.items()}


def _dictionary(path: Path) -> dict[int, str]:
    words = load(path)
    if not isinstance(words, dict) or not words:
        raise DataError(f"{path}: a {type(words).__name__}; expected {{word: number}}; {CURE}")
    found = dict(RESERVED)
    for word, number in words.items():
        if not isinstance(word, str) or type(number) is not int or number < 0:
            raise DataError(
                f"{path}: entry {reprlib.repr(word)}: {reprlib.repr(number)}; expected a word and "
                f"its number; {CURE}"
            )
        if number in found and number not in RESERVED:
            raise DataError(
                f"{path}: {found[number]!r} and {word!r} both have number {number}; expected one "
                f"word for each; {CURE}"
            )
        found[number] = "_".join(word.split()) or "<blank>"  # a token is written without blanks
    return found


def _read_split(folder: Path, prefix: str, words: dict[int, str]) -> list[dict[str, str]]:
    paths = [folder / f"{prefix}_{part}.pkl" for part in PARTS]
    columns = [load(path) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if not isinstance(column, list) or not column:
            raise DataError(f"{path}: a {type(column).__name__}; expected a list of rows; {CURE}")
        if len(column) != len(columns[0]):
            raise DataError(
                f"{path}: {len(column)} rows; expected {len(columns[0])}, as {paths[0].name} has; "
                "take the three files from one archive"
            )
    passages, questions, answers = columns
    examples: list[dict[str, str]] = []
    for row in range(len(passages)):
        texts = [
            _words(path, row, column[row], words)
            for path, column in zip(paths, (passages, questions, answers), strict=True)
        ]
        passages[row] = questions[row] = None  # what is a text need not be numbers any more
        check_question(texts[1], f"{paths[1]} row {row}", CURE)
        if len(texts[2]) != 1 or not ENTITY.fullmatch(texts[2][0]):
            raise DataError(
                f"{paths[2]} row {row}: the answer {' '.join(texts[2])[:60]!r}; expected one "
                f"entity such as @entity3; {CURE}"
            )
        passage, question, answer = map(" ".join, texts)
        examples.append(
            {"passage": passage, "question": question, "answer": answer, "id": f"{prefix}/{row}"}
        )
    return examples


def _words(path: Path, row: int, numbers: Any, words: dict[int, str]) -> list[str]:
    if not isinstance(numbers, list) or not numbers:
        # reprlib: lists that hold each other can be of endless length when they are written out
        raise DataError(
            f"{path} row {row}: {reprlib.repr(numbers)}; expected a list of numbers; {CURE}"
        )
    try:
        return [words[number] for number in numbers]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} row {row}: {reprlib.repr(error.args[0])} is not the number of a word in "
            f"{DICTIONARY} ({len(words)} of them); expected the files of one archive; {CURE}"
        ) from error

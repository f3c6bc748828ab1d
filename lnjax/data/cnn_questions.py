"""The CNN questions (Hermann et al. 2015) as their `.question` files, one question a file.

Lines by place: 1 URL, 3 context, 5 question with `@placeholder`, 7 answer `@entityN`, from 9 on
`@entityN:original`; 2, 4, 6, 8 are blank; tokens are separated by blanks. Of each context the four
sentences are kept that are most like the question (`cloze.relevant_sentences`), so that the answer
is lost from many passages, about 43 % of them in the published selection; how many is counted, not
refused. Words become lower case.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lnjax.data import source_files
from lnjax.data.cloze import ENTITY, PLACEHOLDER, relevant_sentences
from lnjax.data.errors import DataError

FOLDERS = {"train": "training", "validation": "validation", "test": "test"}
NUM_QUESTIONS = {"train": 380_298, "validation": 3_924, "test": 3_198}
SENTENCES = 4
LONGEST = 1 << 20  # bytes of a file; published ones have up to 20,000
CURE = "restore this file from the corpus's archive"
TREE = """  <data_dir>/  (or inside of it cnn/)
    questions/training/*.question
    questions/validation/*.question
    questions/test/*.question"""

_MAPPED = re.compile(rf"{ENTITY.pattern}:")


def find(base: Path) -> Path | None:
    """The folder `questions` below a folder of data, if there is one."""
    places = (base / "questions", base / "cnn" / "questions")
    return next((place for place in places if place.is_dir()), None)


def files(folder: Path) -> dict[str, list[Path]]:
    """The `.question` files of each split by name.

    Raises: DataError if a split has none, or a name is in two splits.
    """
    found: dict[str, list[Path]] = {}
    split_of: dict[str, str] = {}
    for split, name in FOLDERS.items():
        place = folder / name
        if not place.is_dir():
            raise DataError(f"{place}: not found; expected this tree:\n{TREE}")
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".question"))
        if not names:
            raise DataError(f"{place}: no file *.question; expected this tree:\n{TREE}")
        for file in names:
            if file in split_of:
                raise DataError(
                    f"{place / file}: {FOLDERS[split_of[file]]} has a file of this name, too; "
                    "expected every question in one split; remove one of the two"
                )
            split_of[file] = split
        found[split] = [place / file for file in names]
    return found


def read_split(paths: list[Path]) -> list[dict[str, str]]:
    """The questions of a split, each cut to its passage.

    Raises: DataError as `read_question`.
    """
    return [read_question(path) for path in paths]


def read_question(path: Path) -> dict[str, str]:
    """One file as `passage`, `question`, `answer` and `id`.

    Raises: DataError with the line for anything that is not as the head of this module says; also
        if the answer is not an entity of the mapping or does not stand in the context.
    """
    source_files.refuse_larger(path, LONGEST)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a readable file") from error
    if not content:
        raise DataError(f"{path} byte 0: the file is empty; {CURE}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line}: byte {error.start} is no UTF-8 ({error.reason}); {CURE}"
        ) from error
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if len(lines) < 9:
        looks = source_files.looks_like(content)
        raise DataError(
            f"{path} line {len(lines)}: the file ends here{looks}; expected at least 9 lines: URL, "
            f"context, question, answer and entities with blank lines between; {CURE}"
        )
    for number in (2, 4, 6, 8):
        if lines[number - 1]:
            raise _wrong(path, number, lines[number - 1], "a blank line")
    context, question = lines[2].lower().split(), lines[4].lower().split()
    answer = lines[6].lower()
    if not context:
        raise _wrong(path, 3, "", "the tokens of the context")
    check_question(question, f"{path} line 5", CURE)
    if not ENTITY.fullmatch(answer):
        raise _wrong(path, 7, lines[6], "an answer such as @entity3")
    if answer not in _mapped(path, lines[8:]):
        raise _wrong(path, 7, answer, "an entity of the list from line 9 on")
    if answer not in context:
        raise _wrong(path, 7, answer, "an entity that stands in the context of line 3")
    return {
        "passage": " ".join(relevant_sentences(context, question, SENTENCES)),
        "question": " ".join(question),
        "answer": answer,
        "id": path.stem,
    }


def check_question(tokens: list[str], place: str, cure: str) -> None:
    """Refuses a question without exactly one placeholder."""
    if tokens.count(PLACEHOLDER) != 1:
        raise DataError(
            f"{place}: {tokens.count(PLACEHOLDER)} tokens {PLACEHOLDER} in the question; expected "
            f"one; {cure}"
        )


def _mapped(path: Path, lines: list[str]) -> set[str]:
    """The entities of the list at the end of a file."""
    found: set[str] = set()
    for number, line in _numbered(lines):
        if not _MAPPED.match(line):
            raise _wrong(path, number, line, "@entityN:original")
        entity = line.split(":", 1)[0]  # the original may hold colons
        if entity in found:
            raise _wrong(path, number, line, f"{entity} once in the list")
        found.add(entity)
    return found


def _numbered(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The lines from 9 on without blank ones at the end."""
    last = max((i for i, line in enumerate(lines) if line), default=-1)
    yield from enumerate(lines[: last + 1], start=9)


def _wrong(path: Path, line: int, what: str, expected: str) -> DataError:
    return DataError(f"{path} line {line}: found {what[:60]!r}; expected {expected}; {CURE}")

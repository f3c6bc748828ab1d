"""BookCorpus as skip-thoughts reads it: two files of text, one tokenized sentence a line.

The order of the lines is that of the text; blank lines are left out, and no line says where a book
ends. The files are gigabytes: they are read twice, line by line, once to check them (`read_folder`)
and once when their blocks are written, and what stays in memory is one number a block. Nothing here
writes.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload

from lnjax.data import source_files
from lnjax.data.errors import DataError
from lnjax.terminal import printable

FILES = ("books_large_p1.txt", "books_large_p2.txt")
NUM_SENTENCES = 74_004_228  # published (Kiros et al. 2015, Table 1)
# Sentences that a block begins with, see `Blocks`. A batch needs a block for each of its triples:
# on one core 64 triples take 43 ms so, and 78 ms with 1,000 sentences.
BLOCK = 100
HELD_OUT = 20_000  # sentences of each held-out split, or a twentieth of a small second file
LEAST = 9  # sentences of the second file: a triple for each split
LONGEST_LINE = 100_000  # bytes
MOST_BLANK = 0.2
TAGS_BEFORE = 1000  # in so many lines no HTML is expected
_TAG = re.compile(
    rb"</?(?:html|head|body|div|span|table|script|p|br|a|li|h[1-6])\b[^>]*>|<!doctype"
)
_CURE = "give the text files of BookCorpus, one tokenized sentence a line"


class Blocks(Sequence):
    """Sentences `first` to `first + count - 1` of a file, in pieces: a sequence of examples.

    Piece i has the `sentences` from 100 i on (line feeds between them), and the first two of the
    next piece behind them: each triple of neighbours lies in exactly one piece.
    """

    def __init__(self, checked: "Checked", first: int, count: int):
        self._checked, self._first, self._count = checked, first, count

    def __len__(self) -> int:
        return max(-(-(self._count - 2) // BLOCK), 0)

    @overload
    def __getitem__(self, index: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, str]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, str] | list[dict[str, str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        start = index % len(self) * BLOCK
        lines = self._checked.lines(self._first + start, min(BLOCK + 2, self._count - start))
        source = f"{self._checked.path.name} sentence {self._first + start + 1}"
        return {"sentences": "\n".join(lines), "source": source}


class Joined(Sequence):
    """The examples of several sequences, one sequence behind the other."""

    def __init__(self, *parts: Blocks):
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, index: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, str]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, str] | list[dict[str, str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        place, number = index % len(self), 0
        while place >= len(self._parts[number]):
            place -= len(self._parts[number])
            number += 1
        return self._parts[number][place]


class Checked(NamedTuple):
    """A file that was read once without an objection."""

    path: Path
    num_sentences: int
    offsets: tuple[int, ...]  # byte at which sentence 0, 100, 200, ... begins

    def lines(self, first: int, count: int) -> Iterator[str]:
        """`count` sentences from number `first` on."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[first // BLOCK])
            skipped = first % BLOCK
            for _, line in _sentences(self.path, file):
                if skipped:
                    skipped -= 1
                elif count:
                    count -= 1
                    yield line
                else:
                    return


def read_folder(manual_dir: Path | None) -> dict[str, Sequence[dict[str, str]]]:
    """Checks both files and returns the examples of each split, to be read when they are asked for.

    Args:
        manual_dir: the folder of the files, or its parent with a folder `books` in it.

    Returns: by split; the last sentences of the second file are `validation` and `test`.
    Raises: DataError for the first thing that cannot be used.
    """
    paths = find_files(manual_dir)
    _refuse_the_same(*paths)
    first, second = (check_file(path) for path in paths)
    held_out = min(HELD_OUT, max(second.num_sentences // 20, 3))
    if second.num_sentences < LEAST:
        raise DataError(
            f"{second.path}: {second.num_sentences} sentences; expected at least {LEAST}, a triple "
            f"for each split; {_CURE}"
        )
    kept = second.num_sentences - 2 * held_out
    return {
        "train": Joined(Blocks(first, 0, first.num_sentences), Blocks(second, 0, kept)),
        "validation": Blocks(second, kept, held_out),
        "test": Blocks(second, kept + held_out, held_out),
    }


def source_key(manual_dir: Path | None) -> str:
    """Identifies the two files without reading them, see `source_files.key`.

    Raises: DataError if one of them is missing.
    """
    paths = find_files(manual_dir)
    return source_files.key(paths[0].parent, paths)


def find_files(manual_dir: Path | None) -> tuple[Path, Path]:
    """The two files.

    Raises: DataError that names all that are missing, or are folders.
    """
    tree = "\n  ".join(["<folder>/  (or <folder>/books/)", *FILES])
    if manual_dir is None:
        raise DataError(
            "sentences: no folder was given (in training: --config.data_dir); expected the one of "
            f"these files:\n{tree}"
        )
    inside = manual_dir / "books"
    base = inside if inside.is_dir() else manual_dir
    first, second = (base / name for name in FILES)
    for path in (first, second):
        if path.is_dir():
            raise DataError(f"{path}: a folder; expected a text file of this name; {_CURE}")
    if missing := [path.name for path in (first, second) if not path.is_file()]:
        raise DataError(f"{base}: {', '.join(missing)} not found; expected these files:\n{tree}")
    return first, second


def check_file(path: Path) -> Checked:
    """Reads a file once, line by line.

    Raises: DataError with the line for the first thing that is no tokenized text.
    """
    offsets: list[int] = []
    number, sentences, not_lower = 0, 0, 0
    try:
        with path.open("rb") as file:
            _refuse_packed(path, file)
            place = 0
            for number, line in _sentences(path, file, blank=True):
                if number <= TAGS_BEFORE and (tag := _TAG.search(line.lower().encode())):
                    raise _refusal(path, number, f"the HTML tag {tag[0].decode()!r}")
                if line:
                    if sentences % BLOCK == 0:
                        offsets.append(place)
                    sentences += 1
                    not_lower += line != line.lower()
                place = file.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a readable file") from error
    if sentences < 3:
        raise DataError(
            f"{path}: {sentences} lines that are not blank; expected at least three, a sentence "
            f"with its neighbours; {_CURE}"
        )
    if number - sentences > MOST_BLANK * number:
        raise DataError(
            f"{path}: {number - sentences} of {number} lines are blank; expected at most "
            f"{MOST_BLANK:.0%}; {_CURE}"
        )
    if not_lower > sentences / 2:
        warning = (
            f"warning: {path}: {not_lower} of {sentences} sentences have capital letters; expected "
            "the lower-cased edition: words with and without them will be different words"
        )
        print(printable(warning), file=sys.stderr)
    return Checked(path, sentences, tuple(offsets))


def _sentences(path: Path, file: BinaryIO, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of the lines from here on; the blank ones, "", only with `blank`."""
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
        if len(line) > LONGEST_LINE:
            raise _refusal(path, number, f"longer than {LONGEST_LINE:,} bytes, not cut into lines")
        if b"\0" in line:
            raise _refusal(path, number, f"a NUL byte, byte {line.index(0) + 1} of the line")
        try:
            text = " ".join(line.decode("utf-8").split())
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1} of the line, {line[error.start : error.start + 1]!r}"
            raise _refusal(path, number, f"{what}, is not UTF-8") from error
        if text or blank:
            yield number, text


def _refuse_packed(path: Path, file: BinaryIO) -> None:
    start = file.read(4)
    file.seek(0)
    if not start:
        raise DataError(f"{path}: the file is empty; {_CURE}")
    if start[:2] == b"\x1f\x8b" or start == b"PK\x03\x04":
        kind = "gzip" if start[:1] == b"\x1f" else "zip"
        raise DataError(f"{path}: begins as a {kind} archive; expected text; unpack it first")


def _refuse_the_same(first: Path, second: Path) -> None:
    if first.stat().st_size == second.stat().st_size and _digest(first) == _digest(second):
        raise DataError(
            f"{second}: the same content as {first.name}; expected the second part; {_CURE}"
        )


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _refusal(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path} line {number}: {what}; expected a sentence of UTF-8 text; {_CURE}")

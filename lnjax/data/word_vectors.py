"""Word vectors in the two formats of word2vec: text and binary, told apart by their content.

Both begin with a line of two numbers, of words and of numbers a word. In text a line is a word and
its numbers; in binary a word is followed by a space and its numbers as little-endian float32, with
or without a line feed between two words.
"""

import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lnjax.data.errors import DataError

_HEADER = re.compile(rb"(\d{1,12})[ \t]+(\d{1,6})[ \t]*\r?\n")
_LONGEST_WORD = 10_000  # bytes
_CURE = "give a file of word2vec, text or binary (not packed)"


class WordVectors(NamedTuple):
    """Vectors by word."""

    words: tuple[str, ...]
    vectors: np.ndarray  # (N, D) float32


def read(path: str | Path, *, keep: Callable[[str], bool] | None = None) -> WordVectors:
    """Reads and checks a file.

    Args:
        path: the file.
        keep: says of a word whether it is wanted; None: all are. What is not wanted costs no
            memory.

    Raises: DataError for anything that is no such file: the place, what was expected, the cure.
    """
    path = Path(path)
    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: the file is empty; {_CURE}")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, data, keep)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a readable file") from error


def _read(path: Path, data: mmap.mmap, keep: Callable[[str], bool] | None) -> WordVectors:
    header = _HEADER.match(data[:64])
    number, width = map(int, header.groups()) if header else (0, 0)
    if header is None or number < 1 or width < 1:
        raise DataError(
            f"{path} line 1: {data[:20]!r}; expected two numbers, of words and of numbers a word; "
            f"{_CURE}"
        )
    records = _text if _is_text(data, header.end(), width) else _binary
    words: dict[str, int] = {}
    rows = []
    for count, (raw, vector) in enumerate(records(path, data, header.end(), number, width), 1):
        place = f"{path} word {count}"
        try:
            word = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: {raw[:20]!r} is not UTF-8; {_CURE}") from error
        if not word:
            raise DataError(f"{place}: an empty word; {_CURE}")
        if word in words:
            raise DataError(f"{place}: {word!r} is also word {words[word]}; expected it once")
        if not np.isfinite(vector).all():
            raise DataError(f"{place}: {word!r} has a number that is not finite; {_CURE}")
        words[word] = count
        if keep is None or keep(word):
            rows.append((word, vector))
    vectors = np.array([vector for _, vector in rows], np.float32).reshape(len(rows), width)
    return WordVectors(tuple(word for word, _ in rows), vectors)


def _is_text(data: mmap.mmap, start: int, width: int) -> bool:
    """Whether the line behind the header is a word and numbers."""
    end = data.find(b"\n", start)
    fields = data[start : len(data) if end < 0 else end].split()[1:]
    return bool(fields) and all(re.fullmatch(rb"[-+.\deEnaif]+", field) for field in fields)


def _text(
    path: Path, data: mmap.mmap, start: int, number: int, width: int
) -> Iterator[tuple[bytes, np.ndarray]]:
    data.seek(start)
    for count in range(1, number + 1):
        place = f"{path} line {count + 1}"
        line = data.readline()
        if not line.strip():
            raise DataError(f"{place}: no word; expected {number} words, as line 1 says; {_CURE}")
        word, *numbers = line.rstrip().split(b" ")
        if len(numbers) != width:
            raise DataError(f"{place}: {len(numbers)} numbers; expected {width}; {_CURE}")
        try:
            yield word, np.array(numbers, dtype=np.float32)
        except ValueError as error:
            raise DataError(f"{place}: {error}; expected {width} numbers; {_CURE}") from error
    if data.read().strip():
        raise DataError(
            f"{path} line {number + 2}: one word more; expected {number}, as line 1 says; {_CURE}"
        )


def _binary(
    path: Path, data: mmap.mmap, start: int, number: int, width: int
) -> Iterator[tuple[bytes, np.ndarray]]:
    size = 4 * width
    for count in range(1, number + 1):
        space = data.find(b" ", start, start + _LONGEST_WORD)
        if space < 0 or space + 1 + size > len(data):
            raise DataError(
                f"{path} word {count} (byte {start}): the file ends within it or it is no word; "
                f"expected {number} words of {width} numbers, as line 1 says; {_CURE}"
            )
        word = data[start:space].lstrip(b"\n")
        start = space + 1 + size
        yield word, np.frombuffer(data[space + 1 : start], "<f4")
    if data[start:].strip():
        raise DataError(
            f"{path} byte {start}: {len(data) - start} bytes more than {number} words of {width} "
            f"numbers; {_CURE}"
        )

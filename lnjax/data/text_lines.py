"""The lines of a text file as published, whatever encoding and line ends its edition has.

UTF-8 first; a file that is not UTF-8 from its first special character on is Windows-1252, the
superset of Latin-1 in which old English corpora were typed. Lines end with a line feed alone: the
codes 0x85 and 0x2028, at which `str.splitlines` cuts, occur inside of sentences.
"""

import re
from pathlib import Path

from lnjax.data import source_files
from lnjax.data.errors import DataError

_LIMIT = 1 << 24  # bytes; the largest set of sentences has 2 MB
_MOST_LINES = 200_000  # the most that one has is 11,000
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def read(path: Path) -> list[str]:
    """All lines of a file, stripped; what stands behind the last line feed is one if not empty.

    Raises: DataError if the file cannot be read, is empty, is no text, or is in no encoding known,
        or is many times larger than the published sets.
    """
    content = source_files.read(path, _LIMIT + 1)
    if len(content) > _LIMIT or (number := content.count(b"\n")) > _MOST_LINES:
        what = f"over {_LIMIT} bytes" if len(content) > _LIMIT else f"{number} lines"
        raise DataError(
            f"{path}: {what}; expected the sentences of one set, a few thousand lines; download "
            "this file again"
        )
    if kind := source_files.looks_like(content):
        raise DataError(
            f"{path} line 1: begins with {content.lstrip()[:20]!r}{kind}; expected sentences, one "
            "a line; download this file again"
        )
    if found := _BINARY.search(content):
        raise DataError(
            f"{path} line {_line(content, found.start())}: the byte {found[0]!r} is in no text; "
            "expected UTF-8 or Windows-1252; save the file as UTF-8"
        )
    lines = _decode(path, content).split("\n")
    return [line.strip() for line in (lines if lines[-1].strip() else lines[:-1])]


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.start
        tried = f"tried UTF-8 ({error.reason})"
        if content[:place].isascii():  # else it was UTF-8 until here, and is damaged
            try:
                return content.decode("cp1252")
            except UnicodeDecodeError as second:
                place, tried = second.start, f"{tried} and Windows-1252 ({second.reason})"
    raise DataError(
        f"{path} line {_line(content, place)}: the byte 0x{content[place]:02x} cannot be decoded, "
        f"{tried}; expected one of these; download this file again, or save it as UTF-8"
    )


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1

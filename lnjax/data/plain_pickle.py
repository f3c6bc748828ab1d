"""Pickles of lists, dictionaries, numbers and strings; whatever else one holds, it is not loaded.

A pickle is a program: it can call any function that it names, and without a name too it can ask for
memory by the terabyte or make a key that takes centuries to hash. So a file is looked through
before Python's reader gets it, and what the four kinds of values do not need is refused: names,
calls and objects; tuples and sets, which can be keys; numbers of memo slots and sizes that the file
itself could not fill. What remains takes memory in proportion to the file.
"""

import mmap
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

from lnjax.data import source_files
from lnjax.data.errors import DataError

LARGEST = 4 << 30  # bytes
# Instructions without an argument or with one of a fixed length, and the short lines of protocol 0.
_SIMPLE = re.compile(
    rb"(?:[]}(01Nadelsu\x88\x89\x94]|[Khq\x80].|M.{2}|J.{4}|G.{8}"
    rb"|I-?\d{1,18}\n|L-?\d{1,18}L?\n|S'[^'\\\n]*'\n)++",
    re.DOTALL,
)
_LINE = re.compile(rb"[ILFSVg][^\n]*\n")
_PUT = re.compile(rb"p(\d{1,18})\n")
# By instruction, how many bytes say how many bytes follow: strings, and long integers.
_SIZED = {
    **dict.fromkeys(b"UC\x8c\x8a", 1),
    **dict.fromkeys(b"TXB", 4),
    0x8D: 8,
}
_STOP, _LONG_BINPUT, _LONG_BINGET, _FRAME = b".rj\x95"


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def load(path: Path, cure: str) -> Any:
    """The content of a pickle; strings of Python 2 are read as Latin-1.

    Args:
        path: the file.
        cure: what a user can do if it is refused.

    Raises: DataError with the byte if it holds anything but lists, dictionaries, numbers and
        strings, or is no whole pickle.
    """
    source_files.refuse_larger(path, LARGEST)
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} byte 0: the file is empty; {cure}")
        with path.open("rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _look_through(data)
            return _Unpickler(file, encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise DataError(
            f"{path}: cannot be read as a pickle ({' '.join(str(error).split())}); expected lists, "
            f"dictionaries, numbers and strings and nothing else; {cure}"
        ) from error


def _look_through(data: mmap.mmap) -> None:
    """Refuses the first instruction that is not of the kinds above.

    Raises: UnpicklingError.
    """
    place = 0
    while place < len(data):
        if found := _SIMPLE.match(data, place) or _LINE.match(data, place):
            place = found.end()
            continue
        code = data[place]
        if code == _STOP:
            return
        if code in _SIZED:
            begin = place + 1 + _SIZED[code]
            place = begin + int.from_bytes(data[place + 1 : begin], "little")
        elif code == _FRAME:
            place += 9
            if place - 8 + int.from_bytes(data[place - 8 : place], "little") > len(data):
                raise pickle.UnpicklingError("it ends within a frame")
        elif code == _LONG_BINGET:
            place += 5
        elif code == _LONG_BINPUT or (found := _PUT.match(data, place)):
            # Slots are counted up, one for what took two bytes at least; the reader's table has
            # room for all below the largest.
            slot = int.from_bytes(data[place + 1 : place + 5], "little")
            slot, end = (slot, place + 5) if code == _LONG_BINPUT else (int(found[1]), found.end())
            if slot > place:
                raise pickle.UnpicklingError(f"slot {slot} of its memo at byte {place}")
            place = end
        else:
            raise pickle.UnpicklingError(f"{_explain(data, place)} at byte {place}")
    raise pickle.UnpicklingError("it ends within a value")


def _explain(data: mmap.mmap, place: int) -> str:
    """What an instruction that is not admitted would do."""
    code = data[place : place + 1]
    if code in b"ci" and (end := data.find(b"\n", data.find(b"\n", place) + 1)) > 0:
        module, _, name = data[place + 1 : end][:80].decode("latin-1").partition("\n")
        return f"it names {module}.{name}"
    if code == b"\x93":
        strings = re.findall(rb"(?:\x8c.|X.\0\0\0)([\w.]+)", data[max(0, place - 200) : place])
        return f"it names {b'.'.join(strings[-2:]).decode('latin-1')}"
    return f"the instruction {code!r}"

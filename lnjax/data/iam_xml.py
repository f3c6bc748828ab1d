"""Reads the XML files of IAM-OnDB: the points of a text line, and the writer of a form.

The expat parser of defusedxml does the work with handlers of our own (no tree is built, and every
element's line number is at hand), so a document type or an entity declaration is refused like any
other damage. Times in these files only show where the whiteboard lost readings: gaps are filled by
straight lines.
"""

import dataclasses
import math
from array import array
from collections.abc import Callable
from pathlib import Path
from xml.parsers.expat import ExpatError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from lnjax.data import source_files
from lnjax.data.errors import DataError

MAX_COORDINATE = 1e6  # raw units; the whiteboard is about 10,000 wide
GAP = 2.5  # a reading is missing where time and distance both exceed this many medians
MAX_FILLED = 20  # points; a longer gap is a pause of the writer
LONGEST = 1 << 24  # bytes of a file; published ones have up to a million
_CURE = "restore this file from the database's archive"


@dataclasses.dataclass(frozen=True)
class PenLine:
    """One line of text as recorded.

    Attributes:
        points: (n >= 2, 2) float64 raw x and y, y downward.
        last: (n,) bool, True at the last point of its stroke.
        times: (n,) float64 seconds, NaN where the file gives none.
    """

    points: np.ndarray
    last: np.ndarray
    times: np.ndarray


def _parse(
    path: Path,
    start: Callable[[str, dict[str, str], int], None],
    end: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Calls `start(name, attributes, line number)` and `end(name)` for the elements of `path`.

    Reads on until the end of the file, or until `stop()` is true.
    """
    source_files.refuse_larger(path, LONGEST)
    expat = DefusedXMLParser(forbid_dtd=True).parser
    expat.ordered_attributes = False
    expat.CharacterDataHandler = None
    expat.StartElementHandler = lambda name, attributes: start(
        name, attributes, expat.CurrentLineNumber
    )
    expat.EndElementHandler = end
    try:
        with path.open("rb") as file:
            while (chunk := file.read(1 << 16)) and not stop():
                expat.Parse(chunk, False)
            if not stop():
                expat.Parse(b"", True)
    except ExpatError as error:
        raise DataError(
            f"{path} line {error.lineno}: malformed XML ({error}); expected a complete document; "
            f"{_CURE}"
        ) from error
    except DataError:
        raise
    # LookupError: an encoding that nobody knows; ValueError: one that expat does not read
    except (DefusedXmlException, LookupError, ValueError) as error:
        defused = isinstance(error, DefusedXmlException)
        what = "document type or entity" if defused else "unknown encoding"
        raise DataError(
            f"{path} line {expat.CurrentLineNumber}: {what} declared ({error}); expected plain "
            f"elements without declarations; {_CURE}"
        ) from error


def read_points(path: Path) -> PenLine:
    """Reads one file of `lineStrokes`.

    Raises: DataError with the line number for malformed XML, declarations, no StrokeSet, a stroke
        without points, a coordinate that is missing, no number or beyond `MAX_COORDINATE`, fewer
        than two points.
    """
    values, counts, stroke_lines = array("d"), [], []
    stroke_set_line = 0

    def start(name: str, attributes: dict[str, str], line: int) -> None:
        nonlocal stroke_set_line
        if name == "Point":
            if not counts:
                raise DataError(f"{path} line {line}: Point outside of a Stroke; {_CURE}")
            values.append(_coordinate(path, line, attributes, "x"))
            values.append(_coordinate(path, line, attributes, "y"))
            values.append(_time(attributes.get("time")))
            counts[-1] += 1
        elif name == "Stroke":
            counts.append(0)
            stroke_lines.append(line)
        elif name == "StrokeSet":
            stroke_set_line = line

    def end(name: str) -> None:
        if name == "Stroke" and counts[-1] == 0:
            raise DataError(
                f"{path} line {stroke_lines[-1]}: Stroke without points; expected at least one "
                f"Point; {_CURE}"
            )

    _parse(path, start, end)
    if not stroke_set_line:
        raise DataError(f"{path} line 1: no StrokeSet in the file; expected one; {_CURE}")
    if sum(counts) < 2:
        raise DataError(
            f"{path} line {stroke_set_line}: {sum(counts)} points in the line of text; expected at "
            f"least 2; {_CURE}"
        )
    table = np.array(values).reshape(-1, 3)
    last = np.zeros(len(table), bool)
    last[np.cumsum(counts) - 1] = True
    return PenLine(table[:, :2], last, table[:, 2])


def _coordinate(path: Path, line: int, attributes: dict[str, str], axis: str) -> float:
    text = attributes.get(axis, "")
    try:
        value = float(text)
    except ValueError:
        found = f"{text!r} as" if axis in attributes else "no attribute"
        raise DataError(
            f"{path} line {line}: Point with {found} {axis}; expected a number; {_CURE}"
        ) from None
    if not abs(value) <= MAX_COORDINATE:  # also true for NaN
        raise DataError(
            f"{path} line {line}: Point with {axis} = {text}; expected a number of at most "
            f"{MAX_COORDINATE:g}; {_CURE}"
        )
    return value


def _time(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan  # times only serve to find gaps


def fill_gaps(line: PenLine) -> tuple[np.ndarray, np.ndarray]:
    """Puts points on a straight line where readings are missing inside a stroke.

    A reading is missing where both the time and the distance to the next point exceed `GAP` times
    their medians over the steps of this line's strokes. Nothing is filled without times or for more
    than `MAX_FILLED` points.

    Returns: points (m >= n, 2) float64 and last (m,) bool.
    """
    inside = ~line.last[:-1]
    seconds = np.diff(line.times)
    distance = np.hypot(*np.diff(line.points, axis=0).T)
    usable = inside & (seconds > 0) & (distance > 0)  # NaN compares as False
    pieces = np.ones(len(line.points), np.int64)
    if usable.any():
        ratio = np.full(len(seconds), 1.0)
        ratio[usable] = np.minimum(
            seconds[usable] / np.median(seconds[usable]),
            distance[usable] / np.median(distance[usable]),
        )
        missing = (ratio > GAP) & (ratio <= MAX_FILLED + 1)
        pieces[:-1][missing] = np.rint(ratio[missing]).astype(np.int64)
    first = np.append(0, np.cumsum(pieces)[:-1])  # new index of each old point
    where = np.arange(first[-1] + 1)
    points = np.stack([np.interp(where, first, line.points[:, k]) for k in (0, 1)], axis=1)
    last = np.zeros(len(where), bool)
    last[first[line.last]] = True
    return points, last


def read_writer(path: Path) -> str:
    """The writer's number from a file of `original`; "" if the file names none. Reads no more than
    it needs.

    Raises: DataError for malformed XML or declarations before the writer is named.
    """
    found: list[str] = []

    def start(name: str, attributes: dict[str, str], line: int) -> None:
        if name == "Form" and "writerID" in attributes:
            found.append(attributes["writerID"])

    _parse(path, start, stop=lambda: bool(found))
    return found[0] if found else ""

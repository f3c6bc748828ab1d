"""SICK (Marelli et al. 2014): pairs of sentences with their relatedness, from 1 to 5.

Three files of tab-separated columns under a line of names; there are editions of 5 and of 12
columns in different orders, so columns are found by name. The edition in one file has fewer pairs,
the repeated ones being gone; split into three it is read as well. Nothing here writes.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lnjax.data import text_lines
from lnjax.data.errors import DataError

FILES = {
    "train": "SICK_train.txt",
    "trial": "SICK_trial.txt",
    "test": "SICK_test_annotated.txt",
}
# Of SemEval 2014, and of the edition without repeated pairs.
COUNTS = {"train": (4500, 4439), "trial": (500, 495), "test": (4927, 4906)}
COLUMNS = {  # of an example: the names that it has in one edition or another
    "pair": ("pair_ID",),
    "first": ("sentence_A",),
    "second": ("sentence_B",),
    "score": ("relatedness_score",),
    "entailment": ("entailment_judgment", "entailment_label"),
}
JUDGMENTS = ("CONTRADICTION", "ENTAILMENT", "NEUTRAL")
_CURE = "download this file again"


class Pair(NamedTuple):
    """One pair of sentences and the mean of its ratings."""

    first: str
    second: str
    score: float  # from 1, unrelated, to 5


def read(paths: Mapping[str, Path]) -> dict[str, list[Pair]]:
    """The pairs of each split in the order of its file.

    Args:
        paths: the file of each of the splits "train", "trial" and "test".

    Raises: DataError for the first thing that cannot be used.
    """
    places: dict[str, str] = {}  # pair_ID -> where it stands
    return {split: _read_file(path, split, places) for split, path in paths.items()}


def _read_file(path: Path, split: str, places: dict[str, str]) -> list[Pair]:
    lines = text_lines.read(path)
    names = [name.strip() for name in lines[0].split("\t")]
    columns = {}
    for field, known in COLUMNS.items():
        place = next((names.index(name) for name in known if name in names), None)
        if place is None:
            raise DataError(
                f"{path} line 1: no column {' or '.join(known)} among {names}; expected the names "
                f"of the columns, separated by tabs; {_CURE}"
            )
        columns[field] = place
    pairs = []
    for number, line in enumerate(lines[1:], start=2):
        place = f"{path} line {number}"
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(names):
            raise DataError(
                f"{place}: {len(cells)} columns; expected the {len(names)} of line 1, separated by "
                f"tabs; {_CURE}"
            )
        row = {field: cells[column] for field, column in columns.items()}
        if row["pair"] in places:
            raise DataError(
                f"{place}: pair_ID {row['pair']} again, as in {places[row['pair']]}; expected "
                f"every pair once, in one of the files; {_CURE}"
            )
        places[row["pair"]] = f"{path.name} line {number}"
        if row["entailment"] not in JUDGMENTS:
            raise DataError(
                f"{place}: entailment {row['entailment']!r}; expected one of {JUDGMENTS}; {_CURE}"
            )
        for field in ("first", "second"):
            if not row[field]:
                raise DataError(
                    f"{place}: {COLUMNS[field][0]} is empty; expected a sentence; {_CURE}"
                )
        pairs.append(Pair(row["first"], row["second"], _score(place, row["score"])))
    if len(pairs) not in COUNTS[split]:
        raise DataError(
            f"{path} line {len(lines)}: the file ends after {len(pairs)} pairs; expected "
            f"{' or '.join(map(str, COUNTS[split]))} for {split!r}; {_CURE}"
        )
    return pairs


def _score(place: str, cell: str) -> float:
    try:
        score = float(cell)
    except ValueError:
        raise DataError(
            f"{place}: relatedness_score {cell!r} is no number; expected one from 1 to 5; {_CURE}"
        ) from None
    if not (math.isfinite(score) and 1 <= score <= 5):
        raise DataError(
            f"{place}: relatedness_score {cell} is out of range; expected one from 1 to 5; {_CURE}"
        )
    return score

"""MR, CR, SUBJ, MPQA: sentences of two classes, a file for each class, one sentence a line.

MR: film reviews, positive or negative (Pang and Lee 2005). CR: reviews of products (Hu and Liu
2004). SUBJ: plots, which are objective, and subjective reviews (Pang and Lee 2004). MPQA: phrases
with a positive or negative opinion (Wiebe et al. 2005). CR and MPQA hold blank lines, which are
skipped; in the others a blank line is a sentence that got lost. Nothing here writes.
"""

from collections.abc import Mapping
from pathlib import Path

from lnjax.data import text_lines
from lnjax.data.errors import DataError

CLASSES = ("positive", "negative")
# By set and class: the published name, then SentEval's where that is another one.
FILES = {
    "mr": {"positive": ("rt-polarity.pos",), "negative": ("rt-polarity.neg",)},
    "cr": {"positive": ("custrev.pos",), "negative": ("custrev.neg",)},
    "subj": {
        "positive": ("plot.tok.gt9.5000", "subj.objective"),
        "negative": ("quote.tok.gt9.5000", "subj.subjective"),
    },
    "mpqa": {"positive": ("mpqa.pos",), "negative": ("mpqa.neg",)},
}
EXACTLY = {"mr": 5331, "subj": 5000}  # sentences of each class
BLANK_LINES = ("cr", "mpqa")
FEWEST = 10  # of a class: one for each fold
_CURE = "download this file again"


def read(name: str, paths: Mapping[str, Path]) -> dict[str, list[str]]:
    """The sentences of each class in the order of its file.

    Args:
        name: "mr", "cr", "subj" or "mpqa".
        paths: the file of each class.

    Raises: DataError for the first thing that cannot be used.
    """
    sentences = {label: _read_file(name, path) for label, path in paths.items()}
    positive, negative = (paths[label] for label in CLASSES)
    if sentences["positive"] == sentences["negative"]:
        raise DataError(
            f"{negative}: the same sentences as {positive.name}; expected those of the other "
            f"class; {_CURE}"
        )
    return sentences


def _read_file(name: str, path: Path) -> list[str]:
    lines = text_lines.read(path)
    if name not in BLANK_LINES and "" in lines:
        raise DataError(
            f"{path} line {lines.index('') + 1}: an empty sentence; expected one sentence a line, "
            f"as {name.upper()} has; {_CURE}"
        )
    sentences = [line for line in lines if line]
    if name in EXACTLY and len(sentences) != EXACTLY[name]:
        raise DataError(
            f"{path} line {len(lines)}: the file ends after {len(sentences)} sentences; expected "
            f"{EXACTLY[name]}; {_CURE}"
        )
    if len(sentences) < FEWEST:
        raise DataError(
            f"{path} line {len(lines)}: the file ends after {len(sentences)} sentences; expected "
            f"at least {FEWEST}, one for each fold of the cross-validation; {_CURE}"
        )
    return sentences

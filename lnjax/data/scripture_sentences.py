"""Sentences in the order of a text: chapters of the World English Bible, split by whole books.

A chapter's verses are joined, cut where a sentence ends, and tokenized. Chapters are what the order
is kept in: the last sentence of one and the first of the next are no neighbours. Of each split no
book is in another, and the held-out books tell what no other book tells again (as Kings and
Chronicles, or the first three gospels, would).
"""

import itertools
import re

from lnjax.data import scripture
from lnjax.data.vocabulary import tokenize

HELD_OUT = {"validation": ("Genesis", "Acts"), "test": ("Job", "John")}
NUM_CHAPTERS = {"train": 1189 - 78 - 63, "validation": 50 + 28, "test": 42 + 21}
# A mark that ends a sentence, closing quotation marks and brackets, then white space.
_END = re.compile(r"(?<=[.?!])(?P<closing>[\"')\]]*)\s+")


def read() -> dict[str, list[dict[str, str]]]:
    """By split, a chapter each: its `sentences`, tokenized, line feeds between them, and `source`,
    such as "Judges 4"."""
    split_of = {book: split for split, books in HELD_OUT.items() for book in books}
    chapters: dict[str, list[dict[str, str]]] = {split: [] for split in NUM_CHAPTERS}
    by_chapter = itertools.groupby(scripture.verses(), key=lambda v: (v.book, v.chapter))
    for (book, chapter), verses in by_chapter:
        sentences = cut(" ".join(verse.text for verse in verses))
        lines = (" ".join(tokenize(sentence)) for sentence in sentences)
        example = {"sentences": "\n".join(filter(None, lines)), "source": f"{book} {chapter}"}
        chapters[split_of.get(book, "train")].append(example)
    return chapters


def cut(text: str) -> list[str]:
    """The sentences of a text, each with the quotation marks that close behind it.

    >>> cut('He said, "Go!" She went. Why?')
    ['He said, "Go!"', 'She went.', 'Why?']
    """
    sentences, start = [], 0
    for end in _END.finditer(text):
        sentences.append(text[start : end.end("closing")])
        start = end.end()
    return [*sentences, text[start:]] if start < len(text) else sentences

"""Sentences as ids of the words that a network knows: one way for use and for evaluation."""

import numpy as np

from lnjax.data.vocabulary import Vocabulary, tokenize


def ids_of(sentence: str, vocabulary: Vocabulary) -> np.ndarray:
    """The ids (L,) int32 of a sentence's words without the end; none for one without words.

    Where the vocabulary has the quotation marks of BookCorpus, they are taken for plain ones.
    """
    tokens = tokenize(sentence)
    if '"' not in vocabulary and "``" in vocabulary:
        tokens = _opening_and_closing(tokens)
    return vocabulary.encode(tokens)


def _opening_and_closing(tokens: list[str]) -> list[str]:
    """Quotation marks as BookCorpus has them: `` and '' in turn."""
    marks, seen = ("``", "''"), 0
    out = []
    for token in tokens:
        if token == '"':
            token, seen = marks[seen % 2], seen + 1
        out.append(token)
    return out

r"""Words that a network was not trained on, from vectors that know them (Kiros et al. 2015, 2.2).

.. math::
    \min_{W, b} \sum_{w \in \text{both}} \lVert W v_w + b - E_w \rVert^2, \qquad
    E_w := W v_w + b \ \text{ for every other } w

A linear map from the space of word2vec to the table of the encoder, by least squares without
regularization over the words that both know. The table's own rows stay.
"""

from typing import NamedTuple

import numpy as np

from lnjax.data.vocabulary import FIRST_WORD, Vocabulary
from lnjax.data.word_vectors import WordVectors


class WordTable(NamedTuple):
    """What an encoder reads in place of words."""

    vocabulary: Vocabulary
    rows: np.ndarray  # (len(vocabulary), E) float32


def is_word(word: str) -> bool:
    """Whether an entry of word2vec is a word and no phrase: for `word_vectors.read(keep=)`."""
    return "_" not in word


def expand(table: WordTable, vectors: WordVectors) -> WordTable:
    """The table with a row for every word of `vectors` besides.

    Raises:
      ValueError: so few words are in both that the map is not determined.
    """
    own = table.vocabulary
    width = vectors.vectors.shape[1]
    known = np.array([word in own for word in vectors.words], bool)
    if known.sum() < width + 1:
        raise ValueError(
            f"{known.sum()} words are in the vocabulary and among the word vectors; expected at "
            f"least {width + 1}, to determine a map of {width} numbers; take vectors of the same "
            "language and spelling"
        )
    shared = [word for word, is_known in zip(vectors.words, known, strict=True) if is_known]
    inputs = _with_one(vectors.vectors[known])
    targets = table.rows[own.encode(shared)].astype(np.float64)
    weights, *_ = np.linalg.lstsq(inputs, targets, rcond=None)
    mapped = _with_one(vectors.vectors[~known]) @ weights
    new = [word for word, is_known in zip(vectors.words, known, strict=True) if not is_known]
    rows = np.concatenate([table.rows, mapped.astype(table.rows.dtype)])
    assert len(rows) == FIRST_WORD + len(own.words) + len(new)
    return WordTable(Vocabulary((*own.words, *new)), rows)


def _with_one(vectors: np.ndarray) -> np.ndarray:
    return np.column_stack([vectors.astype(np.float64), np.ones(len(vectors))])

"""Sentences as ids: quotation marks are those that the network was trained on."""

import pytest

from lnjax.data.vocabulary import Vocabulary
from tasks.skip_thoughts.words import ids_of

SENTENCE = 'He said, "No" and "yes".'


@pytest.mark.parametrize(
    ("marks", "read"),
    [
        (["``", "''"], ["he", "said", ",", "``", "no", "''", "and", "``", "yes", "''", "."]),
        (['"'], ["he", "said", ",", '"', "no", '"', "and", '"', "yes", '"', "."]),
    ],
)
def test_quotation_marks(marks, read):
    words = ["he", "said", "no", "and", "yes", ",", ".", *marks]
    vocabulary = Vocabulary.from_counts(dict.fromkeys(words, 1))
    assert vocabulary.decode(ids_of(SENTENCE, vocabulary)) == read


def test_a_sentence_without_words_has_no_ids():
    assert len(ids_of("  ", Vocabulary.from_counts({"a": 1}))) == 0

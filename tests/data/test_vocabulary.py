"""Vocabularies: the order of ids, round trips, refusals; and the tokenizer."""

import json
from collections import Counter

import numpy as np
import pytest

from lnjax.data.vocabulary import END, UNKNOWN, Vocabulary, tokenize

TEXT = "the cat saw the dog and the dog saw a bird ."


@pytest.fixture
def vocabulary():
    return Vocabulary.from_counts(Counter(TEXT.split()))


def test_words_are_in_order_of_frequency_then_of_letters(vocabulary):
    assert vocabulary.words == ("the", "dog", "saw", ".", "a", "and", "bird", "cat")
    assert len(vocabulary) == 8 + 2
    turned = Vocabulary.from_counts(Counter(reversed(TEXT.split())))
    assert turned == vocabulary and hash(turned) == hash(vocabulary)
    assert Vocabulary.from_counts({"the": 1}) != vocabulary
    assert len({vocabulary, turned}) == 1


def test_size_counts_all_ids(vocabulary):
    counts = Counter(TEXT.split())
    for size in range(3, 13):
        limited = Vocabulary.from_counts(counts, size=size)
        assert len(limited) == min(size, len(vocabulary))
        assert limited.words == vocabulary.words[: size - 2]
    assert Vocabulary.from_counts(counts, min_count=2).words == ("the", "dog", "saw")
    assert Vocabulary.from_counts(counts, size=4, min_count=2).words == ("the", "dog")
    assert len(Vocabulary.from_counts(counts, min_count=4)) == 2


def test_encode_and_decode(vocabulary):
    ids = vocabulary.encode("the unicorn saw the bird".split())
    assert ids.dtype == np.int32 and ids.tolist() == [2, UNKNOWN, 4, 2, 8]
    assert vocabulary.decode(ids) == ["the", "<unk>", "saw", "the", "bird"]
    assert vocabulary.decode([3, 2, END, END, 5]) == ["dog", "the"]
    assert vocabulary.decode([END, 2]) == vocabulary.decode([]) == []
    assert vocabulary.encode([]).shape == (0,) and vocabulary.encode([]).dtype == np.int32
    known = list(vocabulary.words)
    assert vocabulary.decode(vocabulary.encode(known)) == known
    assert "dog" in vocabulary and "unicorn" not in vocabulary


def test_json(vocabulary):
    there = json.loads(json.dumps(vocabulary.to_json()))
    assert Vocabulary.from_json(there) == vocabulary
    assert Vocabulary.from_json([]).encode(["a"]).tolist() == [UNKNOWN]


@pytest.mark.parametrize("ids", [[2, 10], [-1], [2, END, 11], [2.0], [[2, 3]], 2])
def test_bad_ids_are_refused(vocabulary, ids):
    with pytest.raises(ValueError, match=r"ids 0 to 9|one row of integers"):
        vocabulary.decode(ids)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b", "a"], "'a' is word 2 and word 4"),
        (["a", ""], "word 3 of the vocabulary is ''"),
        (["a", 5], "word 3 of the vocabulary is 5"),
        ({"a": 2}, "of a dict; expected a list"),
        ("ab", "of a str; expected a list"),
        (None, "of a NoneType; expected a list"),
    ],
)
def test_bad_words_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_json(words)


@pytest.mark.parametrize("options", [{"size": 2}, {"size": -1}, {"min_count": 0}])
def test_bad_limits_are_refused(options):
    with pytest.raises(ValueError, match="expected at least"):
        Vocabulary.from_counts({"a": 1}, **options)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "In the beginning, God\n created.",
            ["in", "the", "beginning", ",", "god", "created", "."],
        ),
        ("Don't! He'll can't it's", ["do", "n't", "!", "he", "'ll", "ca", "n't", "it", "'s"]),
        ("the boys' dogs 'Surely'", ["the", "boys", "'", "dogs", "'", "surely", "'"]),
        ("1,234.5 men -- 3 of them...", ["1,234.5", "men", "--", "3", "of", "them", "..."]),
        ("a well-known `` thing ''", ["a", "well-known", "``", "thing", "''"]),
        ("@entity12 met @placeholder's son", ["@entity12", "met", "@placeholder", "'s", "son"]),
        ("Ünder “quotes”: É", ["ünder", '"', "quotes", '"', ":", "é"]),
        (" \t\n", []),
    ],
)
def test_tokenize(text, tokens):
    assert tokenize(text) == tokens
    assert tokenize(" ".join(tokens)) == tokens  # a tokenized text is left as it is


@pytest.mark.parametrize("word", [{"a": 1}, ["a"], None, 3])
def test_what_cannot_be_a_key_is_refused_as_a_word(word):
    with pytest.raises(ValueError, match="word 3 of the vocabulary is"):
        Vocabulary.from_json(["a", word])

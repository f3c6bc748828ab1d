"""The stand-ins: numbers, that rules hold, that nothing gives a label away by itself."""

import re

import numpy as np
import pytest

from lnjax.data import embedded_sentences, sentence_sets
from lnjax.data.scripture import verses


@pytest.fixture(scope="module")
def sets(embedded_cache):
    return sentence_sets.load("embedded", cache=embedded_cache)


@pytest.fixture(scope="module")
def places():
    """Letters of a verse in either translation -> its books, chapters and numbers."""
    found = {}
    for version in ("WORLD_ENGLISH", "KING_JAMES"):
        for verse in verses(version):
            found.setdefault((version, letters(verse.text)), []).append(verse[:3])
    return found


def letters(text):
    return re.sub(r"[^a-z]", "", text.lower())


def test_numbers_and_names(sets):
    names = ("relatedness", *embedded_sentences.NAMES)
    assert set(sets) == {f"embedded/{name}" for name in names}
    pairs = sets["embedded/relatedness"]
    assert [len(part.first) for part in pairs] == list(embedded_sentences.PAIRS.values())
    for part in pairs:
        levels, counts = np.unique(part.scores, return_counts=True)
        assert levels.tolist() == [1, 2, 3, 5] and len(set(counts)) == 1
    for name in embedded_sentences.NAMES:
        labels = sets[f"embedded/{name}"].labels
        assert labels.sum() == len(labels) / 2 == embedded_sentences.CLASS_SIZE


@pytest.mark.parametrize("name", embedded_sentences.NAMES)
def test_sentences_are_clean_and_once_each(sets, name):
    sentences = sets[f"embedded/{name}"].sentences
    assert len({letters(sentence) for sentence in sentences}) == len(sentences)
    lengths = np.array([len(sentence.split()) for sentence in sentences])
    assert lengths.min() >= 5 and lengths.max() <= 25
    assert not re.search(r"[\"()\[\]]|  ", "\n".join(sentences))
    labels = sets[f"embedded/{name}"].labels
    # Length alone says nothing.
    assert sorted(lengths[labels == 1]) == sorted(lengths[labels == 0])


def test_labels_follow_from_the_place(sets, places):
    books = list(dict.fromkeys(verse.book for verse in verses()))
    border = books.index("Matthew")
    for name, rule in (
        ("testament", lambda book: books.index(book) < border),
        ("poetry", lambda book: book in embedded_sentences.POETRY),
    ):
        found = sets[f"embedded/{name}"]
        for sentence, label in zip(found.sentences, found.labels, strict=True):
            where = places["WORLD_ENGLISH", letters(sentence)]
            assert {rule(book) for book, _, _ in where} == {bool(label)}


def test_questions_have_lost_their_mark(sets):
    found = sets["embedded/question"]
    marked = {letters(v.text): v.text.rstrip("\"' )]")[-1] for v in verses()}
    for sentence, label in zip(found.sentences, found.labels, strict=True):
        assert "?" not in sentence and sentence[-1] != "."
        assert marked[letters(sentence)] == ("?" if label else ".")


def test_speech_is_what_is_quoted(sets):
    found = sets["embedded/speech"]
    spans = {letters(s) for v in verses() for s in re.findall(r'"([^"]+)"', v.text)}
    whole = {letters(v.text): i for i, v in enumerate(verses())}
    quoted = np.array(['"' in v.text for v in verses()])
    for sentence, label in zip(found.sentences, found.labels, strict=True):
        if label:
            assert letters(sentence) in spans
        else:
            place = whole[letters(sentence)]
            assert not quoted[place - 1 : place + 2].any()


def test_pairs_are_as_related_as_their_score_says(sets, places):
    books_of = []
    for part in sets["embedded/relatedness"]:
        books, firsts = set(), set()
        for first, second, score in zip(*part, strict=True):
            here = places["WORLD_ENGLISH", letters(first)]
            there = places["KING_JAMES", letters(second)]
            relations = set()
            for a in here:
                for b in there:
                    ahead = b[2] - a[2] if a[:2] == b[:2] else None
                    relations.add(1 if a[0] != b[0] else {0: 5, 1: 3}.get(ahead, 2 if ahead else 0))
            assert score in relations
            if len(here) == len(there) == 1:
                books |= {here[0][0], there[0][0]}
            firsts.add(first)
        assert len(firsts) == len(part.first)
        books_of.append(books)
    train, trial, test = books_of
    assert not (train & trial or train & test or trial & test)  # splits share no book

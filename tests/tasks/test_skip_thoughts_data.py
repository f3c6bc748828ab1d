"""Triples of sentences and their batches; the encoder of a network, and words it did not know."""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

from lnjax.data.vocabulary import Vocabulary, tokenize
from lnjax.data.word_vectors import WordVectors
from tasks.skip_thoughts import encoder, expansion, triples
from tests import oracles
from tests.tasks.test_skip_thoughts import TASK, random_params

RECORDS = [
    {"sentences": "a b\nc\nd e f g h\na\nb a b\nc c"},
    {"sentences": "a"},
    {"sentences": "b b\nx a\ng"},
    {"sentences": "d\ne\nf\ng"},
]
VOCABULARY = Vocabulary(tuple("abcdefg"))


def found_by_hand(max_words):
    """All rows of three short neighbours, and the record they are in."""
    rows = []
    for record in RECORDS:
        lines = record["sentences"].split("\n")
        for three in zip(lines, lines[1:], lines[2:], strict=False):
            if all(len(line.split()) <= max_words for line in three):
                rows.append(three)
    return rows


@pytest.mark.parametrize(("max_words", "number"), [(2, 3), (3, 4), (5, 7), (254, 7)])
def test_all_triples_are_found_and_come_in_batches(max_words, number):
    found = triples.find(RECORDS, max_words=max_words)
    rows = found_by_hand(max_words)
    assert len(rows) == number == len(found.record) == len(found.place)
    assert found.length.tolist() == [len(row[1].split()) + 1 for row in rows]
    collate = triples.Collate(found, VOCABULARY, max_words=max_words)
    batch = collate(range(number), max_words + 1)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        **{part: ((number, max_words + 1), np.int32) for part in triples.PARTS},
        **{f"{part}_length": ((number,), np.int32) for part in triples.PARTS},
        "mask": ((number,), bool),
    }
    assert batch["mask"].all()
    for place, row in enumerate(rows):
        for part, sentence in zip(triples.PARTS, row, strict=True):
            ids = VOCABULARY.encode(sentence.split()).tolist()
            assert batch[f"{part}_length"][place] == len(ids) + 1
            padded = [*ids, *[0] * (max_words + 1 - len(ids))]
            assert batch[part][place].tolist() == padded
    short = collate([1, 0], int(found.length[:2].max()))
    assert short["centre"].shape == (2, found.length[:2].max())


def test_triples_that_are_refused():
    for max_words in (0, 255):
        with pytest.raises(ValueError, match=rf"max_words={max_words} must be from 1 to 254"):
            triples.find(RECORDS, max_words=max_words)
    with pytest.raises(ValueError, match="no three sentences in a row have at most max_words=1"):
        triples.find(RECORDS[:3], max_words=1)
    with pytest.raises(ValueError, match="one triple has no other"):
        triples.others(triples.find(RECORDS[2:3], max_words=2), 0)


def test_others_are_a_derangement_of_like_lengths(rng):
    lengths = rng.integers(2, 9, 200).astype(np.uint8)
    empty = np.zeros(200, np.int32)
    found = triples.Triples([], empty, empty.astype(np.int16), lengths)
    other = triples.others(found, 0)
    assert sorted(other) == list(range(200))
    assert (other != np.arange(200)).all()
    assert (lengths[other] != lengths).sum() <= 2 * len(set(lengths.tolist()))
    assert (triples.others(found, 0) == other).all()
    assert (triples.others(found, 1) != other).any()


def test_the_other_centre_is_in_the_batch():
    found = triples.find(RECORDS, max_words=5)
    other = triples.others(found, 0)
    batch = triples.Collate(found, VOCABULARY, max_words=5, other=other)(range(7), 6)
    np.testing.assert_array_equal(batch["other"], batch["centre"][other])
    np.testing.assert_array_equal(batch["other_length"], batch["centre_length"][other])


def test_unigram_nats_by_hand():
    text = [word for record in RECORDS for word in record["sentences"].split()]
    counts = Counter(text)
    statistics = {"sentences": 14, "tokens": len(text), "words": dict(counts)}
    small = Vocabulary.from_counts(counts, size=5)  # three words, the others are unknown
    found = triples.find(RECORDS, max_words=3)
    frequency = {"": 14 + 1, **{word: counts[word] + 1 for word in small.words}}
    frequency["<unk>"] = len(text) - sum(counts[word] for word in small.words) + 1
    total = sum(frequency.values())
    assert total == len(text) + 14 + 5
    nats = []
    for previous, _, following in found_by_hand(3):
        for sentence in (previous, following):
            for word in [*sentence.split(), ""]:
                known = word if word in frequency else "<unk>"
                nats.append(-np.log(frequency[known] / total))
    assert triples.unigram_nats(statistics, small, found) == pytest.approx(np.mean(nats))


# ---- the encoder ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    params = random_params(TASK, np.random.default_rng(0))
    return params, encoder.of(TASK, jax.device_put(params))


def vector(params, ids):
    """The final state of the encoder after these words, in float64."""
    table = np.asarray(params["embedding"], np.float64)
    h = np.zeros(TASK.features)
    for i in ids:
        h = oracles.gru_step(params["encoder"]["cell"], h, table[i])
    return h


SENTENCES = ["A b c.", "g", "a b c d e f g a b c d", "F e d", "b"]


def test_vectors_are_those_of_a_loop_in_the_order_of_the_sentences(trained):
    params, encode = trained
    ids = [TASK.vocabulary.encode(tokenize(sentence)).tolist() for sentence in SENTENCES]
    assert ids[0] == [2, 3, 4, 1]
    for end in (True, False):
        expected = np.array([vector(params, [*row, 0] if end else row) for row in ids])
        found = encode(SENTENCES, end=end, normalize=False)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    unit = encode(SENTENCES, end=False)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, rtol=1e-4, atol=1e-5)
    in_pairs = dataclasses.replace(encode, batch_size=2)
    np.testing.assert_allclose(in_pairs(SENTENCES, end=False), unit, rtol=1e-5, atol=1e-6)
    assert encode([]).shape == (0, TASK.features)


@pytest.mark.parametrize("empty", ["", "  \t"])
def test_an_empty_sentence_is_refused(trained, empty):
    with pytest.raises(ValueError, match=r"^sentence 2 has no words: '"):
        trained[1](["a b", empty])


def test_quotation_marks_as_the_vocabulary_has_them(trained):
    params, encode = trained
    vocabulary = Vocabulary(("``", "''", "a", "b"))
    rows = params["embedding"][: len(vocabulary)]
    other = dataclasses.replace(encode, table=expansion.WordTable(vocabulary, rows))
    np.testing.assert_array_equal(other(['"a" b "a"']), other(["`` a '' b `` a ''"]))


def test_expansion_finds_a_linear_map(rng, trained):
    """Vectors that an affine map takes to the table: new words land where the map takes them."""
    params, encode = trained
    weights, bias = rng.normal(size=(2, TASK.embedding_features)), rng.normal(size=3)
    words = (*"abcdefg", "new", "newer")
    vectors = rng.normal(size=(9, 2)).astype(np.float32)
    rows = np.array(params["embedding"])
    rows[2:] = vectors[:7] @ weights + bias
    table = expansion.WordTable(TASK.vocabulary, rows)
    shuffled = rng.permutation(9)
    given = WordVectors(tuple(words[i] for i in shuffled), vectors[shuffled])
    found = expansion.expand(table, given)
    assert found.vocabulary.words[:7] == TASK.vocabulary.words
    assert set(found.vocabulary.words[7:]) == {"new", "newer"}
    np.testing.assert_array_equal(found.rows[:9], rows)
    for word, expected in (("new", vectors[7]), ("newer", vectors[8])):
        (i,) = found.vocabulary.encode([word])
        np.testing.assert_allclose(found.rows[i], expected @ weights + bias, rtol=1e-4, atol=1e-5)

    before = dataclasses.replace(encode, table=table)
    after = before.with_words(given)
    np.testing.assert_array_equal(after(SENTENCES), before(SENTENCES))
    assert (after(["new"]) != before(["new"])).any()
    np.testing.assert_array_equal(before(["new"]), before(["newer"]))  # both unknown


def test_expansion_is_least_squares(rng, trained):
    """Without an exact map the residual over the shared words is orthogonal to the inputs."""
    params, _ = trained
    table = expansion.WordTable(TASK.vocabulary, np.asarray(params["embedding"]))
    words = (*"abcdefg", "x", "y", "z")
    vectors = np.concatenate([rng.normal(size=(7, 2)), np.eye(2), np.zeros((1, 2))])
    found = expansion.expand(table, WordVectors(words, vectors.astype(np.float32)))
    x, y, z = (found.rows[i] for i in found.vocabulary.encode(["x", "y", "z"]))
    weights = np.array([x - z, y - z, z])
    inputs = np.column_stack([vectors[:7], np.ones(7)])
    residual = table.rows[2:] - inputs @ weights
    assert np.abs(residual).max() > 0.01
    np.testing.assert_allclose(inputs.T @ residual, 0, atol=1e-5)


def test_too_few_shared_words_are_refused(trained):
    _, encode = trained
    words = WordVectors(("a", "b", "x"), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"2 words are in the vocabulary .* at least 3"):
        encode.with_words(words)
    assert expansion.is_word("new") and not expansion.is_word("New_York")

"""The embedded handwriting set and the text it is made of."""

import collections

import numpy as np
import pytest

from lnjax.data import handwriting_lines
from lnjax.data.handwriting import Handwriting
from lnjax.data.handwriting_lines import MAX_POINTS, MIN_COUNT, NUM_LINES, with_character
from lnjax.data.preparation import check
from lnjax.data.scripture import ALPHABET, cut_lines, plain, verses

# Changes when a generator changes: then raise Handwriting.VERSION as well.
DIGEST = "152e755229acea2658ed400161b53dceb96aa56fb26df24c081bbd4c9933428f"


def test_alphabet():
    assert len(ALPHABET) == len(set(ALPHABET)) == 56


def test_counts_and_fields(embedded, embedded_cache):
    assert {name: len(split) for name, split in embedded.splits.items()} == NUM_LINES
    assert check(Handwriting, "embedded", cache=embedded_cache) == NUM_LINES
    record = embedded.splits["test"][0]
    assert set(record) == {"strokes", "text", "id", "writer"}
    for split in embedded.splits.values():
        for record in split:
            strokes = record["strokes"]
            assert strokes.dtype == np.float32 and strokes.shape[1:] == (3,)
            assert 20 < len(strokes) <= MAX_POINTS and np.isfinite(strokes).all()
            assert np.isin(strokes[:, 2], [0, 1]).all() and strokes[-1, 2] == 1
            assert np.abs(strokes[:, :2]).max() < 150
            assert 10 <= len(record["text"]) <= 18
            assert record["writer"] == ""


def test_splits_share_neither_books_nor_lines(embedded):
    books, texts = {}, {}
    for name, split in embedded.splits.items():
        books[name] = {record["id"].rpartition(" ")[0] for record in split}
        texts[name] = [record["text"].casefold() for record in split]
        assert len(set(texts[name])) == len(split)
        assert len({record["id"] for record in split}) == len(split)
    assert books["validation"] == {"2 Samuel", "Luke"} and books["test"] == {"1 Samuel", "Acts"}
    assert len(books["train"]) > 50 and not books["train"] & (books["validation"] | books["test"])
    assert not set(texts["train"]) & (set(texts["validation"]) | set(texts["test"]))
    assert not set(texts["validation"]) & set(texts["test"])


def test_every_character_is_seen_often(embedded):
    for name, split in embedded.splits.items():
        counts = collections.Counter("".join(record["text"] for record in split))
        assert set(counts) == set(ALPHABET)
        assert min(counts.values()) >= {"train": 150, "validation": 10, "test": 10}[name]
        scarce = [letter for letter, count in counts.items() if count < MIN_COUNT[name]]
        assert set(scarce) <= {"q", "Q"}
    assert MIN_COUNT["train"] >= 200


def test_lines_are_the_verses_words(embedded):
    text = {f"{v.book} {v.chapter}:{v.verse}": plain(v.text).casefold() for v in verses()}
    for record in embedded.splits["validation"]:
        assert record["text"].casefold() in text[record["id"].rpartition("/")[0]]


def test_order_of_the_records_is_mixed(embedded):
    """A prefix of a split must be as good a sample as any: rare capitals are not all in front."""
    rare = ["X" in r["text"] or "Q" in r["text"] for r in embedded.splits["train"]]
    halves = [sum(rare[:2000]), sum(rare[2000:])]
    assert min(halves) > 0.7 * max(halves)


def test_statistics_are_those_of_the_training_points(embedded):
    offsets = np.concatenate([r["strokes"][:, :2] for r in embedded.splits["train"]])
    offsets = offsets.astype(np.float64)
    statistics = embedded.statistics
    assert statistics["offset_mean"] == pytest.approx(offsets.mean(0))
    assert statistics["offset_std"] == pytest.approx(offsets.std(0))
    assert statistics["points"] == len(offsets) and statistics["lines"] == 4000
    assert statistics["max_points"] <= MAX_POINTS
    assert 0.7 * MAX_POINTS < len(offsets) / 4000  # the width of a batch is well used


def test_digest_and_shape_of_the_text(embedded):
    assert embedded.digest == DIGEST


def test_verses():
    found = verses()
    assert len(found) == 31102 and len({v.book for v in found}) == 66
    assert found[0][:3] == ("Genesis", 1, 1) and found[-1][:3] == ("Revelation", 22, 21)
    assert found[0].text == "In the beginning God created the heavens and the earth."
    assert len({v[:3] for v in found}) == len(found)
    assert not any(v.text != " ".join(v.text.split()) or "`" in v.text for v in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('God said, "Let there be light," and', "God said, Let there be light, and"),
        ("Didn't he say, 'She is my sister?' She", "Didn't he say, She is my sister. She"),
        ("his sons' wives; of first-born [fruits]:", "his sons' wives, of first born fruits,"),
        ("Rise! (Go)", "Rise. Go"),
        ("about 30 men", ""),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected


def test_plain_keeps_to_the_alphabet():
    assert set("".join(plain(v.text) for v in verses()[::7])) <= set(ALPHABET)


def test_cut_lines():
    text = plain(verses()[0].text)
    for seed in range(20):
        lines = list(cut_lines(text, np.random.default_rng(seed), 5, 12))
        assert lines and all(5 <= len(line) <= 12 for line in lines)
        place = 0
        for line in lines:  # in order, never overlapping, whole words
            place = text.index(line, place) + len(line)
            assert place == len(text) or text[place] == " "
    assert list(cut_lines("Nebuchadnezzar", np.random.default_rng(0), 5, 12)) == []
    assert list(cut_lines("to", np.random.default_rng(0), 5, 12)) == []


def test_with_character():
    assert with_character("the Queen of", "Q") == "the Queen of"
    assert with_character("a quiet place", "Q") == "A Quiet Place"
    assert with_character("their iniquity, and", "Q") == "their INIQUITY, and"


def test_long_lines_are_not_taken():
    lines = [("a", "mmmmmmmmmmmmmmmmmmmm"), ("b", "it is it is")]
    (example,) = handwriting_lines.write_split(lines, 1, 0, np.random.default_rng(0))
    assert example["id"] == "b" and len(example["strokes"]) <= MAX_POINTS

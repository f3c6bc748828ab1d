"""The embedded scenes: pixels, sentences that are true of them, features, splits by digit."""

import hashlib

import numpy as np
import pytest

from lnjax.data import DataError, embedded_digits, embedded_scenes, prepare
from lnjax.data.captioned_images import CaptionedImages, captions_of, open_features
from lnjax.data.embedded_scenes import CELLS, NUM_SCENES, RELATIONS, WORDS


@pytest.fixture(scope="module")
def digits():
    return embedded_digits.read()


@pytest.fixture(scope="module")
def scenes():
    return embedded_scenes.make()


def cells_of(image):
    """The four cells in reading order, (28, 28) each."""
    return [image[r : r + 28, c : c + 28, 0] for r in (0, 28) for c in (0, 28)]


def labels_of(split_digits):
    return {
        image[..., 0].tobytes(): int(label)
        for image, label in zip(split_digits["image"], split_digits["label"], strict=True)
    }


def placed_in(scene, labels):
    """Digit by cell, read off the pixels."""
    cells = enumerate(cells_of(scene["image"]))
    return {number: labels[cell.tobytes()] for number, cell in cells if cell.any()}


def parse_list(text):
    """(what, cell) of a sentence that lists."""
    words, parts = text.replace(" and ", " ").split(), []
    while words:
        end = next(i for i, word in enumerate(words) if word in ("left", "right"))
        parts.append((" ".join(words[: end - 1]), CELLS.index(" ".join(words[end - 1 : end + 1]))))
        words = words[end + 1 :]
    return parts


def named(digit):
    return ("an " if digit == 8 else "a ") + WORDS[digit]


def test_sentences_are_true(digits, scenes):
    for split, of_split in scenes.items():
        assert len(of_split) == NUM_SCENES[split]
        labels = labels_of(digits[split])
        for scene in of_split[:300]:
            placed = placed_in(scene, labels)
            assert 2 <= len(placed) <= 4
            everything, permuted, in_order, pair, coarse = scene["captions"]
            listed = [(named(placed[cell]), cell) for cell in sorted(placed)]
            assert parse_list(everything) == listed
            assert sorted(parse_list(permuted), key=lambda part: part[1]) == listed
            assert permuted != everything
            digits_in_order = [WORDS[placed[cell]] for cell in sorted(placed)]
            count = WORDS[len(placed)]
            assert in_order == f"{count} digits in reading order {' '.join(digits_in_order)}"
            true = {
                f"{named(placed[one])} {there} {named(placed[other])}"
                for (first, second), names in RELATIONS.items()
                for one, other, there in ((first, second, names[0]), (second, first, names[1]))
                if {one, other} <= set(placed)
            }
            assert pair in true
            parity = [f"{'odd' if placed[cell] % 2 else 'even'}" for cell in sorted(placed)]
            size = [f"{'big' if placed[cell] > 4 else 'small'}" for cell in sorted(placed)]
            words = [f"{big} {odd}" for big, odd in zip(size, parity, strict=True)]
            assert parse_list(coarse) == list(zip(words, sorted(placed), strict=True))


def test_relations_are_those_of_the_grid():
    for (first, second), (there, back) in RELATIONS.items():
        (row, column), (other_row, other_column) = divmod(first, 2), divmod(second, 2)
        words = []
        if row != other_row:
            words.append(("above", "below")[row > other_row])
        if column != other_column:
            words.append(("left of", "right of")[column > other_column])
        assert there == " and ".join(words)
        turned = {"above": "below", "left of": "right of", "right of": "left of"}
        assert back == " and ".join(turned[word] for word in words)
    assert len(RELATIONS) == 6


def test_no_digit_is_in_two_splits(digits, scenes):
    used = {
        split: {cell.tobytes() for scene in of_split for cell in cells_of(scene["image"])}
        for split, of_split in scenes.items()
    }
    blank = bytes(28 * 28)
    assert used["train"] & used["validation"] == {blank}
    assert used["train"] & used["test"] == {blank}
    assert used["validation"] & used["test"] == {blank}
    assert used["test"] - {blank} <= set(labels_of(digits["test"]))


def test_held_out_scenes_differ_in_what_they_show(scenes):
    for split in ("validation", "test"):
        assert len({scene["captions"][0] for scene in scenes[split]}) == NUM_SCENES[split]


def test_features(scenes):
    images = np.stack([scene["image"] for scene in scenes["test"]])
    features = embedded_scenes.features(images)
    assert features.shape == (500, 1024) and features.dtype == np.float32
    projection = np.random.default_rng(0).integers(0, 2, (784, 256)) * 2 - 1
    for number in (0, 7, 499):
        cells = [cell.ravel().astype(np.int64) for cell in cells_of(images[number])]
        exact = np.concatenate([np.maximum(cell @ projection, 0) for cell in cells])
        np.testing.assert_array_equal(features[number].astype(np.int64), exact)
    assert features.any(axis=1).all()
    np.testing.assert_array_equal(embedded_scenes.features(images[3:5]), features[3:5])


@pytest.fixture(scope="module")
def prepared(embedded_cache):
    return prepare(CaptionedImages, "embedded", cache=embedded_cache)


def test_prepared(prepared, scenes):
    assert {split: len(records) for split, records in prepared.splits.items()} == NUM_SCENES
    record = prepared.splits["validation"][3]
    np.testing.assert_array_equal(record["image"], scenes["validation"][3]["image"])
    assert captions_of(record) == scenes["validation"][3]["captions"]
    assert (record["id"], record["row"]) == ("validation/3", 3)
    assert prepared.statistics["max_tokens"] == 17
    features = open_features(prepared, None, "test")
    images = np.stack([scene["image"] for scene in scenes["test"]])
    np.testing.assert_array_equal(features, embedded_scenes.features(images))


def test_the_scenes_stay_what_they_are(scenes):
    """Anything that changes them must change VERSION too, or old data would be used for new."""
    digest = hashlib.sha256()
    for of_split in scenes.values():
        for scene in of_split:
            digest.update(scene["image"].tobytes() + "\n".join(scene["captions"]).encode())
    assert str(CaptionedImages.VERSION) == "1.0.0"
    assert digest.hexdigest()[:16] == "3ea0016b2fe24da8"


def test_other_features_than_when_prepared_are_refused(prepared, monkeypatch):
    changed = embedded_scenes.features
    monkeypatch.setattr(embedded_scenes, "features", lambda images: changed(images) + 1)
    with pytest.raises(DataError, match="computes other features"):
        open_features(prepared, None, "test")

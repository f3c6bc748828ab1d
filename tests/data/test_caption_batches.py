"""Batches of images and captions: what they hold; a drawn caption is a function of a number."""

import itertools

import numpy as np
import pytest

from lnjax.data import caption_batches
from lnjax.data.vocabulary import Vocabulary

VOCABULARY = Vocabulary(tuple("abcdefgh"))  # a is 2
NUM, EACH, WIDTH = 11, 3, 7


def make_split(rng, num=NUM, rows_per_image=1):
    captions = [
        [" ".join(rng.choice([*"abcdefgh"], rng.integers(1, 7))) for _ in range(EACH)]
        for _ in range(num)
    ]
    features = rng.random((num * rows_per_image, 4)).astype(np.float32) + 0.1
    split = caption_batches.CaptionedSplit(
        features, np.arange(num) * rows_per_image, caption_batches.encode(captions, VOCABULARY)
    )
    return split, captions


def row_of(caption, width):
    ids = [VOCABULARY.words.index(word) + 2 for word in caption.split()][: width - 1]
    return ids + [0] * (width - len(ids)), len(ids) + 1


@pytest.mark.parametrize(("width", "rows_per_image"), [(WIDTH, 1), (4, 5), (2, 1)])
def test_a_batch(rng, width, rows_per_image):
    split, captions = make_split(rng, rows_per_image=rows_per_image)
    assert split.tokens.longest == max(len(line.split()) for five in captions for line in five)
    batch = split.batch([5, 0, 10], width)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        "features": ((3, 4), np.float32),
        "tokens": ((3, EACH, width), np.int32),
        "lengths": ((3, EACH), np.int32),
        "image": ((3,), np.int32),
        "mask": ((3,), bool),
    }
    assert batch["mask"].all() and batch["image"].tolist() == [5, 0, 10]
    for row, number in enumerate((5, 0, 10)):
        for k in range(EACH):
            tokens, length = row_of(captions[number][k], width)
            assert batch["tokens"][row, k].tolist() == tokens
            assert batch["lengths"][row, k] == length
        raw = split.features[rows_per_image * number].astype(np.float64)
        np.testing.assert_allclose(batch["features"][row], raw / np.linalg.norm(raw), rtol=1e-6)


def test_unknown_words_are_one():
    tokens = caption_batches.encode([["a x", "y"]], VOCABULARY)
    padded, lengths = tokens.padded(np.array([0]), 3)
    assert padded.tolist() == [[[2, 1, 0], [1, 0, 0]]] and lengths.tolist() == [[3, 2]]


def test_images_with_other_numbers_of_captions_are_refused():
    with pytest.raises(ValueError, match=r"captions by image: \[1, 2\]"):
        caption_batches.encode([["a"], ["a", "b"]], VOCABULARY)
    with pytest.raises(ValueError, match=r"captions by image: \[\]"):
        caption_batches.encode([], VOCABULARY)


def test_counts():
    assert caption_batches.count_words(["a b a", "b c"]) == {"a": 2, "b": 2, "c": 1}


def train(split, seed=0, num_threads=0):
    return caption_batches.train_batches(
        split, seed=seed, batch_size=4, width=WIDTH, num_threads=num_threads
    )


def test_one_caption_is_drawn(rng):
    split, captions = make_split(rng)
    drawn = {number: set() for number in range(NUM)}
    images = []
    for batch in itertools.islice(train(split), 110):
        assert batch["tokens"].shape == (4, 1, WIDTH) and batch["lengths"].shape == (4, 1)
        for row, number in enumerate(batch["image"].tolist()):
            images.append(number)
            rows = [row_of(line, WIDTH) for line in captions[number]]
            found = rows.index((batch["tokens"][row, 0].tolist(), batch["lengths"][row, 0]))
            drawn[number].add(found)
    assert sorted(images) == sorted([*range(NUM)] * 40)  # 110 batches are 40 epochs
    assert all(len(found) == EACH for found in drawn.values())
    again = np.concatenate([batch["image"] for batch in itertools.islice(train(split), 3)])
    assert again.tolist() == images[:12]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_batch_is_a_function_of_its_number(rng, num_threads):
    split, _ = make_split(rng)
    whole = list(itertools.islice(train(split), 9))
    batches = train(split, num_threads=num_threads)
    batches.set_state({"next_index": 5})
    for expected in whole[5:]:
        batch = next(batches)
        assert batch.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(batch[name], leaf)
    assert batches.get_state() == {"next_index": 9}
    other = next(train(split, seed=1))
    assert any((other[name] != whole[0][name]).any() for name in ("image", "tokens"))


def test_draws_do_not_follow_the_order(rng):
    """The captions of two epochs differ though their generator's seed resembles the order's."""
    split, _ = make_split(rng, num=4)
    draws = [
        tuple(batch["tokens"][np.argsort(batch["image"])].ravel())
        for batch in itertools.islice(train(split), 20)
    ]
    assert len(set(draws)) > 15


def test_evaluation_has_all_captions_of_the_first_images(rng):
    split, captions = make_split(rng)
    batches = caption_batches.eval_batches(
        split, num_images=6, batch_size=4, width=WIDTH, num_threads=0
    )
    one, two = batches
    assert one["tokens"].shape == two["tokens"].shape == (4, EACH, WIDTH)
    assert [*one["image"], *two["image"][:2]] == list(range(6))
    assert two["mask"].tolist() == [True, True, False, False]
    assert not two["features"][2:].any() and not two["lengths"][2:].any()
    assert two["tokens"][1, 2].tolist() == row_of(captions[5][2], WIDTH)[0]

"""Recall and ranks, against hand-made examples and loops; ties count against the model."""

import numpy as np
import pytest

from tasks.order_embeddings import ranking

# Two images with two captions each: captions 0 and 1 are of image 0.
DISTANCE = np.array([[0.1, 0.5], [0.4, 0.3], [0.2, 0.6], [0.7, 0.0]])


def test_by_hand():
    assert ranking.image_ranks(DISTANCE).tolist() == [0, 1, 1, 0]
    # Image 0: its best is 0.1, before it none. Image 1: its best is 0.0.
    assert ranking.caption_ranks(DISTANCE).tolist() == [0, 0]
    assert ranking.caption_ranks(DISTANCE[[0, 1, 3, 2]][:, ::-1]).tolist() == [1, 1]
    got = ranking.retrieval(DISTANCE)
    assert got == {
        "image_recall_at_1": 0.5,
        "image_recall_at_5": 1.0,
        "image_recall_at_10": 1.0,
        "image_median_rank": 1.0,  # floor(0.5) + 1
        "image_mean_rank": 1.5,
        "caption_recall_at_1": 1.0,
        "caption_recall_at_5": 1.0,
        "caption_recall_at_10": 1.0,
        "caption_median_rank": 1.0,
        "caption_mean_rank": 1.0,
        "selection": 2.5,
    }


def test_summary():
    ranks = np.array([0, 1, 4, 5, 9, 10, 30])
    assert ranking.summary(ranks) == {
        "recall_at_1": 1 / 7,
        "recall_at_5": 3 / 7,
        "recall_at_10": 5 / 7,
        "median_rank": 6.0,
        "mean_rank": pytest.approx(59 / 7 + 1),
    }
    assert ranking.summary(np.array([0, 1, 2, 7]))["median_rank"] == 2.0


def loops(distance, each):
    """Ranks one comparison at a time: what is not farther stands before."""
    num_captions, num_images = distance.shape
    images, captions = [], []
    for j in range(num_captions):
        own = j // each
        others = [i for i in range(num_images) if i != own]
        images.append(sum(not distance[j, i] > distance[j, own] for i in others))
    for i in range(num_images):
        mine = range(each * i, each * (i + 1))
        best = min(distance[j, i] for j in mine)
        others = [j for j in range(num_captions) if j not in mine]
        captions.append(sum(not distance[j, i] > best for j in others))
    return images, captions


@pytest.mark.parametrize(("num_images", "each", "levels"), [(7, 5, 4), (6, 1, 3), (4, 3, 1000)])
def test_loops_with_ties(rng, num_images, each, levels):
    distance = rng.integers(0, levels, (num_images * each, num_images)).astype(np.float32)
    images, captions = loops(distance, each)
    assert ranking.image_ranks(distance).tolist() == images
    assert ranking.caption_ranks(distance).tolist() == captions
    if levels == 1000:  # without ties an argsort says the same
        order = np.argsort(distance, axis=1)
        own = np.arange(num_images * each) // each
        assert images == [row.tolist().index(i) for row, i in zip(order, own, strict=True)]
        order = np.argsort(distance.T, axis=1) // each
        assert captions == [row.tolist().index(i) for i, row in enumerate(order)]


def test_what_knows_nothing_is_last():
    for value in (0.5, np.nan):
        distance = np.full((10, 5), value)
        assert ranking.image_ranks(distance).tolist() == [4] * 10
        assert ranking.caption_ranks(distance).tolist() == [8] * 5


def test_captions_that_do_not_divide_are_refused():
    for shape in ((7, 3), (2, 3)):
        with pytest.raises(ValueError, match=rf"{shape[0]} captions of {shape[1]} images"):
            ranking.retrieval(np.zeros(shape))


def test_mean():
    folds = ({"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 1.0})
    assert ranking.mean(folds) == {"a": 1.5, "b": 0.5}

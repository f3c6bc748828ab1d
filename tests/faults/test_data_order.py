"""Every class of training batches: an order that threads and resuming do not change."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from lnjax.data import caption_batches, length_buckets, pipeline
from lnjax.data.vocabulary import Vocabulary

SIZE = 4
LENGTHS = np.random.default_rng(0).permutation([2] * 11 + [6] * 6 + [11] * 9)


def plain(num_threads):
    def collate(rows):
        return {"record": np.array(rows), "mask": np.ones(len(rows), bool)}

    return pipeline.train_batches(
        range(26), seed=3, batch_size=SIZE, collate=collate, num_threads=num_threads
    )


def by_length(num_threads):
    def collate(rows, length):
        return {"record": np.array(rows), "x": np.zeros((len(rows), length))}

    def noise(batch, generator):
        return batch | {"x": batch["x"] + generator.random(batch["x"].shape)}

    return length_buckets.train_batches(
        LENGTHS,
        (4, 8, 12),
        seed=3,
        batch_size=SIZE,
        collate=collate,
        group=2,
        augment=noise,
        num_threads=num_threads,
    )


def captions(num_threads):
    rng = np.random.default_rng(1)
    words = [[" ".join(rng.choice([*"abc"], 3)) for _ in range(3)] for _ in range(26)]
    split = caption_batches.CaptionedSplit(
        rng.random((26, 4)) + 0.1,
        np.arange(26),
        caption_batches.encode(words, Vocabulary(tuple("abc"))),
    )
    batches = caption_batches.train_batches(
        split, seed=3, batch_size=SIZE, width=5, num_threads=num_threads
    )
    return batches


KINDS = {
    "plain": (plain, "record"),
    "by length": (by_length, "record"),
    "captions": (captions, "image"),
}
kinds = pytest.mark.parametrize("kind", KINDS)
# A whole number of batches and of epochs of each bucket, so that each record is seen as often.
EPOCHS = 2 * SIZE
NUMBER = EPOCHS * 26 // SIZE


def contents(batch):
    return {name: (leaf.shape, leaf.tobytes()) for name, leaf in batch.items()}


@kinds
def test_the_order_is_the_same_for_any_number_of_threads(kind):
    make, _ = KINDS[kind]
    one, *others = (
        [contents(batch) for batch in itertools.islice(make(threads), NUMBER)]
        for threads in (0, 1, 4)
    )
    assert all(other == one for other in others) and len(set(map(str, one))) == NUMBER


@kinds
def test_the_order_is_the_same_after_resuming(kind):
    """From every position, with another number of threads, as a checkpoint keeps positions."""
    make, _ = KINDS[kind]
    batches, positions, expected = make(4), [], []
    for _ in range(NUMBER):
        positions.append(json.loads(json.dumps(batches.get_state())))
        expected.append(contents(next(batches)))
    resumed = {threads: make(threads) for threads in (0, 1, 4)}
    for at in (0, 1, 7, 13, 26, NUMBER - 2):
        for each in resumed.values():
            each.set_state(positions[at])
            assert [contents(next(each)) for _ in range(2)] == expected[at : at + 2]


@kinds
def test_each_record_once_an_epoch(kind):
    make, field = KINDS[kind]
    taken = [batch[field].tolist() for batch in itertools.islice(make(0), NUMBER)]
    assert Counter(itertools.chain(*taken)) == dict.fromkeys(range(26), EPOCHS)
    if kind != "by length":  # there an epoch is one of each bucket: see test_length_buckets
        flat = list(itertools.chain(*taken))
        for epoch in range(EPOCHS):
            assert sorted(flat[epoch * 26 : (epoch + 1) * 26]) == list(range(26))


@kinds
@pytest.mark.parametrize("threads", [0, 4])
def test_records_of_a_position_are_those_of_its_batch(kind, threads):
    """What `nonfinite.jsonl` names. Asking takes no batch."""
    make, field = KINDS[kind]
    batches, other = make(threads), make(0)
    for _ in range(NUMBER):
        position = batches.get_state()
        named = batches.records(position)
        assert batches.get_state() == position and other.records(position) == named
        assert next(batches)[field].tolist() == named
    with pytest.raises(ValueError, match="next_index"):
        batches.records({"next_index": -1})

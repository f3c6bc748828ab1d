"""Batches by length: what is in a bucket, order, resumption, counts, shapes."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from lnjax.data import length_buckets

EDGES = (4, 8, 12)
# 11, 6 and 9 records of up to 4, 8 and 12.
LENGTHS = np.random.default_rng(0).permutation([1, 2, 3, 4] * 2 + [4] * 3 + [5, 6, 8] * 2 + [9] * 9)


def collate(rows, length):
    assert max(LENGTHS[rows]) <= length
    return {
        "row": np.array(rows) + 1,  # a row of padding (0) is no record
        "x": np.ones((len(rows), length)),
        "mask": np.ones(len(rows), bool),
    }


def train(*, seed=0, batch_size=4, lengths=LENGTHS, **kwargs):
    return length_buckets.train_batches(
        lengths, EDGES, seed=seed, batch_size=batch_size, collate=collate, **kwargs
    )


def take(batches, number):
    return [
        (batch["x"].shape[1], batch["row"].tolist()) for batch in itertools.islice(batches, number)
    ]


@pytest.mark.parametrize(("batch_size", "group"), [(1, 1), (4, 1), (6, 1), (4, 3), (2, 5)])
def test_every_record_as_often_as_another_of_its_bucket(batch_size, group):
    batches = take(train(batch_size=batch_size, group=group), 120 * group)
    for edge, number in zip(EDGES, (11, 6, 9), strict=True):
        of_bucket = [rows for length, rows in batches if length == edge]
        assert all(len(rows) == batch_size for rows in of_bucket)
        seen = Counter(itertools.chain(*of_bucket))
        records = np.flatnonzero((LENGTHS <= edge) & (LENGTHS > edge - 4)) + 1
        assert set(seen) == set(records.tolist()) and len(seen) == number
        # The stream ends inside an epoch, where some batches of its passes are still to come.
        assert max(seen.values()) - min(seen.values()) <= 1 + -(-batch_size * group // number)


def test_an_epoch_takes_what_its_passes_fill_and_carries_the_rest():
    # With batches of 4: 11 -> 2 3 3 3, 6 -> 1 2 1 2, 9 -> 2 2 2 3 batches in the first four epochs.
    batches = take(train(), 5 + 7 + 6 + 8)
    borders = np.cumsum([0, 5, 7, 6, 8])
    epochs = [batches[a:b] for a, b in itertools.pairwise(borders)]
    counts = [Counter(edge for edge, _ in epoch) for epoch in epochs]
    assert [[count[edge] for edge in EDGES] for count in counts] == [
        [2, 1, 2],
        [3, 2, 2],
        [3, 1, 2],
        [3, 2, 3],
    ]
    orders = [[edge for edge, _ in epoch] for epoch in epochs]
    assert any(order != sorted(order) for order in orders)  # batches are permuted
    # After four epochs of 4, 44 of 11 records, 24 of 6 and 36 of 9 are taken: each 4 times.
    seen = Counter(itertools.chain(*(rows for _, rows in batches)))
    assert seen == dict.fromkeys(range(1, 27), 4)


def test_order_depends_on_the_seed_and_on_nothing_else():
    first = take(train(seed=3), 40)
    assert first == take(train(seed=3), 40) == take(train(seed=3, num_threads=3), 40)
    assert first != take(train(seed=4), 40)
    edges = [[edge for edge, _ in take(train(seed=seed), 40)] for seed in (3, 4)]
    assert edges[0] != edges[1]


def test_a_group_is_of_one_bucket():
    for batch_size, group in [(4, 3), (2, 4)]:
        edges = [edge for edge, _ in take(train(batch_size=batch_size, group=group), 60 * group)]
        groups = [set(edges[i : i + group]) for i in range(0, len(edges), group)]
        assert all(len(of_group) == 1 for of_group in groups)
        assert len(set(edges)) == 3


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 6, 13])  # epochs of single batches end at 5 and 12
def test_resume_is_exact(taken, group):
    batches = train(group=group)
    expected = take(train(group=group), 40)[taken:]
    take(batches, taken)
    state = json.loads(json.dumps(batches.get_state()))
    assert state == {"next_index": taken}
    fresh = train(group=group)
    fresh.set_state(state)
    assert take(fresh, 40 - taken) == expected
    take(batches, 7)
    batches.set_state(state)
    assert take(batches, 40 - taken) == expected


def test_far_batches_are_found_at_once():
    batches = train()
    batches.set_state({"next_index": 10**15})
    far = take(batches, 30)
    assert {edge for edge, _ in far} == set(EDGES) and far[:15] != far[15:]


def test_augment_gets_the_generator_of_the_batch():
    def augment(batch, generator):
        return batch | {"draw": generator.integers(10**9)}

    batches = train(seed=5, augment=augment)
    draws = [int(next(batches)["draw"]) for _ in range(6)]
    expected = [np.random.default_rng([5, number]).integers(10**9) for number in range(6)]
    assert draws == expected and len(set(draws)) == 6
    batches.set_state({"next_index": 3})
    assert next(batches)["draw"] == draws[3]


@pytest.mark.parametrize(
    ("lengths", "least", "edges", "rows"),
    [
        ([1, 9, 5, 4, 8, 12], 1, (4, 8, 12), [[0, 3], [2, 4], [1, 5]]),
        ([4, 5, 8, 8, 12, 9], 2, (8, 12), [[0, 1, 2, 3], [4, 5]]),  # merged upward
        ([1, 2, 5, 6, 12], 2, (4, 12), [[0, 1], [2, 3, 4]]),  # the last one downward
        ([1, 2, 5], 2, (8,), [[0, 1, 2]]),  # to the edge of its longest, no further
        ([5, 1], 3, (8,), [[0, 1]]),  # fewer than `least` in all
        ([9, 10], 1, (12,), [[0, 1]]),  # no bucket without a record
    ],
)
def test_buckets(lengths, least, edges, rows):
    buckets = length_buckets.divide(lengths, EDGES, least)
    assert buckets.edges == edges
    assert [of_bucket.tolist() for of_bucket in buckets.rows] == rows


def test_a_bucket_smaller_than_a_batch_is_seen():
    lengths = np.where(np.arange(26) == 0, 5, np.where(np.arange(26) < 20, 4, 12))
    batches = length_buckets.train_batches(
        lengths, EDGES, seed=0, batch_size=4, collate=lambda rows, length: {"row": np.array(rows)}
    )
    seen = itertools.chain(*(batch["row"].tolist() for batch in itertools.islice(batches, 20)))
    assert 0 in set(seen)


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_evaluation_sees_every_record_once(batch_size):
    batches = length_buckets.eval_batches(LENGTHS, EDGES, batch_size=batch_size, collate=collate)
    assert len(batches) == sum(-(-n // batch_size) for n in (11, 6, 9))
    for _ in range(2):
        seen = list(batches)
        assert len(seen) == len(batches)
        assert all(len(batch["row"]) == len(batch["mask"]) == batch_size for batch in seen)
        assert {batch["x"].shape[1] for batch in seen} == set(EDGES)
        rows = np.concatenate([batch["row"] for batch in seen])
        mask = np.concatenate([batch["mask"] for batch in seen])
        assert sorted(rows[mask].tolist()) == list(range(1, 27))
        assert not rows[~mask].any()


@pytest.mark.parametrize(
    ("lengths", "edges", "parts"),
    [
        ([], EDGES, ["no records"]),
        ([3, 0, 5], EDGES, ["record 1", "length 0", "expected 1 to 12"]),
        ([3, 5, 13, 14], EDGES, ["record 2", "length 13", "1 others"]),
        ([3], (), ["ascending"]),
        ([3], (4, 4), ["[4, 4]", "ascending"]),
        ([3], (0, 4), ["ascending"]),
    ],
)
def test_refusals(lengths, edges, parts):
    with pytest.raises(ValueError) as caught:
        length_buckets.divide(lengths, edges)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batch_size": 2, "group": 0}])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        train(**sizes)

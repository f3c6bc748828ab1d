"""Batches of segments: rows that go on, order, resumption, what is read how often."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from lnjax.data import segments
from tests.runs import assert_goes_on

LENGTHS = [1, 4, 5, 9, 12, 3, 8, 2, 7, 13]
ROWS, STEPS = 3, 4


def collate(rows):
    return {
        name: np.array([getattr(row, name) for row in rows])
        for name in ("row", "first", "end", "start")
    }


def train(*, seed=0, batch_size=ROWS, length=STEPS, lengths=LENGTHS, **kwargs):
    return segments.train_batches(
        lengths, seed=seed, batch_size=batch_size, length=length, collate=collate, **kwargs
    )


def lanes(number, **kwargs):
    """What each row reads in `number` batches: lists of (row, first, end)."""
    batches = list(itertools.islice(train(**kwargs), number))
    return [
        [tuple(int(b[name][lane]) for name in ("row", "first", "end")) for b in batches]
        for lane in range(len(batches[0]["row"]))
    ]


@pytest.mark.parametrize("length", [1, 4, 100])
def test_each_row_reads_records_from_their_beginning_to_their_end(length):
    for lane in lanes(120, length=length):
        expected = 0
        for (row, first, end), following in itertools.pairwise(lane):
            assert first == expected and first < end <= LENGTHS[row]
            assert end == LENGTHS[row] or end - first == length
            expected = 0 if end == LENGTHS[row] else end
            assert (following[0] == row) == (expected > 0) or expected == 0
    for batch in itertools.islice(train(), 30):
        np.testing.assert_array_equal(batch["start"], batch["first"] == 0)


def test_every_record_once_in_a_pass_of_its_row():
    given = []
    for lane in lanes(200):
        begun = [row for row, first, _ in lane if first == 0]
        mine = sorted(set(begun))
        given += mine
        passes = [begun[i : i + len(mine)] for i in range(0, len(begun) - len(mine), len(mine))]
        assert len(passes) > 5 and all(sorted(one) == mine for one in passes)
        assert len({tuple(one) for one in passes}) > 1  # in orders of their own
    assert sorted(given) == list(range(len(LENGTHS)))  # no record has two rows, none is left out
    counts = Counter(len(set(row for row, *_ in lane)) for lane in lanes(200))
    assert counts == {3: 2, 4: 1}


def test_a_batch_is_known_by_its_number():
    batches = train()
    whole = [next(batches) for _ in range(60)]
    for threads, number in ((0, 0), (2, 1), (4, 17), (0, 59)):
        again = train(num_threads=threads)
        again.set_state({"next_index": number})
        for want in whole[number : number + 3]:
            got = next(again)
            for name in want:
                np.testing.assert_array_equal(got[name], want[name])
    assert json.loads(json.dumps(batches.get_state())) == {"next_index": 60}
    other = [batch["row"].tolist() for batch in itertools.islice(train(seed=1), 60)]
    assert other != [batch["row"].tolist() for batch in whole]


def test_it_goes_on_from_a_position():
    assert_goes_on(train())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, length 4"),
        ({"length": 0}, "batch_size is 3, length 0"),
        ({"batch_size": 11}, "batch_size is 11, but there are 10 records.*lower it"),
        ({"lengths": [3, 0, 2]}, "record 1 has length 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        train(**changes)

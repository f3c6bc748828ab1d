"""Long sequences in pieces: batches whose rows go on where they stopped in the batch before.

For truncated backpropagation through time with a state that is carried from batch to batch. Each
row of the batch is a lane: the records that the seed has given to it, one after the other, pass
after pass, each pass a permutation of its own, and each record from its beginning to its end in
segments of `length` steps. A segment never spans two records, so the last of a record may be
shorter. Which segment stands in a row is a pure function of (seed, row, number of the batch), so a
pipeline resumes from that number alone, in the middle of a record too.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lnjax.data.pipeline import Batch, TrainBatches

# Third words of a generator's seed, as in `length_buckets`.
_LANES, _PASS = 1, 2


class Segment(NamedTuple):
    """What one row of a batch reads: steps `first` to `end` - 1 of the record with number `row`."""

    row: int
    first: int
    end: int

    @property
    def start(self) -> bool:
        """Whether a record begins here, and the state of the row is to be reset."""
        return self.first == 0


def train_batches(
    lengths: Sequence[int] | np.ndarray,
    *,
    seed: int,
    batch_size: int,
    length: int,
    collate: Callable[[Sequence[Segment]], Batch],
    num_threads: int = 2,
) -> TrainBatches:
    """Endless batches of segments; see above.

    Every record comes exactly once in a pass of its lane. The lanes have equally many records, or
    one more or less, but not equally many segments: one with fewer begins its next pass sooner.

    Args:
        lengths: of each record, at least 1.
        seed: with the number of the batch it determines what is in it.
        batch_size: rows of a batch, of which each is a lane.
        length: steps of a segment, at most.
        collate: makes a batch of the segments of its rows; called in the reading threads.
        num_threads: see `pipeline.train_batches`.

    Returns: see `pipeline.train_batches`.
    Raises: ValueError if `length` or `batch_size` is below 1, there are fewer records than rows, or
        a record has no step (the first such is named).
    """
    lengths = np.asarray(lengths, np.int64)
    if batch_size < 1 or length < 1:
        raise ValueError(f"batch_size is {batch_size}, length {length}; expected at least 1")
    if len(lengths) < batch_size:
        raise ValueError(
            f"batch_size is {batch_size}, but there are {len(lengths)} records; each row of a batch"
            " needs a record of its own to go on with: lower it"
        )
    if len(empty := np.flatnonzero(lengths < 1)):
        raise ValueError(f"record {empty[0]} has length {lengths[empty[0]]}; expected at least 1")
    counts = -(-lengths // length)  # segments of each record
    dealt = np.random.default_rng([seed, 0, _LANES]).permutation(len(lengths))
    lanes = [dealt[lane::batch_size] for lane in range(batch_size)]
    totals = [int(counts[rows].sum()) for rows in lanes]

    @functools.lru_cache(maxsize=4 * batch_size)  # the passes that the batches under way touch
    def one_pass(lane: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The records of a lane in the order of a pass, and the segments up to the end of each."""
        rows = np.random.default_rng([seed, number, _PASS + lane]).permutation(lanes[lane])
        return rows, np.cumsum(counts[rows])

    def segment(lane: int, number: int) -> Segment:
        rows, ends = one_pass(lane, number // totals[lane])
        place = number % totals[lane]
        at = int(np.searchsorted(ends, place, side="right"))
        row = int(rows[at])
        first = (place - int(ends[at] - counts[row])) * length
        return Segment(row, first, min(first + length, int(lengths[row])))

    def load(number: int, of_batch: range) -> Batch:
        return collate([segment(lane, number) for lane in of_batch])

    def records(number: int) -> list[int]:
        return [segment(lane, number).row for lane in range(batch_size)]

    return TrainBatches(load, records, batch_size, num_threads)

"""Batches of records of similar length, so that little of a batch is padding.

The records are divided into buckets by the edge that their length does not exceed, and a batch is
padded to the edge of its bucket: there are at most as many shapes as edges. In training each bucket
is an endless sequence of its records, pass after pass, each pass a permutation of its own; epoch e
takes from every bucket the batches that end in its e-th pass, in an order that is a permutation of
its own. What does not fill a batch at the end of a pass is therefore carried into the next epoch:
nothing is dropped, and each record comes exactly once a pass. All of it is a pure function of
(seed, number of the batch), so a pipeline resumes from that number alone.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import grain
import numpy as np

from lnjax.data import pipeline
from lnjax.data.pipeline import Batch, EvalBatches, TrainBatches

Collate = Callable[[Sequence[int], int], Batch]  # numbers of records, and the length to pad to

# Third word of a generator's seed. None is 0: seeds that differ in zeros at their end are the same,
# and (seed, number of the batch) is the generator of `augment`.
_ORDER, _RECORDS = 1, 2


class Buckets(NamedTuple):
    """Records by length: bucket b holds the records `rows[b]`, none longer than `edges[b]`."""

    edges: tuple[int, ...]
    rows: tuple[np.ndarray, ...]  # int64, ascending


def divide(lengths: Sequence[int] | np.ndarray, edges: Sequence[int], least: int = 1) -> Buckets:
    """Puts every record into the bucket of the smallest edge that its length does not exceed.

    A bucket of fewer than `least` records is merged into the next longer one, and if none is left
    above it, into the one below, which then has its edge; so there may be fewer buckets than edges.

    Args:
        lengths: of each record, at least 1.
        edges: ascending.
        least: records that a bucket has, unless there are fewer in all.

    Raises: ValueError if the edges do not ascend from 1 or more, there is no record, or a record
        has no length or is longer than the last edge (the first such is named).
    """
    lengths = np.asarray(lengths)
    if not edges or edges[0] < 1 or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"edges of length buckets {list(edges)}; expected ascending numbers >= 1")
    if len(lengths) == 0:
        raise ValueError("the source has no records; a pipeline needs at least one")
    outside = np.flatnonzero((lengths < 1) | (lengths > edges[-1]))
    if len(outside):
        raise ValueError(
            f"record {outside[0]} has length {lengths[outside[0]]} (and {len(outside) - 1} others "
            f"are like it); expected 1 to {edges[-1]}, the last edge; cut the record or raise it"
        )
    members = [
        np.flatnonzero(np.searchsorted(edges, lengths) == number) for number in range(len(edges))
    ]
    kept_edges: list[int] = []
    kept: list[np.ndarray] = []
    waiting = np.array([], np.int64)
    for edge, rows in zip(edges, members, strict=True):
        waiting = np.sort(np.concatenate([waiting, rows]))
        if len(waiting) >= max(least, 1):
            kept_edges.append(edge)
            kept.append(waiting)
            waiting = np.array([], np.int64)
    if len(waiting):
        longest = edges[int(np.searchsorted(edges, lengths[waiting].max()))]
        if kept:
            kept_edges[-1], kept[-1] = longest, np.sort(np.concatenate([kept[-1], waiting]))
        else:
            kept_edges, kept = [longest], [waiting]
    return Buckets(tuple(kept_edges), tuple(kept))


def train_batches(
    lengths: Sequence[int] | np.ndarray,
    edges: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    collate: Collate,
    group: int = 1,
    augment: Callable[[Batch, np.random.Generator], Batch] | None = None,
    num_threads: int = 0,
) -> TrainBatches:
    """Endless shuffled batches, each from one bucket of at least `batch_size` records.

    Args:
        lengths, edges: see `divide`.
        seed: with the number of the batch it determines what is in it.
        batch_size: records a batch.
        collate: ``collate(rows, length)`` makes one batch of the numbers of its records, padded to
            `length`.
        group: batches 0 to `group` - 1 are of one bucket, and so on: batches that shall be stacked
            (`steps_per_call`) have one shape.
        augment: ``augment(batch, generator)`` gives the batch to use in place of what `collate`
            made; the generator is `default_rng([seed, number of the batch])`. It may be given some
            of the rows (`TrainBatches.keep_rows`), so what it draws is for the batch, not for rows.
        num_threads: see `pipeline.train_batches`.

    Returns: see `pipeline.train_batches`.
    Raises: ValueError as `divide`, or if `batch_size` or `group` is below 1.
    """
    if batch_size < 1 or group < 1:
        raise ValueError(f"batch_size is {batch_size}, group {group}; expected at least 1")
    buckets = divide(lengths, edges, least=batch_size)
    sizes = [len(rows) for rows in buckets.rows]
    at_once = batch_size * group  # records of one bucket in a row

    def groups_before(epoch: int) -> int:
        return sum(epoch * size // at_once for size in sizes)

    @functools.lru_cache(maxsize=4)
    def plan(epoch: int) -> list[tuple[int, int]]:
        """The (bucket, number in its sequence) of each group of an epoch."""
        groups = [
            (bucket, number)
            for bucket, size in enumerate(sizes)
            for number in range(epoch * size // at_once, (epoch + 1) * size // at_once)
        ]
        order = np.random.default_rng([seed, epoch, _ORDER]).permutation(len(groups))
        return [groups[place] for place in order.tolist()]

    @functools.lru_cache(maxsize=2 * len(sizes) + 2)
    def one_pass(bucket: int, number: int) -> np.ndarray:
        generator = np.random.default_rng([seed, number, _RECORDS + bucket])
        return generator.permutation(buckets.rows[bucket])

    def members(number: int, of_batch: range) -> tuple[int, list[int]]:
        """The bucket of a batch, and the records of some of its rows."""
        place, within = divmod(number, group)
        # No epoch has more than one group for each bucket less than its share.
        highest = (place + len(sizes) + 1) * at_once // sum(sizes) + 2
        epoch = bisect.bisect_right(range(highest), place, key=groups_before) - 1
        bucket, turn = plan(epoch)[place - groups_before(epoch)]
        first = turn * at_once + within * batch_size + of_batch.start
        end = first + len(of_batch)
        rows: list[int] = []
        while first < end:  # a batch may lie in several passes
            passed, start = divmod(first, sizes[bucket])
            rows += one_pass(bucket, passed)[start : start + end - first].tolist()
            first = end - len(of_batch) + len(rows)
        return bucket, rows

    def load(number: int, of_batch: range) -> Batch:
        bucket, rows = members(number, of_batch)
        batch = collate(rows, buckets.edges[bucket])
        if augment is None:
            return batch
        return augment(batch, np.random.default_rng([seed, number]))

    def records(number: int) -> list[int]:
        return members(number, range(batch_size))[1]

    return TrainBatches(load, records, batch_size, num_threads)


def eval_batches(
    lengths: Sequence[int] | np.ndarray,
    edges: Sequence[int],
    *,
    batch_size: int,
    collate: Collate,
    num_threads: int = 0,
) -> EvalBatches:
    """Every record exactly once, bucket by bucket, in its own order inside a bucket.

    The last batch of a bucket is filled up to `batch_size` with rows of zeros, so a `mask` of
    `collate` is False there.

    Args, Raises: as `train_batches`. Returns: see `pipeline.eval_batches`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    batches = [
        (rows[first : first + batch_size].tolist(), edge)
        for edge, rows in zip(*divide(lengths, edges), strict=True)
        for first in range(0, len(rows), batch_size)
    ]

    def load(number: int) -> Batch:
        rows, length = batches[number]
        missing = batch_size - len(rows)
        return {
            name: pipeline.pad_rows(array, missing) for name, array in collate(rows, length).items()
        }

    return EvalBatches(grain.MapDataset.range(len(batches)).map(load), num_threads)

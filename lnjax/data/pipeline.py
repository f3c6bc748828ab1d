"""Batches from a sequence of records, read ahead by grain's threads.

Training: the epochs form one endless sequence of records, each epoch a permutation that is a pure
function of (seed, epoch); batch i is the i-th piece of that sequence. A batch is therefore known by
its number alone: a pipeline resumes from that number, and the threads that read ahead cannot change
the order. Evaluation: the records in their own order, once, the last batch filled up with rows of
zeros.
"""

import functools
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grain
import numpy as np

if TYPE_CHECKING:
    from lnjax.data.preparation import Prepared

Batch = dict[str, np.ndarray]
Record = TypeVar("Record")  # a dict of fields, or its number: see `lnjax.data.columns`

_READ_AHEAD = 8  # batches
_STATE_KEYS = {"next_index"}


class TrainBatches(Iterator[Batch]):
    """The endless iterator of `train_batches`.

    Args:
        load: ``load(number, rows)`` makes the rows `rows` of batch `number`.
        records: the numbers of the records of batch `number`, in the order of its rows.
        batch_size: rows of a batch.
        num_threads: see `train_batches`.

    Attributes:
        rows: which of each batch are made.
    """

    def __init__(
        self,
        load: Callable[[int, range], Batch],
        records: Callable[[int], list[int]],
        batch_size: int,
        num_threads: int,
    ):
        self._load, self._records, self._num_threads = load, records, num_threads
        self._batches = grain.MapDataset.range(sys.maxsize // batch_size)
        self.rows = range(batch_size)
        self._iterator = self._reading(self.rows)

    def _reading(self, rows: range) -> grain.DatasetIterator:
        dataset = self._batches.map(lambda number: self._load(number, rows))
        return iter(dataset.to_iter_dataset(read_options(self._num_threads)))

    def __next__(self) -> Batch:
        return next(self._iterator)

    def keep_rows(self, rows: range) -> None:
        """From here on a batch is only these rows of it; no other is read. The position stays.

        For one of several processes that share each batch: the order is that of one alone.
        """
        state = self.get_state()
        self.rows = rows
        self._iterator = self._reading(rows)
        self.set_state(state)

    def get_state(self) -> dict[str, int]:
        """The position, as JSON holds it: the number of batches taken so far."""
        return dict(self._iterator.get_state())

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues at a position from `get_state`.

        The state holds the position only: compare the `fingerprint` first, or another seed or data
        set goes unnoticed.

        Raises: ValueError if `state` is not of the form that `get_state` returns.
        """
        _number(state)
        self._iterator.set_state(dict(state))

    def records(self, state: Mapping[str, int]) -> list[int]:
        """Which records the next batch at a position has: their numbers, a row of the batch each.

        No batch is made, and the iterator stays where it is.

        Raises: ValueError as `set_state`.
        """
        return self._records(_number(state))


class EvalBatches:
    """The re-iterable object of `eval_batches`; `len` is the number of batches."""

    def __init__(self, dataset: grain.MapDataset, num_threads: int):
        self._dataset, self._num_threads = dataset, num_threads

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._dataset.to_iter_dataset(read_options(self._num_threads)))


def train_batches(
    source: Sequence[Record],
    *,
    seed: int,
    batch_size: int,
    collate: Callable[[list[Record]], Batch],
    num_threads: int = 2,
) -> TrainBatches:
    """Endless shuffled batches; every record exactly once an epoch, across batches' borders.

    Args:
        source: records by index.
        seed: with the number of the epoch it determines the order.
        batch_size: records a batch, any positive number, also more than there are records.
        collate: makes one batch of a list of records, in shapes that do not depend on which these
            are, since it may be given some of the rows (`TrainBatches.keep_rows`); called in the
            reading threads.
        num_threads: threads that read ahead; the order does not depend on it. 0 makes each batch
            when it is asked for: faster where that costs less than handing it from thread to thread
            (about 0.1 ms), as with `lnjax.data.columns`.

    Returns: an iterator of dicts of arrays with leading axis `batch_size`, with `get_state` and
        `set_state`.
    Raises: ValueError for an empty source or a batch size below 1.
    """
    _check(source, batch_size)
    num_records = len(source)

    @functools.lru_cache(maxsize=4)  # the epochs that the batches under way touch
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(num_records)

    def records(number: int, of_batch: range = range(batch_size)) -> list[int]:
        first, end = number * batch_size + of_batch.start, number * batch_size + of_batch.stop
        found: list[int] = []
        while first < end:  # a batch may lie in several epochs
            epoch, place = divmod(first, num_records)
            found += order(epoch)[place : place + end - first].tolist()
            first = end - len(of_batch) + len(found)
        return found

    def load(number: int, of_batch: range) -> Batch:
        return collate([source[row] for row in records(number, of_batch)])

    return TrainBatches(load, records, batch_size, num_threads)


def eval_batches(
    source: Sequence[Record],
    *,
    batch_size: int,
    collate: Callable[[list[Record]], Batch],
    num_threads: int = 2,
) -> EvalBatches:
    """Every record exactly once in its own order; can be iterated again and again.

    The last batch is filled up to `batch_size` with rows of zeros, so a `mask` of `collate` is
    False there.

    Args, Raises: as `train_batches`.
    """
    _check(source, batch_size)

    def load(number: int) -> Batch:
        places = range(number * batch_size, min((number + 1) * batch_size, len(source)))
        batch = collate([source[place] for place in places])
        missing = batch_size - len(places)
        return {name: pad_rows(array, missing) for name, array in batch.items()}

    num_batches = -(-len(source) // batch_size)
    return EvalBatches(grain.MapDataset.range(num_batches).map(load), num_threads)


def fingerprint(prepared: "Prepared", *, seed: int, batch_size: int) -> dict[str, Any]:
    """Everything that determines the order of the batches.

    Store it with a state and compare it before `set_state`.
    """
    return {
        "name": prepared.name,
        "config": prepared.config,
        "version": prepared.version,
        "digest": prepared.digest,
        "seed": seed,
        "batch_size": batch_size,
        "grain": importlib.metadata.version("grain"),
        "numpy": np.__version__,  # its generators may change between versions
    }


def _number(state: Mapping[str, int]) -> int:
    index = state.get("next_index")
    if set(state) != _STATE_KEYS or type(index) is not int or index < 0:
        raise ValueError(
            f"state of the data pipeline {dict(state)!r}; expected {{'next_index': a number >= 0}}"
        )
    return index


def _check(source: Sequence, batch_size: int) -> None:
    if len(source) == 0:
        raise ValueError("the source has no records; a pipeline needs at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")


def pad_rows(array: np.ndarray, missing: int) -> np.ndarray:
    """`array` with `missing` rows of zeros behind."""
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def read_options(num_threads: int) -> grain.ReadOptions:
    """How far the threads read ahead; without threads nothing is."""
    read_ahead = _READ_AHEAD if num_threads else 0
    return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=read_ahead)

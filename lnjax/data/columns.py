"""Records of one shape as arrays: a data set that fits into memory, in batches by index.

A record that is a dict of small arrays costs microseconds each time it enters a batch; rows of one
array cost a fraction of that, so that a batch is made in less time than a thread needs to hand it
over. The pipeline stays the same, it moves numbers of records and needs no threads:

    columns = stacked(prepared.splits["train"])
    batches = pipeline.train_batches(
        range(num_rows(columns)), seed=0, batch_size=128, collate=take_rows(columns), num_threads=0
    )
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Columns = Mapping[str, np.ndarray]  # field -> array, one row a record


def stacked(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The fields of all records, each as one read-only array (N, ...) of the records' dtype.

    Raises: ValueError if there is no record, or records differ in their fields or shapes.
    """
    rows = list(records)
    if not rows:
        raise ValueError("there are no records to stack; expected at least one")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("the records differ in their fields and cannot be stacked")
    columns = {field: np.stack([row[field] for row in rows]) for field in rows[0]}
    for column in columns.values():
        column.setflags(write=False)
    return columns


def unstacked(columns: Columns) -> list[dict[str, Any]]:
    """The records of columns in order; their values are views."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def num_rows(columns: Columns) -> int:
    """The number of records.

    Raises: ValueError if there is no field, or fields differ in it.
    """
    lengths = {field: len(column) for field, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"rows by field: {lengths}; expected one number")
    return next(iter(lengths.values()))


def take_rows(columns: Columns) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """A `collate` for a source of row numbers: the fields (B, ...) and `mask` (B,) bool, all True.

    Raises: ValueError as `num_rows`, or if a field is named `mask`.
    """
    num_rows(columns)
    if "mask" in columns:
        raise ValueError("a field is named 'mask', which says what rows of a batch are records")

    def collate(rows: Sequence[int]) -> dict[str, np.ndarray]:
        batch = {field: column[np.asarray(rows)] for field, column in columns.items()}
        return batch | {"mask": np.ones(len(rows), bool)}

    return collate

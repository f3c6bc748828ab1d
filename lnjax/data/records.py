"""The prepared records of a split: from the disk one by one, or all in memory; or damage, told."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lnjax.data import source_files
from lnjax.data.errors import DataError

if TYPE_CHECKING:
    from lnjax.data.builder import Builder

RECORD_FILE = "lnjax.json"  # beside the shards: digests and statistics
_PIECE = 100  # records that are read at once
_PROBES = 16  # records of a split that are looked at when it is too large to look at all


def damaged(folder: str | os.PathLike, what: object) -> DataError:
    """The error for prepared files that cannot be trusted."""
    what = " ".join(str(what).split()) or type(what).__name__
    return DataError(
        f"{os.fspath(folder)}: the prepared data are damaged ({what}); "
        "delete this folder and run again"
    )


class Records(Sequence):
    """The records of a split in file order, read when they are asked for, by any thread.

    Arrays are read-only, texts are strings. Iterating holds `_PIECE` of them at a time.
    """

    def __init__(self, builder: "Builder", name: str):
        self._folder, self._name = builder.data_path, name
        with self._damage_told():
            for path in sorted(Path(self._folder).iterdir()):
                source_files.status_of(path)  # a pipe would keep the reader waiting for ever
            self._source = builder.as_data_source(name)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self), _PIECE):
            yield from self[first : first + _PIECE]

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self[place : place + 1][0]
        with self._damage_told():
            records = self._source.__getitems__(range(*index.indices(len(self))))
        return [{field: _decoded(value) for field, value in record.items()} for record in records]

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except (
            Exception
        ) as error:  # array_record raises whatever the damage makes it raise, and names no file
            raise damaged(self._folder, f"split {self._name!r}: {error}") from error


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    value = np.asarray(value)
    value.setflags(write=False)
    return value


def digest_of(records: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the records: of each field, by name: name, dtype, shape, length, bytes."""
    total = hashlib.sha256()
    for record in records:
        for field in sorted(record):
            value = record[field]
            if isinstance(value, str):
                dtype, shape, content = "str", (), value.encode("utf-8")
            else:
                value = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
                dtype, shape, content = value.dtype.str, value.shape, value.tobytes()
            total.update(f"{field} {dtype} {shape} {len(content)}\n".encode())
            total.update(content)
    return total.hexdigest()


def compare_digest(
    builder: "Builder", split: str, records: Sequence[Mapping[str, Any]], expected: str | None
) -> None:
    if expected is not None and digest_of(records) != expected:
        what = f"split {split!r} is not what {RECORD_FILE} says was written"
        raise damaged(builder.data_path, what)


def probe(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some records of a split from the first to the last: they tell another split apart at once."""
    places = np.linspace(0, len(records) - 1, min(_PROBES, len(records))).astype(int)
    return [records[int(place)] for place in places]


class Split(Sequence):
    """A split that is read into memory when its first record is asked for; threads may share it."""

    def __init__(self, builder: "Builder", name: str, length: int, digest: str):
        self._builder, self._name, self._length, self._digest = builder, name, length, digest
        self._records: list[dict[str, Any]] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        with self._lock:
            if self._records is None:
                records = list(Records(self._builder, self._name))
                compare_digest(self._builder, self._name, records, self._digest)
                self._records = records
        return dict(self._records[index])

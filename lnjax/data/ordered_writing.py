"""Lets TFDS write splits of any size without TensorFlow, and without holding them in memory.

Before it writes a split, TFDS collects its records: up to 1,000 MiB in memory, what is more in
files that it opens with TensorFlow, which is not installed here. Our records come in the order in
which they are to be written, so one file that is written and read from its beginning is enough.
"""

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

_SIZE = struct.Struct("=Q")


class RecordsInOrder:
    """Takes the place of `tensorflow_datasets.core.shuffle.Shuffler`, for records in order."""

    def __init__(self, dirpath: Any, hash_salt: Any, disable_shuffling: bool = False, **_: Any):
        if not disable_shuffling:
            raise ValueError("records are written in their order; set disable_shuffling=True")
        self._folder = os.fspath(dirpath)
        self._file: BinaryIO | None = None
        self.size = 0  # bytes of all records
        self.num_examples = 0

    @property
    def bucket_lengths(self) -> list[int]:
        """Records that a shard must not divide: none."""
        return [self.num_examples]

    def add(self, key: int, data: bytes) -> bool:
        """Appends the record with the number `key`."""
        if key != self.num_examples:
            raise ValueError(f"record {key} came where {self.num_examples} was expected")
        if self._file is None:
            os.makedirs(self._folder, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)
        self._file.write(_SIZE.pack(len(data)))
        self._file.write(data)
        self.size += len(data)
        self.num_examples += 1
        return True

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        if self._file is None:
            return
        self._file.seek(0)
        for key in range(self.num_examples):
            (size,) = _SIZE.unpack(self._file.read(_SIZE.size))
            yield key, self._file.read(size)

    def close(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """While it lasts, TFDS collects records in this way."""
    from tensorflow_datasets.core import shuffle

    module: Any = shuffle
    of_tfds = module.Shuffler
    with contextlib.ExitStack() as opened:

        def collect(*args: Any, **kwargs: Any) -> RecordsInOrder:
            return opened.enter_context(contextlib.closing(RecordsInOrder(*args, **kwargs)))

        module.Shuffler = collect
        try:
            yield
        finally:
            module.Shuffler = of_tfds

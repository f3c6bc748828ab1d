"""The base of every data set: a TFDS builder whose examples are complete before it writes.

A subclass says where its examples come from (`read_source`), what identifies that source
(`source_key`) and which facts the training split yields (`statistics`).
`lnjax.data.preparation.prepare` reads the source, hands it to an instance and lets TFDS write
`array_record` files; records keep the order of the source.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

Example = Mapping[str, Any]
Source = Mapping[str, Sequence[Example]]  # split -> records


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set: config `embedded` is built from installed packages, `real` from a folder."""

    EXPECTED: ClassVar[Mapping[str, Mapping[str, int]]]  # records by config and split
    UNITS: ClassVar[Mapping[str, str]] = {}  # by config, what a record is, if not a plain record
    # False: a split may be larger than the memory; its records are read when they are asked for.
    IN_MEMORY: ClassVar[bool] = True
    source: Mapping[str, Sequence[Example]]  # by split, set by `prepare` before writing

    @classmethod
    @abc.abstractmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        """A digest that changes with the files of the source; "" if there are none.

        Raises: DataError if the source is not there.
        """

    @classmethod
    @abc.abstractmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        """Reads and checks the whole source: the examples of each split in their final order.

        Raises: DataError for anything that cannot be used.
        """

    @classmethod
    @abc.abstractmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """Facts of the split `train`, as JSON holds them; [] where there is no such split."""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self.source}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Example]]:
        yield from enumerate(self.source[split])

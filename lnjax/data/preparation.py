"""Prepares a data set once, keeps it in a cache, and reads it back by record.

`prepare` computes the folder of the data set, builds it there if it is absent (one process at a
time, behind a file lock) and returns its splits as sequences in memory. A real source is read and
checked as a whole before the cache is touched, and its folder carries the source's key: another
tree, or a changed one, is another folder. Shard files differ from one preparation to the next, so
what identifies a data set is a digest over its decoded records; it is stored beside them, with the
statistics of the training split, and compared whenever a split is read.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lnjax.data.errors import DataError
from lnjax.data.ordered_writing import in_order

if TYPE_CHECKING:
    from lnjax.data.builder import Builder

RECORD_FILE = "lnjax.json"  # beside the shards: digests and statistics
_PIECE = 100  # records that are read at once
_DIGEST_RULE = 1  # raise it when `_update_digest` changes; older files are then computed again


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set that is ready to be read.

    Attributes:
        name, config, version: of the builder, such as "handwriting", "embedded", "1.0.0".
        digest: SHA-256 over the decoded records of all splits in order.
        statistics: facts of the training split, see the builder.
        splits: by name; each has `len` and gives records by index as dicts of read-only arrays and
            strings. What fits into memory is read as a whole and compared with its digest when its
            first record is asked for.
    """

    name: str
    config: str
    version: str
    digest: str
    statistics: Mapping[str, Any]
    splits: Mapping[str, Sequence[dict[str, Any]]]


def cache_dir() -> Path:
    """The folder of prepared data: $LNJAX_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/lnjax."""
    folder = os.environ.get("LNJAX_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    return Path(folder or "~/.cache/lnjax").expanduser()


def prepare(
    builder_class: type["Builder"],
    config_name: str,
    *,
    manual_dir: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
) -> Prepared:
    """Builds the data set if the cache does not have it, and opens it.

    Args:
        builder_class: such as `lnjax.data.handwriting.Handwriting`.
        config_name: "embedded" or "real".
        manual_dir: folder of the source, for "real" only.
        cache: folder of prepared data; `cache_dir()` by default.

    Raises: DataError if the config is unknown, the source is missing or bad (the cache is then
        untouched), or the prepared files are damaged.
    """
    cache = Path(cache or cache_dir()).expanduser()
    source_dir = _source_dir(builder_class, config_name, manual_dir)
    key = builder_class.source_key(config_name, source_dir)
    builder = _new_builder(builder_class, config_name, key, cache)
    if not _is_prepared(builder):
        _build(builder_class, config_name, source_dir, key, cache)
        builder = _new_builder(builder_class, config_name, key, cache)
    return _open(builder, config_name)


def check(
    builder_class: type["Builder"],
    config_name: str,
    *,
    manual_dir: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
) -> dict[str, int]:
    """Checks the source (if the config has one) and what is prepared, and writes nothing.

    Args: as `prepare`.

    Returns: records by split, of the source or of the prepared data; {} if there is neither.
    Raises: DataError as `prepare`; also if a prepared split is not what was written.
    """
    source_dir = _source_dir(builder_class, config_name, manual_dir)
    key = builder_class.source_key(config_name, source_dir)
    counts = {}
    if key:
        source = builder_class.read_source(config_name, source_dir)
        counts = {split: len(examples) for split, examples in source.items()}
    builder = _new_builder(builder_class, config_name, key, Path(cache or cache_dir()).expanduser())
    if _is_prepared(builder):
        digests = _read_facts(builder).get("split_digests", {})
        for split in sorted(builder.info.splits):
            records = _Records(builder, split)
            _compare_digest(builder, split, records, digests.get(split))
            counts[split] = len(records)
    return counts


def damaged(folder: str | os.PathLike, what: object) -> DataError:
    """The error for prepared files that cannot be trusted."""
    what = " ".join(str(what).split()) or type(what).__name__
    return DataError(
        f"{os.fspath(folder)}: the prepared data are damaged ({what}); "
        "delete this folder and run again"
    )


def _source_dir(
    builder_class: type["Builder"], config_name: str, manual_dir: str | os.PathLike | None
) -> Path | None:
    known = [config.name for config in builder_class.BUILDER_CONFIGS]
    if config_name not in known:
        raise DataError(
            f"{builder_class.name} has no config {config_name!r}; expected one of {known}"
        )
    if config_name == "embedded" and manual_dir is not None:
        raise DataError(
            f"{builder_class.name}/embedded reads no folder but got {os.fspath(manual_dir)!r}; "
            "leave the folder out or take the config 'real'"
        )
    return None if manual_dir is None else Path(manual_dir).expanduser()


def _new_builder(
    builder_class: type["Builder"], config_name: str, key: str, cache: Path
) -> "Builder":
    """An instance whose folder is <cache>/<name>/<config>[-<key>]/<version>; writes nothing."""
    import tensorflow_datasets as tfds

    folder = f"{config_name}-{key[:16]}" if key else config_name
    known = {config.name: config for config in builder_class.BUILDER_CONFIGS}
    config = known.get(folder) or tfds.core.BuilderConfig(
        name=folder, description=known[config_name].description
    )
    target = cache / builder_class.name / folder / str(builder_class.VERSION)
    if target.exists() and not (target / "dataset_info.json").is_file():
        raise damaged(target, "dataset_info.json is missing")
    try:
        with _quiet_tfds():
            return builder_class(
                config=config, data_dir=os.fspath(cache), file_format="array_record"
            )
    except (
        Exception
    ) as error:  # TFDS reads what is already in the folder: anything can be wrong with it
        if not target.exists():
            raise
        raise damaged(target, error) from error


def _is_prepared(builder: "Builder") -> bool:
    return Path(builder.data_path).exists()  # TFDS renames a finished folder to this name


def _build(
    builder_class: type["Builder"], config_name: str, source_dir: Path | None, key: str, cache: Path
) -> None:
    """Reads the source and writes the data set, unless another process does so first."""
    import filelock

    label = f"{builder_class.name}/{config_name} {builder_class.VERSION}"
    with _announced(f"preparing {label} (once) ..."):
        # A source with a key can be bad: it is read before anything is written, even the lock.
        source = builder_class.read_source(config_name, source_dir) if key else {}
        cache.mkdir(parents=True, exist_ok=True)
        name = f"{builder_class.name}-{config_name}{key and '-' + key[:16]}.lock"
        with filelock.FileLock(cache / name):
            builder = _new_builder(builder_class, config_name, key, cache)
            if _is_prepared(builder):
                return
            for left_over in builder.data_path.parent.glob("incomplete.*"):  # of a killed process
                shutil.rmtree(left_over)
            builder.source = source or builder_class.read_source(config_name, None)
            with _quiet_tfds(), in_order(), tempfile.TemporaryDirectory() as downloads:
                builder.download_and_prepare(download_dir=downloads)
            builder.source = source = {}  # a large set is not to be in memory twice
            _write_facts(builder)


@contextlib.contextmanager
def _announced(text: str) -> Iterator[None]:
    """One line on stderr: `text`, then the duration."""
    start = time.monotonic()
    print(text, end=" ", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print("failed", file=sys.stderr, flush=True)
        raise
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps TFDS's progress bars, its two messages on stdout and in the log away."""
    import tensorflow_datasets as tfds
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    bars, verbosity = getattr(tqdm_utils, "_active", True), logging.get_verbosity()
    tfds.display_progress_bar(False)
    logging.set_verbosity(
        logging.ERROR
    )  # its warnings are about our keyed configs and empty folders
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(bars)
        logging.set_verbosity(verbosity)


class _Records(Sequence):
    """The records of a split in file order, read when they are asked for, by any thread.

    Arrays are read-only, texts are strings. Iterating holds `_PIECE` of them at a time.
    """

    def __init__(self, builder: "Builder", name: str):
        self._folder, self._name = builder.data_path, name
        with self._damage_told():
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


def _digest(records: Iterable[Mapping[str, Any]]) -> str:
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


def _compare_digest(
    builder: "Builder", split: str, records: Sequence[Mapping[str, Any]], expected: str | None
) -> None:
    if expected is not None and _digest(records) != expected:
        what = f"split {split!r} is not what {RECORD_FILE} says was written"
        raise damaged(builder.data_path, what)


def _read_facts(builder: "Builder") -> dict[str, Any]:
    """What `_write_facts` stored; {} if it is absent or from another rule."""
    path = Path(builder.data_path) / RECORD_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return facts if facts["digest_rule"] == _DIGEST_RULE else {}
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(builder.data_path, f"{RECORD_FILE}: {error!r}") from error


def _write_facts(builder: "Builder") -> dict[str, Any]:
    """Reads the prepared records back and stores their digests and the statistics beside them."""
    digests: dict[str, str] = {}
    statistics: dict[str, Any] = {}
    splits = sorted(builder.info.splits)
    for name in splits:
        records: Sequence[dict[str, Any]] = _Records(builder, name)
        if builder.IN_MEMORY:
            records = list(records)
        digests[name] = _digest(records)
        if name == "train":
            statistics = builder.statistics(records)
        del records  # before the next split is read
    if "train" not in splits:
        statistics = builder.statistics([])
    facts = {
        "digest_rule": _DIGEST_RULE,
        "digest": hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest(),
        "split_digests": digests,
        "statistics": statistics,
    }
    path = Path(builder.data_path) / RECORD_FILE
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)  # whole or not at all, also when several processes do this
    return facts


def _open(builder: "Builder", config_name: str) -> Prepared:
    facts = _read_facts(builder) or _write_facts(builder)
    digests = facts["split_digests"]
    splits: dict[str, Sequence[dict[str, Any]]] = {}
    for name in digests:
        if builder.IN_MEMORY:
            number = builder.info.splits[name].num_examples
            splits[name] = _Split(builder, name, number, digests[name])
        else:
            splits[name] = _Records(builder, name)
    return Prepared(
        name=builder.name,
        config=config_name,
        version=str(builder.version),
        digest=facts["digest"],
        statistics=facts["statistics"],
        splits=splits,
    )


class _Split(Sequence):
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
                records = list(_Records(self._builder, self._name))
                _compare_digest(self._builder, self._name, records, self._digest)
                self._records = records
        return dict(self._records[index])

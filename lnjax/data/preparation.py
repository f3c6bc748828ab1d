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
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lnjax.data import source_files
from lnjax.data.errors import DataError
from lnjax.data.ordered_writing import in_order
from lnjax.data.records import (
    RECORD_FILE,
    Records,
    Split,
    compare_digest,
    damaged,
    digest_of,
    probe,
)
from lnjax.terminal import may_be_lost

if TYPE_CHECKING:
    from lnjax.data.builder import Builder

_DIGEST_RULE = 2  # raise it when RECORD_FILE changes; older files are then computed again


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
            records = Records(builder, split)
            compare_digest(builder, split, records, digests.get(split))
            counts[split] = len(records)
    return counts


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
    with may_be_lost():
        print(text, end=" ", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        with may_be_lost():
            print("failed", file=sys.stderr, flush=True)
        raise
    with may_be_lost():
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


def _read_facts(builder: "Builder") -> dict[str, Any]:
    """What `_write_facts` stored; {} if it is absent or from another rule."""
    path = Path(builder.data_path) / RECORD_FILE
    try:
        if not os.path.lexists(path):
            return {}
        source_files.status_of(path)
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["digest_rule"] != _DIGEST_RULE:
            return {}
        if facts.pop("sha256") != _sum(facts):  # statistics scale the data: no digit may change
            raise ValueError("its content is not what was written")
        return facts
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(builder.data_path, f"{RECORD_FILE}: {error!r}") from error


def _sum(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what is JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write_facts(builder: "Builder") -> dict[str, Any]:
    """Reads the prepared records back and stores their digests and the statistics beside them."""
    digests: dict[str, str] = {}
    lengths: dict[str, int] = {}
    probes: dict[str, str] = {}
    statistics: dict[str, Any] = {}
    splits = sorted(builder.info.splits)
    for name in splits:
        records: Sequence[dict[str, Any]] = Records(builder, name)
        lengths[name], probes[name] = len(records), digest_of(probe(records))
        if builder.IN_MEMORY:
            records = list(records)
        digests[name] = digest_of(records)
        if name == "train":
            statistics = builder.statistics(records)
        del records  # before the next split is read
    if "train" not in splits:
        statistics = builder.statistics([])
    facts = {
        "digest_rule": _DIGEST_RULE,
        "digest": _sum(digests),
        "split_digests": digests,
        "split_lengths": lengths,
        "probes": probes,
        "statistics": statistics,
    }
    path = Path(builder.data_path) / RECORD_FILE
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    written = json.dumps({**facts, "sha256": _sum(facts)}, indent=1) + "\n"
    unfinished.write_text(written, encoding="utf-8")
    os.replace(unfinished, path)  # whole or not at all, also when several processes do this
    return facts


def _open(builder: "Builder", config_name: str) -> Prepared:
    facts = _read_facts(builder) or _write_facts(builder)
    splits: dict[str, Sequence[dict[str, Any]]] = {}
    for name, digest in facts["split_digests"].items():
        number = facts["split_lengths"][name]
        if builder.IN_MEMORY:
            splits[name] = Split(builder, name, number, digest)
        else:
            splits[name] = records = Records(builder, name)
            if len(records) != number:
                raise damaged(builder.data_path, f"{len(records)} records in split {name!r}")
            compare_digest(builder, name, probe(records), facts["probes"][name])
    return Prepared(
        name=builder.name,
        config=config_name,
        version=str(builder.version),
        digest=facts["digest"],
        statistics=facts["statistics"],
        splits=splits,
    )

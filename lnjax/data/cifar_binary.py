"""CIFAR-10 in its binary version: six files of records, unpacked or in their archive; or a refusal.

A record is the label and 3,072 bytes of pixels: the red plane of 32 rows of 32, then green, then
blue. The archive is read as a stream and nothing is unpacked to disk. The files say nothing about
themselves; what is known is that the test batch has exactly 1,000 images of each class and the five
others together 5,000. Nothing here writes.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

import numpy as np

from lnjax.data import source_files
from lnjax.data.errors import DataError

NUM_RECORDS = 10_000  # of each file
NUM_VALIDATION = 5_000  # the last of data_batch_5.bin
SPLITS = {"train": 45_000, "validation": 5_000, "test": 10_000}
NUM_CLASSES = 10
SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE  # bytes
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
FILES = (*TRAIN, TEST)
MOST_MEMBERS = 100  # of the archive; the published one has 9
FOLDER, ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
TREE = f"""\
<folder>/  (or <folder>/cifar10/)
  {FOLDER}/  with {", ".join(FILES)}
  or {ARCHIVE}"""
_CURE = f"download {ARCHIVE} again"
# What a damaged archive raises; the last two for numbers in a head that tarfile does not look at.
_DAMAGE = (EOFError, OSError, zlib.error, tarfile.TarError, ValueError, OverflowError)
_PICKLE = b"\x80"  # begins a pickle, and is no label
# By the names of other versions, what they are.
_OTHERS = {
    "data_batch_1": "the Python version, whose pickles can run code and are not read",
    "cifar-10-batches-py": "the Python version, whose pickles can run code and are not read",
    "cifar-10-python.tar.gz": "the Python version, whose pickles can run code and are not read",
    "cifar-100-binary": "CIFAR-100, which has other classes",
    "cifar-100-binary.tar.gz": "CIFAR-100, which has other classes",
    "train.bin": "CIFAR-100, which has other classes",
}


class Batch(NamedTuple):
    """One file: (N, 32, 32, 3) uint8, (N,) int64, and the SHA-256 of its bytes."""

    images: np.ndarray
    labels: np.ndarray
    digest: bytes


def read_folder(manual_dir: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """Reads and checks the six files.

    Args:
        manual_dir: the folder, see `TREE`. Where the unpacked files are, the archive is not read.

    Returns: by split `image` (N, 32, 32, 3) uint8 and `label` (N,) int64; "validation" holds the
        last `NUM_VALIDATION` training images.
    Raises: DataError for the first thing that cannot be used.
    """
    base, is_archive = _find(manual_dir)
    batches = _read_archive(base) if is_archive else _read_files(base)
    seen: dict[bytes, str] = {}
    for name in FILES:
        first = seen.setdefault(batches[name].digest, name)
        if first != name:
            raise DataError(
                f"{base}: {name} has the same bytes as {first}; expected six different files; "
                f"{_CURE}"
            )
    test, train = batches[TEST], [batches[name] for name in TRAIN]
    images = np.concatenate([batch.images for batch in train])
    labels = np.concatenate([batch.labels for batch in train])
    _check_classes(f"{base}: {TEST}", test.labels)
    _check_classes(f"{base}: {TRAIN[0]} to {TRAIN[-1]}", labels)
    border = len(labels) - NUM_VALIDATION
    return {
        "train": {"image": images[:border], "label": labels[:border]},
        "validation": {"image": images[border:], "label": labels[border:]},
        "test": {"image": test.images, "label": test.labels},
    }


def source_key(manual_dir: Path | None) -> str:
    """Identifies the files or the archive without reading them, see `source_files.key`.

    Raises: DataError if there are none, or one of the six is missing.
    """
    base, is_archive = _find(manual_dir)
    if is_archive:
        return source_files.key(base.parent, [base])
    return source_files.key(base, [base / name for name in FILES])


def read_batch(place: str, file: IO[bytes], size: int) -> Batch:
    """Reads one file.

    Args:
        place: named in errors.
        file: at its beginning.
        size: its bytes.

    Raises: DataError with the record and byte for an empty file, another size (nothing more is read
        then), the pickled version, CIFAR-100, a label above 9.
    """
    expected = f"expected {NUM_RECORDS} records of {RECORD} bytes; {_CURE}"
    if size == 0:
        raise DataError(f"{place} byte 0: the file is empty; {expected}")
    head = file.read(32)
    if head.startswith(_PICKLE):
        raise DataError(f"{place} byte 0: a pickle, which can run code and is not read; {expected}")
    if size != NUM_RECORDS * RECORD:
        number, rest = divmod(size, RECORD)
        what = f"{number} records" + (f" and {rest} bytes" if rest else "")
        if size % (RECORD + 1) == 0:
            what = f"{size // (RECORD + 1)} records of {RECORD + 1} bytes, as CIFAR-100 has"
        raise DataError(f"{place} byte {size}: {what}{source_files.looks_like(head)}; {expected}")
    content = head + file.read(size - len(head))
    if len(content) != size:
        raise DataError(f"{place} byte {len(content)}: the file ends here; {expected}")
    table = np.frombuffer(content, np.uint8).reshape(NUM_RECORDS, RECORD)
    labels = table[:, 0].astype(np.int64)
    if labels.max() >= NUM_CLASSES:
        record = int((labels >= NUM_CLASSES).argmax())
        raise DataError(
            f"{place} record {record + 1} (byte {record * RECORD}): label {labels[record]}; "
            f"expected 0 to {NUM_CLASSES - 1}; {_CURE}"
        )
    planes = table[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Batch(images, labels, hashlib.sha256(content).digest())


def _check_classes(place: str, labels: np.ndarray) -> None:
    """Refuses files whose classes are not equally frequent, as the published ones are."""
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    expected = len(labels) // NUM_CLASSES
    if (counts != expected).any():
        label = int((counts != expected).argmax())
        raise DataError(
            f"{place}: {counts[label]} images of class {label}; expected {expected} of each class: "
            f"is a training batch in the place of the test batch? {_CURE}"
        )


def _find(manual_dir: Path | None) -> tuple[Path, bool]:
    """The folder of the six files and False, or the archive and True."""
    if manual_dir is None:
        raise DataError(
            "cifar10: no folder was given (in training: --config.data_dir); expected this "
            f"tree:\n{TREE}"
        )
    inside = manual_dir / "cifar10"
    base = inside if inside.is_dir() else manual_dir
    folder = base / FOLDER if (base / FOLDER).is_dir() else base
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not missing:
        return folder, False
    if len(missing) == len(FILES) and (base / ARCHIVE).is_file():
        return base / ARCHIVE, True
    there = [path.name for path in (*base.glob("*"), *folder.glob("*"))]
    raise DataError(
        f"{folder}: {', '.join(missing)} not found{_explain(there)}; expected this tree:\n{TREE}"
    )


def _explain(names: Iterable[str]) -> str:
    """What is there instead, as " (...)"; "" if nothing known is."""
    other = next((_OTHERS[name] for name in names if name in _OTHERS), None)
    return f" (what is there is {other})" if other else ""


def _read_files(folder: Path) -> Mapping[str, Batch]:
    batches = {}
    for name in FILES:
        path = folder / name
        try:
            size = source_files.status_of(path).st_size
            with path.open("rb") as file:
                batches[name] = read_batch(f"{path}", file, size)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); {_CURE}") from error
    return batches


def _read_archive(path: Path) -> Mapping[str, Batch]:
    """The six files by name, wherever they are in the archive, which is read to its end."""
    batches: dict[str, Batch] = {}
    names: list[str] = []
    try:
        source_files.status_of(path)
        with gzip.open(path) as unpacked:
            # The content, and as much again for what tar puts around it.
            stream = _Bounded(unpacked, 2 * len(FILES) * NUM_RECORDS * RECORD + (1 << 20))
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
                for number, member in enumerate(archive):
                    if number == MOST_MEMBERS:
                        raise tarfile.ReadError(f"over {MOST_MEMBERS} members")
                    parts = _checked_parts(path, member)
                    names += parts
                    file = archive.extractfile(member) if parts[-1] in FILES else None
                    if file is None:  # a folder, or nothing of interest
                        continue
                    place = f"{path} member {member.name}"
                    if parts[-1] in batches:
                        raise DataError(f"{place}: the second {parts[-1]}; expected one; {_CURE}")
                    batches[parts[-1]] = read_batch(place, file, member.size)
            while stream.read(1 << 20):  # to the checksum at its end
                pass
    except DataError:
        raise
    except _DAMAGE as error:
        place = f"{path} after member {names[-1]}" if names else f"{path} byte 0"
        raise DataError(
            f"{place}: truncated or damaged ({error}); expected the whole archive; {_CURE}"
        ) from error
    missing = [name for name in FILES if name not in batches]
    if missing:
        raise DataError(
            f"{path}: no member {', '.join(missing)}{_explain(names)}; expected "
            f"{FOLDER}/{missing[0]} and so on; {_CURE}"
        )
    return batches


class _Bounded:
    """A stream that ends with an error before more than `limit` bytes were read from it.

    An archive of a megabyte can unpack to gigabytes, and tarfile reads the long name of a member
    into memory, whatever its length.
    """

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, limit: int):
        self._stream, self._left = stream, limit

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise tarfile.ReadError("it unpacks to more than twice what the six files have")
        content = self._stream.read(size)
        self._left -= len(content)
        return content


def _checked_parts(path: Path, member: tarfile.TarInfo) -> tuple[str, ...]:
    """The parts of a member's name; DataError for one that points out of the archive, or a link."""
    parts = PurePosixPath(member.name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts:
        what = "a name that leads out of the archive"
    elif member.issym() or member.islnk():
        what = f"a link to {member.linkname}"
    elif not (member.isfile() or member.isdir()):
        what = "no file and no folder"
    else:
        return parts
    raise DataError(
        f"{path} member {member.name}: {what}; expected files in {FOLDER}; do not unpack this "
        f"archive; {_CURE}"
    )

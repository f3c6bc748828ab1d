"""The files of a real source: identified without reading them, read whole, unpacked if packed."""

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from lnjax.data.errors import DataError

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20  # bytes that are read at once
_KINDS = {b"<": "an HTML page, as servers send in place of a missing file", b"PK": "a zip archive"}


def key(base: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names below `base`, the sizes and the modification times of `files`.

    Files that were moved keep their key, copies without their times get another.

    Raises: DataError as `status_of`.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        status = status_of(file)
        name = file.relative_to(base).as_posix()
        digest.update(f"{name}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def status_of(path: Path) -> os.stat_result:
    """The status of a file; links are followed.

    Raises: DataError for a folder, for a device or pipe, which may never end, and for a link that
        leads nowhere.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a readable file") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        raise DataError(f"{path}: {kind}; expected a file")
    return status


def refuse_larger(path: Path, limit: int) -> None:
    """Refuses a file before anything of it is in memory.

    Raises: DataError if it has more than `limit` bytes; as `status_of`.
    """
    if (size := status_of(path).st_size) > limit:
        raise DataError(
            f"{path} byte {limit}: the file has {size} bytes; expected at most {limit}, more than "
            "any published one has"
        )


def read(path: Path, limit: int) -> bytes:
    """The content of a file, unpacked if it begins as gzip does, whatever its name says.

    Args:
        path: the file.
        limit: bytes that are enough to see that a file is too long; the rest is left unread, so
            that what unpacks to a thousand times its size takes no more memory than this.

    Raises: DataError if the file cannot be read, is empty, or is damaged gzip.
    """
    status_of(path)
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    content = _up_to(unpacked, limit)  # if that is all, the checksum is compared
            else:
                content = _up_to(file, limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(damaged_gzip(path, error)) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a readable file") from error
    if not content:
        raise DataError(f"{path} byte 0: the file is empty; download it again")
    return content


def _up_to(file: BinaryIO | gzip.GzipFile, limit: int) -> bytes:
    """As file.read(limit), which would take `limit` bytes of memory whatever there is to read."""
    pieces = []
    while limit and (piece := file.read(min(limit, _PIECE))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def damaged_gzip(place: object, error: Exception) -> str:
    """The message for a gzip stream that ends early or is not what was packed."""
    truncated = isinstance(error, EOFError)
    what = "truncated gzip" if truncated else f"damaged gzip ({error})"
    return f"{place}: {what}; expected a whole file with the checksum of its end; download it again"


def looks_like(content: bytes) -> str:
    """What bytes that are no data seem to be, as " (it looks like ...)"; "" if nothing is known."""
    start = content.lstrip()[:2]
    kind = next((kind for mark, kind in _KINDS.items() if start.startswith(mark)), "")
    return kind and f" (it looks like {kind})"

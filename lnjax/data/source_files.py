"""The files of a real source: identified without reading them, read whole, unpacked if packed."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from lnjax.data.errors import DataError

_GZIP = b"\x1f\x8b"
_KINDS = {b"<": "an HTML page, as servers send in place of a missing file", b"PK": "a zip archive"}


def key(base: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names below `base`, the sizes and the modification times of `files`.

    Files that were moved keep their key, copies without their times get another.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        status = file.stat()
        name = file.relative_to(base).as_posix()
        digest.update(f"{name}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read(path: Path, limit: int) -> bytes:
    """The content of a file, unpacked if it begins as gzip does, whatever its name says.

    Args:
        path: the file.
        limit: bytes that are enough to see that a file is too long; the rest is left unread.

    Raises: DataError if the file cannot be read, is empty, or is damaged gzip.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    content = unpacked.read(limit)  # if it is all of it, the checksum is compared
            else:
                content = file.read(limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(damaged_gzip(path, error)) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a readable file") from error
    if not content:
        raise DataError(f"{path} byte 0: the file is empty; download it again")
    return content


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

"""What a run was made with, and what its files must be: versions, SHA-256 sums, atomic writes."""

import datetime
import hashlib
import json
import os
import pathlib
import platform
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

# The distributions whose version can change a number or the order of the data.
_DISTRIBUTIONS = (
    "lnjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)
_LARGEST_JSON = 1 << 28  # bytes; a vocabulary of 200,000 words has 3 million


def run_manifest(seed: int, extra: Mapping[str, object] | None = None) -> dict:
    """Everything needed to repeat a run that is not in its config, as JSON-ready values.

    Args:
        seed: the run's seed.
        extra: further entries (config, fingerprint of the data, ...), put at the top level.

    Returns:
        `seed`, `git` (`{"commit", "dirty"}`, or None outside a checkout), `versions` (None for what
        is not installed), `python`, `platform`, `backend`, `device_kind`, `device_count`,
        `process_count`, `xla_flags`, `command`, `start_time` (UTC, ISO 8601), then `extra`.

    Raises:
        ValueError: a name in `extra` is one of those above.
    """
    devices = jax.devices()
    manifest = {
        "seed": seed,
        "git": git_state(pathlib.Path(__file__).parent),
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "command": shlex.join(sys.orig_argv),
        "start_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    taken = sorted(manifest.keys() & (extra or {}).keys())
    if taken:
        raise ValueError(f"extra repeats names of the manifest: {', '.join(taken)}")
    return {**manifest, **(extra or {})}


def git_state(folder: str | os.PathLike) -> dict | None:
    """Commit of the checkout that tracks `folder`, and whether tracked files differ from it.

    Returns:
        `{"commit": 40 hex digits, "dirty": bool}`; None without git, without a commit, or where
        `folder` lies in a checkout that does not track it (an environment inside another project).
    """
    if not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    # Untracked files do not count: results of runs usually lie inside the checkout.
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def write_json(path: str | os.PathLike, obj: object) -> None:
    """Writes `obj` as indented JSON, atomically.

    Raises:
        TypeError: `obj` holds something that is no JSON.
        ValueError: `obj` holds a NaN or an infinity, which JSON does not have.
    """
    write_text(path, json.dumps(obj, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, cure: str = "restore it from a copy") -> dict:
    """The object that `write_json` wrote to `path`.

    Args:
        path: the file.
        cure: what a user can do if it is damaged.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: there is something else than a file of one JSON object: one line with the path.
    """
    path = pathlib.Path(path)
    status = path.stat() if not path.is_symlink() or path.exists() else path.lstat()
    try:
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")  # a device or a pipe may never end
        if status.st_size > _LARGEST_JSON:
            raise ValueError(f"it has {status.st_size} bytes")
        found = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_without_repeats)
        if not isinstance(found, dict):
            raise ValueError(f"it holds no object but {type(found).__name__}")
        json.dumps(found, allow_nan=False)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {cure}") from None
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces `path` by `text` (UTF-8), as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Replaces `path` by `content`: after a crash there is the old file or the new one."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".tmp")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def write_sums(folder: pathlib.Path, sums: pathlib.Path, name: str) -> None:
    """Writes the SHA-256 of every file below `folder` to `sums`, atomically, for `sha256sum -c`.

    Forces the files to the disk first: sums that exist vouch for files that do.

    Args:
        folder: what to read.
        sums: the file to write.
        name: what the folder will be called beside `sums`; the lines are `<hex>  <name>/<file>`.
    """
    lines = [f"{digest}  {name}/{file}\n" for file, digest in sorted(_read_sums(folder).items())]
    for parent, _, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, file) for file in files)):
            sync(path)
    write_text(sums, "".join(lines))


def sums_problem(folder: pathlib.Path, sums: pathlib.Path) -> str | None:
    """`file: what is wrong` for the first file of `folder` that `sums` does not vouch for, or None.

    `sums` was written by `write_sums` with `name=folder.name`. A file that is listed and missing,
    or there and not listed, is wrong too; so is what is no plain file, such as a link out of
    `folder`, behind which other content can come at any time, or a device that never ends.
    """
    if not folder.is_dir():
        return f"{folder.name}: the folder is missing"
    if not sums.is_file():
        return f"{sums.name}: missing, so the folder may be half-written"
    if odd := _no_plain_file(folder):
        return f"{odd}: a link, device or pipe, which no checkpoint has"
    listed = {}
    try:
        # As bytes, and by this one character: a line feed damaged to a vertical tab ends no line.
        *lines, rest = sums.read_bytes().decode(errors="replace").split("\n")
        if rest or not lines:
            return f"{sums.name}: damaged, its last line is cut off"
        for line in lines:
            digest, separator, name = line.partition(f"  {folder.name}/")
            if not separator:
                return f"{sums.name}: damaged, no list of sums: {line[:80]!r}"
            listed[name] = digest
        actual = _read_sums(folder)
    except OSError as error:
        return f"{error.filename}: cannot be read: {error.strerror}"
    for name in sorted(listed.keys() | actual.keys()):
        if name not in actual:
            return f"{folder.name}/{name}: missing"
        if name not in listed:
            return f"{folder.name}/{name}: not in {sums.name}"
        if listed[name] != actual[name]:
            return f"{folder.name}/{name}: changed since it was written (SHA-256 differs)"
    return None


def _no_plain_file(folder: pathlib.Path) -> str | None:
    """The first entry below `folder`, or itself, that is neither a folder nor a plain file."""
    if folder.is_symlink():
        return folder.name
    for parent, _, _ in os.walk(folder):
        with os.scandir(parent) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not (
                    entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
                ):
                    return pathlib.Path(entry.path).relative_to(folder.parent).as_posix()
    return None


def sync(path: str | os.PathLike) -> None:
    """Forces a file's bytes, or a folder's names, to the disk: they survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_sums(folder: pathlib.Path) -> dict[str, str]:
    sums = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = pathlib.Path(parent, name)
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.relative_to(folder).as_posix()] = digest
    return sums


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: str | os.PathLike, *arguments: str) -> str | None:
    """Output of a git command; None where it fails or there is no git."""
    try:
        result = subprocess.run(
            ["git", "-C", os.fspath(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()

"""What all readers of files share: a limit, packed files, files that cannot be read."""

import gzip
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from lnjax.data import DataError, source_files
from lnjax.data.binarized_mnist import BinarizedMnist
from lnjax.data.cifar10 import Cifar10
from lnjax.data.digits import Digits
from tests.data.image_files import AmatFolder, CifarFolder, IdxFolder


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_no_more_than_the_limit_is_read(pack, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pack(b"0123456789" * 100))
    assert source_files.read(path, 10**6) == b"0123456789" * 100
    assert source_files.read(path, 12) == b"012345678901"


@pytest.mark.parametrize(
    ("builder_class", "folder_class", "packed"),
    [
        (Digits, IdxFolder, False),
        (BinarizedMnist, AmatFolder, False),
        (Cifar10, CifarFolder, False),
        (Cifar10, CifarFolder, True),
    ],
)
def test_file_that_cannot_be_read(
    refused, tmp_path, monkeypatch, builder_class, folder_class, packed
):
    folder = folder_class(tmp_path / "files", monkeypatch)
    if packed:
        folder.archive()

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(gzip, "open", forbidden)
    message = refused(builder_class, folder.base)
    assert re.search(re.escape(str(folder.base)) + r".*Permission denied\); ", message)


KINDS = {
    "a folder": (Path.mkdir, "a folder; expected a file"),
    "a pipe": (os.mkfifo, "a device or pipe; expected a file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "a device or pipe"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "No such file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_unread(tmp_path, kind):
    make, told = KINDS[kind]
    path = tmp_path / "file"
    make(path)
    for read in (
        lambda: source_files.read(path, 10),
        lambda: source_files.key(tmp_path, [path]),
        lambda: source_files.refuse_larger(path, 10),
    ):
        with pytest.raises(DataError, match=f"{re.escape(str(path))}.*{told}"):
            read()


def test_a_bomb_takes_no_more_than_the_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(bytes(1 << 24)) * 8)
    assert path.stat().st_size < 1 << 18
    tracemalloc.start()
    assert source_files.read(path, 1 << 22) == bytes(1 << 22)
    peak = tracemalloc.get_traced_memory()[1]
    source_files.read(path, 1 << 40)  # as much as there is, not as much as is allowed
    assert tracemalloc.get_traced_memory()[1] < 300 << 20
    tracemalloc.stop()
    assert peak < 12 << 20

"""What all readers of files share: a limit, packed files, files that cannot be read."""

import gzip
import re
from pathlib import Path

import pytest

from lnjax.data import source_files
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

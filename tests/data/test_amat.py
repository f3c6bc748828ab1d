"""The .amat files of binarized MNIST: what is read, fast, and everything that is refused."""

import gzip
import re
import time
import tracemalloc

import numpy as np
import pytest

from lnjax.data import DataError, amat, prepare
from lnjax.data.binarized_mnist import BinarizedMnist
from lnjax.data.preparation import check
from tests.data.image_files import AMAT_COUNTS, AmatFolder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return AmatFolder(tmp_path / "files", monkeypatch)


@pytest.fixture
def path(folder):
    return folder.path("train")


def edit(path, place, new):
    """Replaces bytes of a file from `place` on."""
    content = bytearray(path.read_bytes())
    content[place : place + len(new)] = new
    path.write_bytes(content)


def edit_line(path, number, change):
    """Replaces line `number` (from 1) by change(line), without and with its end."""
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = change(lines[number - 1])
    path.write_bytes(b"\n".join(lines))


# ---- what is read ------------------------------------------------------------------------------


def test_folder_is_read(folder, tmp_path):
    cache = tmp_path / "cache"
    prepared = prepare(BinarizedMnist, "real", manual_dir=folder.base, cache=cache)
    for split, images in folder.images.items():
        assert len(prepared.splits[split]) == AMAT_COUNTS[split]
        for record, image in zip(prepared.splits[split], images, strict=True):
            assert record["image"].dtype == np.uint8
            assert np.array_equal(record["image"], image)
    means = folder.images["train"].reshape(12, 784).mean(0)
    assert prepared.statistics["images"] == 12
    assert prepared.statistics["pixel_means"] == pytest.approx(means)
    found = check(BinarizedMnist, "real", manual_dir=folder.base, cache=cache)
    assert found == AMAT_COUNTS


def test_rows_of_the_text_are_rows_of_the_image(folder):
    text = folder.path("train").read_text().split("\n")[2].split(" ")
    image = amat.read_folder(folder.base)["train"]["image"][2, :, :, 0]
    assert [int(value) for value in text[28:56]] == image[1].tolist()


def test_parent_folder_and_key(folder, tmp_path):
    key = amat.source_key(folder.base)
    folder.base.rename(tmp_path / "binarized_mnist")
    assert amat.source_key(tmp_path) == key
    assert len(amat.read_folder(tmp_path)["train"]["image"]) == 12
    path = tmp_path / "binarized_mnist" / amat.FILES["test"]
    path.write_bytes(path.read_bytes())
    assert amat.source_key(tmp_path) != key


def test_files_that_tfds_downloaded(folder):
    from tensorflow_datasets.core.download.resource import get_dl_fname

    key = amat.source_key(folder.base)
    for split, file in amat.FILES.items():
        url = f"http://host.example/~somebody/public/datasets/binarized_mnist/{file}"
        folder.path(split).rename(folder.base / get_dl_fname(url, amat.PUBLISHED[split]))
    for split, columns in amat.read_folder(folder.base).items():
        assert np.array_equal(columns["image"], folder.images[split])
    assert amat.source_key(folder.base) != key


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:-2], "783 values"),
        (lambda line: line + b" 1", "785 values"),
        (lambda line: b"2" + line[1:], "value 1 is '2' (a grey level: this file is not binarized)"),
        (lambda line: line[:4] + b"7" + line[5:], "value 3 is '7' (a grey level"),
        (lambda line: b" ".join(b"253" if v == b"1" else v for v in line.split()), "is '253' (a"),
        (lambda line: line.replace(b"1", b"0.5"), "is '0.5'; expected"),
        (lambda line: line[:-1] + b"x", "value 784 is 'x'; expected"),
        (lambda line: line.replace(b" ", b""), "is '"),
        (lambda line: line.replace(b" ", b"\t"), "a tab as byte 2 of the line"),
        (lambda line: line[:1] + b"\t" + line[2:], "a tab as byte 2 of the line"),
        (lambda line: line.replace(b" ", b","), "a comma as byte 2 of the line"),
        (lambda line: line[:3] + b"\x0b" + line[4:], r"b'\x0b' as byte 4 of the line"),
        (lambda line: line.replace(b" ", b"  ", 1), "1 more spaces than separate its values"),
        (lambda line: line + b" ", "1 more spaces"),
        (lambda line: line + b"\r", "a carriage return at its end"),
        (lambda line: b"", "an empty line"),
        (lambda line: b" " * 1567, "an empty line"),
        (lambda line: line + b"\n", None),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_line_that_is_not_784_digits(refused, folder, split, change, message):
    path = folder.path(split)
    edit_line(path, 3, change)
    place, message = (3, message) if message else (4, "an empty line")
    text = refused(BinarizedMnist, folder.base)
    assert f"{path} line {place}: " in text and message in text
    assert "expected 784 digits 0 or 1 with one space between two" in text


def test_grey_levels(refused, folder, path, rng):
    lines = [" ".join(map(str, rng.integers(0, 256, 784))) for _ in range(12)]
    path.write_text("\n".join(lines) + "\n")
    assert re.search(
        f"{path} line 1: value \\d+ is .* grey level", refused(BinarizedMnist, folder.base)
    )


def test_number_of_lines(refused, folder, path):
    content = path.read_bytes()
    path.write_bytes(content[: -amat.LINE])
    message = refused(BinarizedMnist, folder.base)
    assert f"{path} line 11: the last line of the file; expected 12 lines of 1568" in message
    for more in (b"\n", b"0", content[: amat.LINE], content):
        path.write_bytes(content + more)
        assert f"{path} line 13: one line more; expected 12" in refused(BinarizedMnist, folder.base)
    path.write_bytes(content[: 4 * amat.LINE])
    message = refused(BinarizedMnist, folder.base)
    assert "line 4: the last line of the file (it has as many as that of the split 'val" in message


def test_train_and_test_exchanged(refused, folder, path):
    content = path.read_bytes()
    path.write_bytes(folder.path("test").read_bytes())
    folder.path("test").write_bytes(content)
    assert f"{path} line 4: the last line of the file" in refused(BinarizedMnist, folder.base)
    path.write_bytes(content)
    folder.path("test").write_bytes(content[4 * amat.LINE :] + content[: 4 * amat.LINE])
    message = refused(BinarizedMnist, folder.base)
    assert "line 5: one line more (it has as many as that of the split 'train')" in message


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (1, "no line feed at its end, truncated"),
        (2, "783 values, the file is truncated"),
        (3, "783 values, the file is truncated"),
        (1000, "284 values, the file is truncated"),
        (1567, "1 values, the file is truncated"),
    ],
)
def test_truncated_last_line(refused, folder, cut, message):
    path = folder.path("test")
    path.write_bytes(path.read_bytes()[:-cut])
    assert f"{path} line 4: {message}" in refused(BinarizedMnist, folder.base)


def test_line_ends_of_dos(refused, folder, path):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert f"{path} line 1: a carriage return at its end" in refused(BinarizedMnist, folder.base)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<title>404</title>", "an HTML page"),
        (b"\n <html><body>403 Forbidden", "an HTML page"),
        (b"PK\x03\x04\x14\x00", "a zip archive"),
    ],
)
def test_another_kind_of_file(refused, folder, path, content, what):
    path.write_bytes(content)
    message = refused(BinarizedMnist, folder.base)
    assert f"{path} line 1: begins with" in message and f"looks like {what}" in message


def test_page_of_the_right_size(refused, folder, path):
    path.write_bytes(b"<html>".ljust(12 * amat.LINE))
    assert "looks like an HTML page" in refused(BinarizedMnist, folder.base)


def test_empty_and_packed_files(refused, folder, path):
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content))
    assert len(amat.read_folder(folder.base)["train"]["image"]) == 12  # packed is no reason
    path.write_bytes(gzip.compress(content)[:-20])
    assert f"{path}: truncated gzip" in refused(BinarizedMnist, folder.base)
    path.write_bytes(b"")
    assert f"{path} byte 0: the file is empty" in refused(BinarizedMnist, folder.base)


@pytest.mark.parametrize(
    ("split", "source"), [("validation", "train"), ("test", "train"), ("test", "validation")]
)
def test_a_file_twice(refused, folder, split, source):
    path = folder.path(split)
    path.write_bytes(folder.path(source).read_bytes())
    message = refused(BinarizedMnist, folder.base)
    assert f"{path}: the same file as {folder.path(source).name}" in message


def test_image_without_ink(refused, folder, path):
    edit(path, 5 * amat.LINE, (b"0 " * 784)[:-1] + b"\n")
    assert f"{path} line 6: 784 zeros" in refused(BinarizedMnist, folder.base)


@pytest.mark.parametrize("split", list(AMAT_COUNTS))
def test_another_binarization_and_transposed_images(refused, folder, split):
    """Both have the published form; the digest tells them from the published images."""
    path = folder.path(split)
    content = path.read_bytes()
    edit(path, 100, b"1" if content[100:101] == b"0" else b"0")
    assert f"{path}: SHA-256 " in refused(BinarizedMnist, folder.base)
    rows = np.frombuffer(content, np.uint8).reshape(-1, 784, 2).copy()
    rows[:, :, 0] = rows[:, :, 0].reshape(-1, 28, 28).transpose(0, 2, 1).reshape(-1, 784)
    path.write_bytes(rows.tobytes())
    assert f"{path}: SHA-256 " in refused(BinarizedMnist, folder.base)


def test_missing_files_are_all_named(refused, folder, tmp_path):
    for split in ("train", "test"):
        folder.path(split).unlink()
    message = refused(BinarizedMnist, folder.base)
    assert message.startswith(
        f"{folder.base}: binarized_mnist_train.amat, binarized_mnist_test.amat not found; expected"
    )
    assert "<folder>/binarized_mnist/" in message
    with pytest.raises(DataError, match="no folder was given"):
        prepare(BinarizedMnist, "real", cache=tmp_path / "cache")


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch):
    def content(images):
        table = np.full((len(images), 784, 2), ord(" "), np.uint8)
        table[:, :, 0] = images.reshape(len(images), 784) + ord("0")
        table[:, -1, 1] = ord("\n")
        return table.tobytes()

    folder = AmatFolder(tmp_path / "files", monkeypatch, dict(amat.NUM_IMAGES), content)
    start = time.monotonic()
    columns = amat.read_folder(folder.base)
    assert time.monotonic() - start < 20  # 110 MB; about a second on a quiet core
    for split, images in folder.images.items():
        assert np.array_equal(columns[split]["image"], images)
    edit(folder.path("train"), 49_998 * amat.LINE + 6, b"9")
    with pytest.raises(DataError, match="line 49999: value 4 is '9'"):
        amat.read_folder(folder.base)


def test_a_bomb_of_line_feeds(tmp_path):
    """A packed file of 80 kB can have 78 million lines; they are counted, not cut out."""
    content = b"\n" * (50_000 * amat.LINE)
    tracemalloc.start()
    with pytest.raises(DataError, match="line 1: an empty line"):
        amat.parse(tmp_path / "file", content, 50_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(content) + (32 << 20)

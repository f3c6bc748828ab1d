"""MNIST's idx files: what is read from a folder in their form, and everything that is refused."""

import gzip
import re
import shutil
import struct

import numpy as np
import pytest

from lnjax.data import DataError, mnist_idx, prepare
from lnjax.data.digits import Digits
from lnjax.data.fashion_mnist import FashionMnist
from lnjax.data.preparation import check
from tests.data.image_files import IDX_COUNTS, IdxFolder, idx_content

PARTS = list(mnist_idx.FILES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return IdxFolder(tmp_path / "files", monkeypatch)


def edit(path, place, new):
    """Replaces bytes of a file from `place` on."""
    content = bytearray(path.read_bytes())
    content[place : place + len(new)] = new
    path.write_bytes(content)


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("builder_class", [Digits, FashionMnist])
def test_folder_is_read(builder_class, tmp_path, monkeypatch):
    name = {Digits: "mnist", FashionMnist: "fashion_mnist"}[builder_class]
    folder = IdxFolder(tmp_path / "files", monkeypatch, name)
    cache = tmp_path / "cache"
    prepared = prepare(builder_class, "real", manual_dir=folder.base, cache=cache)
    images = {split: folder.arrays[split, "images"] for split in IDX_COUNTS}
    labels = {split: folder.arrays[split, "labels"] for split in IDX_COUNTS}
    expected = {
        "train": (images["train"][:25], labels["train"][:25]),
        "validation": (images["train"][25:], labels["train"][25:]),
        "test": (images["test"], labels["test"]),
    }
    assert set(prepared.splits) == set(expected)
    for split, (split_images, split_labels) in expected.items():
        assert len(prepared.splits[split]) == len(split_images)
        for record, image, label in zip(
            prepared.splits[split], split_images, split_labels, strict=True
        ):
            assert record["image"].dtype == np.uint8 and record["label"].dtype == np.int64
            assert np.array_equal(record["image"], image[..., None]) and record["label"] == label
    counts = [int((labels["train"][:25] == c).sum()) for c in range(10)]
    assert prepared.statistics == {"images": 25, "class_counts": counts}
    found = check(builder_class, "real", manual_dir=folder.base, cache=cache)
    assert found == {"train": 25, "validation": 5, "test": 20}


def test_packed_files_and_parent_folder(folder, tmp_path, monkeypatch):
    expected = mnist_idx.read_folder(folder.base, "mnist")
    for part in PARTS[:3]:
        folder.pack(*part)
    # Browsers unpack and keep the name, or keep packed what has a plain name: bytes decide.
    odd = folder.pack("test", "labels")
    odd.rename(folder.path("test", "labels"))
    packed = folder.path("train", "labels").with_suffix(".gz")
    packed.write_bytes(gzip.decompress(packed.read_bytes()))
    parent = tmp_path / "parent"
    parent.mkdir()
    shutil.move(folder.base, parent / "mnist")
    found = mnist_idx.read_folder(parent, "mnist")
    for split in expected:
        for field in ("image", "label"):
            assert np.array_equal(found[split][field], expected[split][field])


def test_key_follows_the_files(folder):
    key = mnist_idx.source_key(folder.base, "mnist")
    moved = folder.base.rename(folder.base.with_name("mnist"))
    assert mnist_idx.source_key(moved.parent, "mnist") == key
    path = moved / mnist_idx.FILES["test", "labels"]
    path.write_bytes(path.read_bytes())
    assert mnist_idx.source_key(moved, "mnist") != key


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "kind"), PARTS)
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\x00\x00\x0b\xad", r"magic number 2989; expected {magic}, {kind}"),
        (b"{little}", r"\(little-endian {magic}: the header must be big-endian\)"),
        (b"{other}", r", {others} \(are images and labels exchanged\?\); expected {magic}, {kind}"),
        (b"<html>", r"looks like an HTML page"),
        (b"PK\x03\x04", r"looks like a zip archive"),
    ],
)
def test_wrong_magic_number(refused, folder, split, kind, header, message):
    magic, other = (2051, 2049) if kind == "images" else (2049, 2051)
    others = "labels" if kind == "images" else "images"
    header = {b"{little}": struct.pack("<I", magic), b"{other}": struct.pack(">I", other)}.get(
        header, header
    )
    path = folder.path(split, kind)
    edit(path, 0, header)
    expected = re.escape(f"{path} byte 0: ") + ".*"
    expected += message.format(magic=magic, kind=kind, others=others)
    assert re.search(expected, refused(Digits, folder.base))


def test_images_and_labels_exchanged(refused, folder):
    images, labels = (folder.path("train", kind) for kind in ("images", "labels"))
    content = images.read_bytes()
    shutil.move(labels, images)
    labels.write_bytes(content)
    message = refused(Digits, folder.base)
    assert f"{images} byte 0: magic number 2049, labels (are images and labels" in message


@pytest.mark.parametrize(("kind", "size"), [("images", 15), ("labels", 7), ("labels", 2)])
def test_file_that_ends_in_its_header(refused, folder, kind, size):
    path = folder.path("test", kind)
    path.write_bytes(path.read_bytes()[:size])
    message = refused(Digits, folder.base)
    assert f"{path} byte {size}: " in message if size > 4 else f"{path} byte 0: " in message


@pytest.mark.parametrize(("split", "kind"), PARTS)
@pytest.mark.parametrize("change", [-1, 1])
def test_size_is_not_that_of_the_header(refused, folder, split, kind, change):
    path = folder.path(split, kind)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if change < 0 else content + b"\n")
    what = "the file ends here" if change < 0 else "more bytes after the last of"
    place = len(content) - (change < 0)
    assert f"{path} byte {place}: {what}" in refused(Digits, folder.base)


def test_header_that_promises_too_much(refused, folder):
    path = folder.path("train", "images")
    edit(path, 4, b"\xff\xff\xff\xff")
    assert f"{path} byte {16 + 30 * 784}: the file ends here" in refused(Digits, folder.base)


@pytest.mark.parametrize("split", list(IDX_COUNTS))
def test_unequal_numbers_of_images_and_labels(refused, folder, split):
    path = folder.path(split, "labels")
    number = IDX_COUNTS[split]
    path.write_bytes(idx_content(folder.arrays[split, "labels"][:-1]))
    message = refused(Digits, folder.base)
    assert f"{path} byte 4: {number - 1} labels for the {number} images" in message


@pytest.mark.parametrize("sides", [(28, 32), (32, 28), (14, 56)])
def test_other_sides(refused, folder, sides):
    path = folder.path("test", "images")
    path.write_bytes(idx_content(np.ones((20, *sides), np.uint8)))
    message = refused(Digits, folder.base)
    assert f"{path} byte 8: images of {sides[0]} x {sides[1]}; expected 28 x 28" in message


@pytest.mark.parametrize("split", list(IDX_COUNTS))
def test_label_above_9(refused, folder, split):
    path = folder.path(split, "labels")
    edit(path, 8 + 6, b"\x0a")
    assert f"{path} record 7 (byte 14): label 10; expected at most 9" in refused(
        Digits, folder.base
    )


@pytest.mark.parametrize("level", [0, 255])
def test_constant_image(refused, folder, level):
    path = folder.path("train", "images")
    edit(path, 16 + 784 * 4, bytes([level]) * 784)
    message = refused(Digits, folder.base)
    assert f"{path} record 5 (byte {16 + 784 * 4}): image {level} in every pixel" in message


@pytest.mark.parametrize(("split", "kind"), PARTS)
def test_truncated_gzip(refused, folder, split, kind):
    path = folder.pack(split, kind)
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 4):
        path.write_bytes(content[:size])
        assert f"{path}: truncated gzip" in refused(Digits, folder.base)


@pytest.mark.parametrize("place", [-5, -1])  # the checksum; the size
def test_bad_checksum_of_gzip(refused, folder, place):
    path = folder.pack("train", "images")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert f"{path}: damaged gzip" in refused(Digits, folder.base)


def test_garbled_gzip(refused, folder):
    path = folder.pack("train", "labels")
    edit(path, 12, b"\xff" * 8)
    assert f"{path}: damaged gzip" in refused(Digits, folder.base)


def test_empty_files_and_no_items(refused, folder):
    path = folder.path("test", "labels")
    path.write_bytes(b"")
    assert f"{path} byte 0: the file is empty" in refused(Digits, folder.base)
    path.write_bytes(gzip.compress(b""))
    assert f"{path} byte 0: the file is empty" in refused(Digits, folder.base)
    path.write_bytes(struct.pack(">2I", 2049, 0))
    assert f"{path} byte 4: the header says 0 labels" in refused(Digits, folder.base)


def test_train_and_t10k_exchanged(refused, folder):
    for kind in ("images", "labels"):
        train, test = (folder.path(split, kind) for split in IDX_COUNTS)
        content = train.read_bytes()
        shutil.move(test, train)
        test.write_bytes(content)
    message = refused(Digits, folder.base)
    path = folder.path("train", "images")
    assert f"{path} byte 4: 20 images as in the test files: are they exchanged?" in message


def test_another_number_of_images(refused, folder):
    for kind in ("images", "labels"):
        folder.path("test", kind).write_bytes(idx_content(folder.arrays["test", kind][:19]))
    message = refused(Digits, folder.base)
    assert f"{folder.path('test', 'images')} byte 4: 19 images; expected 20" in message


def test_fashion_mnist_in_the_place_of_mnist(refused, folder, tmp_path, monkeypatch):
    fashion = IdxFolder(tmp_path / "fashion", monkeypatch, "fashion_mnist", seed=1)
    path = fashion.path("train", "images")
    assert f"{path}: this is the file of fashion_mnist; expected" in refused(Digits, fashion.base)
    message = refused(FashionMnist, folder.base)
    assert f"{folder.path('train', 'images')}: this is the file of mnist; expected" in message
    shutil.copy(fashion.path("test", "labels"), folder.path("test", "labels"))  # one of the four
    message = refused(Digits, folder.base)
    assert f"{folder.path('test', 'labels')}: this is the file of fashion_mnist" in message


@pytest.mark.parametrize(("split", "kind"), PARTS)
def test_other_content_than_published(refused, folder, split, kind):
    path = folder.path(split, kind)
    content = path.read_bytes()
    edit(path, len(content) - 1, bytes([(content[-1] + 1) % 10]))
    message = refused(Digits, folder.base)
    assert re.search(re.escape(f"{path}: SHA-256 ") + r"[0-9a-f]{64}; expected", message)


def test_transposed_images(refused, folder):
    path = folder.path("train", "images")
    path.write_bytes(idx_content(folder.arrays["train", "images"].transpose(0, 2, 1)))
    assert f"{path}: SHA-256 " in refused(Digits, folder.base)


def test_missing_files_are_all_named(refused, folder, tmp_path):
    folder.path("train", "labels").unlink()
    folder.path("test", "images").unlink()
    folder.path("test", "images").mkdir()
    message = refused(Digits, folder.base)
    assert message.startswith(
        f"{folder.base}: train-labels-idx1-ubyte, t10k-images-idx3-ubyte not found; expected"
    )
    assert "<folder>/mnist/" in message and "t10k-labels-idx1-ubyte[.gz]" in message
    assert str(tmp_path / "nowhere") in refused(Digits, tmp_path / "nowhere")
    with pytest.raises(DataError, match="no folder was given"):
        prepare(FashionMnist, "real", cache=tmp_path / "cache")


def test_published_digests_are_of_different_files():
    digests = [digest for of_set in mnist_idx.PUBLISHED.values() for digest in of_set]
    assert len(set(digests)) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch):
    folder = IdxFolder(tmp_path / "files", monkeypatch, counts=dict(mnist_idx.NUM_IMAGES))
    monkeypatch.setattr(mnist_idx, "NUM_VALIDATION", 5_000)
    folder.pack("train", "images")
    prepared = prepare(Digits, "real", manual_dir=folder.base, cache=tmp_path / "cache")
    assert {split: len(records) for split, records in prepared.splits.items()} == mnist_idx.SPLITS
    record, image = prepared.splits["validation"][-1], folder.arrays["train", "images"][-1]
    assert np.array_equal(record["image"], image[..., None])

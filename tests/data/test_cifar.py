"""CIFAR-10's binary files, unpacked or in their archive: what is read, and all that is refused."""

import gzip
import re
import tarfile
import time

import numpy as np
import pytest

from lnjax.data import DataError, cifar_binary, prepare
from lnjax.data.cifar10 import Cifar10
from lnjax.data.preparation import check
from tests.data.image_files import CIFAR_RECORDS, CifarFolder

TEST, TRAIN = cifar_binary.TEST, cifar_binary.TRAIN
FOLDER = cifar_binary.FOLDER


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return CifarFolder(tmp_path / "files", monkeypatch)


def members(folder, **changes):
    """The archive's (name, content) pairs; `changes` by the file's name without its suffix."""
    contents = folder.contents() | {f"{name}.bin": c for name, c in changes.items()}
    return [(f"{FOLDER}/{name}", content) for name, content in contents.items()]


def by_hand(records):
    """Images (N, 32, 32, 3) pixel by pixel, from the published description of a record."""
    images = np.zeros((len(records), 32, 32, 3), np.uint8)
    for channel in range(3):
        for row in range(32):
            first = 1 + 1024 * channel + 32 * row
            images[:, row, :, channel] = records[:, first : first + 32]
    return images


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read(folder, tmp_path, packed):
    records = folder.records
    if packed:
        folder.archive()
    cache = tmp_path / "cache"
    prepared = prepare(Cifar10, "real", manual_dir=folder.base, cache=cache)
    train = np.concatenate([records[name] for name in TRAIN])
    expected = {"train": train[:90], "validation": train[90:], "test": records[TEST]}
    assert set(prepared.splits) == set(expected)
    for split, rows in expected.items():
        found = list(prepared.splits[split])
        assert [int(record["label"]) for record in found] == rows[:, 0].tolist()
        assert np.array_equal([record["image"] for record in found], by_hand(rows))
        assert found[0]["image"].dtype == np.uint8 and found[0]["label"].dtype == np.int64
    counts = np.bincount(train[:90, 0], minlength=10).tolist()
    assert prepared.statistics == {"images": 90, "class_counts": counts}
    found = check(Cifar10, "real", manual_dir=folder.base, cache=cache)
    assert found == {"train": 90, "validation": 10, "test": 20}


def test_the_archive_leaves_nothing_on_disk(folder):
    path = folder.archive()
    folder.path(TEST).parent.rmdir()
    cifar_binary.read_folder(folder.base)
    assert list(folder.base.iterdir()) == [path]


def test_places_and_key(folder, tmp_path):
    key = cifar_binary.source_key(folder.base)
    files = folder.base / FOLDER
    assert cifar_binary.source_key(files) == key
    folder.base.rename(tmp_path / "cifar10")
    assert cifar_binary.source_key(tmp_path) == key
    path = tmp_path / "cifar10" / FOLDER / TEST
    path.write_bytes(path.read_bytes())
    assert cifar_binary.source_key(tmp_path) != key


def test_members_in_any_order_and_further_ones(folder):
    expected = cifar_binary.read_folder(folder.base)
    entry = tarfile.TarInfo(FOLDER)
    entry.type = tarfile.DIRTYPE
    readme = (f"{FOLDER}/readme.html", b"<html>")
    folder.archive([(FOLDER, entry), readme, *((f"./{n}", c) for n, c in members(folder)[::-1])])
    found = cifar_binary.read_folder(folder.base)
    assert np.array_equal(found["train"]["image"], expected["train"]["image"])


# ---- what is refused: a file -------------------------------------------------------------------

SIZE = CIFAR_RECORDS * 3073
CONTENTS = [  # content of data_batch_2.bin, message
    (b"", "byte 0: the file is empty"),
    (bytes(SIZE - 1), f"byte {SIZE - 1}: 19 records and 3072 bytes; expected 20 records of 3073"),
    (bytes(SIZE + 5), f"byte {SIZE + 5}: 20 records and 5 bytes; expected 20 records"),
    (bytes(SIZE - 3073), f"byte {SIZE - 3073}: 19 records; expected 20 records"),
    (bytes(SIZE + 3073), f"byte {SIZE + 3073}: 21 records; expected 20 records"),
    (bytes(20 * 3074), "20 records of 3074 bytes, as CIFAR-100 has; expected 20"),
    (bytes(50 * 3074), "50 records of 3074 bytes, as CIFAR-100 has; expected 20"),
    (b"\x80\x02}q\x00(U\x04data", "byte 0: a pickle, which can run code and is not read"),
    (b"\x80".ljust(SIZE), "byte 0: a pickle, which can run code and is not read"),
    (b"<html>404</html>", "(it looks like an HTML page"),
    (bytes(3073 * 4) + b"\x0a" + bytes(3073 * 16 - 1), "record 5 (byte 12292): label 10; expected"),
    (b"\xff" * SIZE, "record 1 (byte 0): label 255; expected 0 to 9"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("content", "message"), CONTENTS)
def test_bad_file(refused, folder, packed, content, message):
    if packed:
        path = folder.archive(members(folder, data_batch_2=content))
        place = f"{path} member {FOLDER}/data_batch_2.bin "
    else:
        folder.path("data_batch_2.bin").write_bytes(content)
        place = f"{folder.path('data_batch_2.bin')} "
    text = refused(Cifar10, folder.base)
    assert text.startswith(place) and message in text and "\n" not in text


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data_batch_4", "data_batch_2"),
        ("data_batch_3", "test_batch"),
        ("test_batch", "data_batch_1"),
    ],
)
def test_file_twice(refused, folder, packed, name, source):
    """Duplicate batches, and the test batch among the training batches or the other way round."""
    content = folder.contents()[f"{source}.bin"]
    if packed:
        base = folder.archive(members(folder, **{name: content}))
    else:
        folder.path(f"{name}.bin").write_bytes(content)
        base = folder.base / FOLDER
    first, second = sorted([f"{name}.bin", f"{source}.bin"])
    expected = f"{base}: {second} has the same bytes as {first}; expected six different files"
    assert expected in refused(Cifar10, folder.base)


def test_test_batch_exchanged_for_a_training_batch(refused, folder):
    contents = folder.contents()
    folder.path(TEST).write_bytes(contents[TRAIN[0]])
    folder.path(TRAIN[0]).write_bytes(contents[TEST])
    message = refused(Cifar10, folder.base)
    assert f"{folder.base / FOLDER}: test_batch.bin: 1 images of class 3; expected 2" in message


def test_classes_of_the_training_batches(refused, folder):
    records = folder.records[TRAIN[4]].copy()
    records[0, 0] = (records[0, 0] + 1) % 10
    folder.path(TRAIN[4]).write_bytes(records.tobytes())
    assert re.search(
        r"data_batch_1.bin to data_batch_5.bin: (9|11) images of class \d; expected 10 of each",
        refused(Cifar10, folder.base),
    )


@pytest.mark.parametrize("name", [TRAIN[0], TRAIN[4], TEST])
def test_missing_file(refused, folder, name):
    content = members(folder)
    folder.path(name).unlink()
    message = refused(Cifar10, folder.base)
    assert message.startswith(f"{folder.base / FOLDER}: {name} not found; expected this tree:")
    path = folder.archive([pair for pair in content if not pair[0].endswith(name)])
    assert f"{path}: no member {name}; expected" in refused(Cifar10, folder.base)


def test_missing_everything(refused, tmp_path):
    message = refused(Cifar10, tmp_path)
    assert message.startswith(f"{tmp_path}: data_batch_1.bin, ")
    assert "cifar-10-binary.tar.gz" in message
    with pytest.raises(DataError, match="no folder was given"):
        prepare(Cifar10, "real", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("cifar-10-batches-py/data_batch_1", "the Python version, whose pickles can run code"),
        ("cifar-10-batches-bin/data_batch_1", "the Python version, whose pickles can run code"),
        ("data_batch_1", "the Python version, whose pickles can run code"),
        ("cifar-10-python.tar.gz", "the Python version, whose pickles can run code"),
        ("cifar-100-binary/train.bin", "CIFAR-100, which has other classes"),
        ("cifar-100-binary.tar.gz", "CIFAR-100, which has other classes"),
        ("train.bin", "CIFAR-100, which has other classes"),
    ],
)
def test_another_version(refused, tmp_path, name, what):
    base = tmp_path / "files"
    (base / name).parent.mkdir(parents=True)
    (base / name).write_bytes(b"\x80\x02")
    assert f"not found (what is there is {what}" in refused(Cifar10, base)


# ---- what is refused: the archive --------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil.bin", f"{FOLDER}/../../evil", "/etc/evil", f"..\\{FOLDER}\\evil", "\\evil", "x/.."],
)
def test_member_that_leads_out(refused, folder, name):
    path = folder.archive([*members(folder), (name, b"x")])
    message = refused(Cifar10, folder.base)
    assert f"{path} member {name}: a name that leads out of the archive" in message


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link to /etc/passwd"),
        (tarfile.LNKTYPE, "a link to /etc/passwd"),
        (tarfile.FIFOTYPE, "no file and no folder"),
        (tarfile.CHRTYPE, "no file and no folder"),
    ],
)
def test_member_that_is_no_file(refused, folder, kind, what):
    entry = tarfile.TarInfo(f"{FOLDER}/data_batch_5.bin")
    entry.type, entry.linkname = kind, "/etc/passwd"
    path = folder.archive([*members(folder)[:4], (entry.name, entry)])
    assert f"{path} member {entry.name}: {what}" in refused(Cifar10, folder.base)


def test_member_twice(refused, folder):
    pairs = members(folder)
    path = folder.archive([*pairs, (f"other/{TEST}", folder.contents()[TEST])])
    assert f"{path} member other/{TEST}: the second {TEST}" in refused(Cifar10, folder.base)


def test_truncated_archive(refused, folder):
    path = folder.archive()
    content = path.read_bytes()
    for size in (len(content) - 4, len(content) * 3 // 4, 200, 12):
        path.write_bytes(content[:size])
        message = refused(Cifar10, folder.base)
        assert re.match(re.escape(str(path)) + " (after member |byte 0).*: truncated", message)


def test_damaged_archive(refused, folder):
    path = folder.archive()
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # the checksum
    path.write_bytes(content)
    assert f"{path} after member" in refused(Cifar10, folder.base)
    path.write_bytes(b"<html>404</html>")
    assert f"{path} byte 0: truncated or damaged" in refused(Cifar10, folder.base)
    path.write_bytes(b"")
    assert f"{path} byte 0: truncated or damaged" in refused(Cifar10, folder.base)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("cifar-10-batches-py/data_batch_1", "the Python version"),
        ("cifar-100-binary/train.bin", "CIFAR-100"),
    ],
)
def test_archive_of_another_version(refused, folder, name, what):
    path = folder.archive([(name, b"x")])
    assert f"{path}: no member data_batch_1.bin, data_batch_2.bin" in refused(Cifar10, folder.base)
    assert f"(what is there is {what}" in refused(Cifar10, folder.base)


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch):
    folder = CifarFolder(tmp_path / "files", monkeypatch, cifar_binary.NUM_RECORDS)
    records = folder.records[TRAIN[4]]
    folder.archive()
    prepared = prepare(Cifar10, "real", manual_dir=folder.base, cache=tmp_path / "cache")
    counts = {split: len(of_split) for split, of_split in prepared.splits.items()}
    assert counts == cifar_binary.SPLITS
    assert np.array_equal(prepared.splits["validation"][-1]["image"], by_hand(records[-1:])[0])


def packed(folder, content):
    path = folder.base / cifar_binary.ARCHIVE
    path.write_bytes(gzip.compress(content, 1))
    return path


def test_an_archive_that_is_a_bomb(refused, folder):
    path = folder.archive()
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 24)) * 64)
    start = time.monotonic()
    assert "unpacks to more than twice" in refused(Cifar10, folder.base)
    assert time.monotonic() - start < 5


def test_a_long_name_is_not_read_into_memory(refused, folder):
    folder.archive()
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    packed(folder, entry.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 22))
    assert "unpacks to more than twice" in refused(Cifar10, folder.base)


def test_many_members(refused, folder):
    folder.archive([(f"{FOLDER}/{number}", b"") for number in range(200)])
    assert "over 100 members" in refused(Cifar10, folder.base)


@pytest.mark.parametrize("size", [-1, -(1 << 40), 1 << 40])
def test_sizes_in_the_head_of_a_member(refused, folder, size):
    folder.archive()
    entry = tarfile.TarInfo(f"{FOLDER}/{cifar_binary.TEST}")
    entry.size = size
    path = packed(folder, entry.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    assert str(path) in refused(Cifar10, folder.base)

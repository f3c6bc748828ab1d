"""COCO captions and features: both layouts, the json, every refusal, memory that is bounded."""

import gzip
import os
import tracemalloc
import zlib

import numpy as np
import pytest

from lnjax.data import DataError, coco_files, karpathy_json, prepare
from lnjax.data import __main__ as command
from lnjax.data.captioned_images import CaptionedImages, captions_of, open_features, rows_of
from tests.data.coco_folder import CocoFolder

SPLITS = {"train": "train", "validation": "val", "test": "test"}


def fives(lines):
    return [tuple(lines[i : i + 5]) for i in range(0, len(lines), 5)]


def expect(folder, examples, ids=None):
    """The examples are what the folder was written from."""
    assert list(examples) == list(SPLITS)
    for split, of_split in examples.items():
        name = SPLITS[split]
        assert [example["captions"] for example in of_split] == fives(folder.captions[name])
        rows = np.load(folder.npy(name)).astype("<f4")
        numbers = range(len(of_split))
        assert [example["row"] for example in of_split] == [folder.each * i for i in numbers]
        checksums = [zlib.crc32(rows[folder.each * i].tobytes()) for i in numbers]
        assert [example["features_crc32"] for example in of_split] == checksums
        default = [f"{split}/{i}" for i in numbers]
        assert [example["id"] for example in of_split] == (ids or {}).get(split, default)


@pytest.mark.parametrize("layout", ["order-embedding", "vse"])
@pytest.mark.parametrize("each", [1, 5])
def test_layouts(tmp_path, layout, each):
    folder = CocoFolder(tmp_path / "coco", layout, each=each)
    read = coco_files.read_folder(folder.base)
    expect(folder, read)
    assert coco_files.read_folder(tmp_path) == read  # the parent of a folder `coco`


def test_other_names_and_dtypes(tmp_path):
    folder = CocoFolder(tmp_path, dtype=np.float64)
    read = coco_files.read_folder(folder.base)
    expect(folder, read)
    for split in SPLITS.values():  # as the extraction script calls them
        dev = split.replace("val", "dev")
        folder.npy(split).rename(folder.base / "images" / "10crop" / f"coco_{dev}.npy")
    folder.text("val").rename(folder.base / "dev.txt")
    assert coco_files.read_folder(folder.base) == read


def test_pieces_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_files, "_ROWS", 2)
    for each in (1, 5):
        folder = CocoFolder(tmp_path / str(each), each=each)
        expect(folder, coco_files.read_folder(folder.base))


def test_json(tmp_path):
    folder = CocoFolder(tmp_path)
    folder.write_json()
    ids = {
        split: [str(1000 * len(name) + i) for i in range(len(folder.captions[name]) // 5)]
        for split, name in SPLITS.items()
    }
    expect(folder, coco_files.read_folder(folder.base), ids)  # ids for the captions of the texts
    images = folder.images()
    images[0]["sentences"][0]["tokens"].append("else")
    images[2]["sentences"] = images[3]["sentences"]  # two images with the same captions
    folder.captions["train"][10:15] = folder.captions["train"][15:20]
    folder.write_captions("train")
    folder.write_json(images)
    unknown = {**ids, "train": ["train/0", ids["train"][1], "train/2", "train/3"]}
    unknown["train"] += ids["train"][4:]
    expect(folder, coco_files.read_folder(folder.base), unknown)
    folder = CocoFolder(tmp_path / "json")
    folder.write_json()
    for name in SPLITS.values():
        folder.text(name).unlink()
    expect(folder, coco_files.read_folder(folder.base), ids)  # in place of the texts


def replace_line(folder, split, number, line):
    lines = [text.encode() for text in folder.captions[split]]
    lines[number - 1] = line
    return folder.write_captions(split, b"\n".join(lines) + b"\n")


def change_row(folder, split, row, value):
    rows = np.repeat(folder.features[split], folder.each, axis=0)
    rows[row] = value
    folder.write_features(split, rows)


def change_image(folder, number, **changes):
    images = folder.images()
    images[number] |= changes
    folder.write_json(images)


def truncate(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


def one_more_row(folder, split):
    folder.write_features(split, np.ones((len(folder.features[split]) + 1, 4096), np.float32))


def no_sentence(tokens):
    return [{"tokens": tokens}] + [{"tokens": ["a"]}] * 4


BAD = {  # what is done to a folder; parts of the message
    "not a multiple of 5": (
        lambda f: f.write_captions("val", b"a dog\n" * 14),
        ["val.txt line 14", "5 for each image", "take the published file"],
    ),
    "rows are neither": (
        lambda f: one_more_row(f, "test"),
        ["test.npy: 5 rows", "20 captions in", "test.txt", "each image, 4", "one release"],
    ),
    "width": (
        lambda f: f.write_features("val", np.ones((3, 512), np.float32)),
        ["val.npy: shape (3, 512)", "width 4096", "extract"],
    ),
    "integers": (
        lambda f: f.write_features("val", np.ones((3, 4096), np.int32)),
        ["val.npy: dtype int32", "floating point"],
    ),
    "objects": (
        lambda f: f.write_features("val", np.ones((3, 4096), object)),
        ["val.npy: dtype object", "floating point"],
    ),
    "NaN": (
        lambda f: change_row(f, "train", 4, np.nan),
        ["train.npy row 4 (from 0)", "NaN or an infinity"],
    ),
    "infinity": (
        lambda f: change_row(f, "train", 6, np.inf),
        ["train.npy row 6 (from 0)", "NaN or an infinity"],
    ),
    "zeros": (lambda f: change_row(f, "test", 3, 0), ["test.npy row 3 (from 0)", "all zeros"]),
    "negative": (
        lambda f: change_row(f, "test", 2, -1),
        ["test.npy row 2 (from 0)", "negative", "after ReLU"],
    ),
    "empty caption": (
        lambda f: replace_line(f, "train", 8, b"  "),
        ["train.txt line 8: an empty line", "expected a caption"],
    ),
    "not UTF-8": (
        lambda f: replace_line(f, "train", 9, b"a caf\xe9 here"),
        ["train.txt line 9: byte 6 is b'\\xe9'", "not UTF-8", "convert"],
    ),
    "HTML": (
        lambda f: f.write_captions("test", b"<html>\n" * 20),
        ["test.txt line 1", "HTML page", "expected captions"],
    ),
    "truncated": (
        lambda f: truncate(f.npy("test"), 1000),
        ["test.npy byte 1000: the file is truncated", "for 4 rows"],
    ),
    "truncated head": (lambda f: truncate(f.npy("test"), 4), ["test.npy: no array of NumPy"]),
    "longer": (
        lambda f: f.npy("test").write_bytes(f.npy("test").read_bytes() + b"\0"),
        ["test.npy byte 65664", "longer than it says", "for 4 rows"],
    ),
    "missing": (
        lambda f: (f.npy("val").unlink(), f.text("test").unlink()),
        ["images/10crop/val.npy, test.txt not found", "expected these files"],
    ),
    "no features": (
        lambda f: [f.npy(split).unlink() for split in SPLITS.values()],
        ["no features found", "expected these files"],
    ),
    "a split twice": (
        lambda f: (f.base / "dev.txt").write_bytes(b""),
        ["val.txt and dev.txt are both there", "remove the other"],
    ),
    "two layouts": (
        lambda f: CocoFolder(f.base, "vse"),
        ["two layouts, order-embedding and vse", "elsewhere"],
    ),
    "unknown split": (
        lambda f: change_image(f, 3, split="trian"),
        ["dataset_coco.json images[3]: split 'trian'", "train, restval, val, test"],
    ),
    "image in two splits": (
        lambda f: change_image(f, 8, cocoid=5001),
        ["dataset_coco.json images[8]: the image 5001 of split 'val' stands in 'train' already"],
    ),
    "too few sentences": (
        lambda f: change_image(f, 1, sentences=[{"tokens": ["a"]}]),
        ["dataset_coco.json images[1]: 1 sentences", "at least 5"],
    ),
    "no tokens": (
        lambda f: change_image(f, 1, sentences=no_sentence([])),
        ["dataset_coco.json images[1]: sentence 0 has no tokens"],
    ),
    "no key": (lambda f: f.write_json([{"split": "train"}]), ["images[0]", "KeyError"]),
    "no json": (lambda f: f.write_json(content="{"), ["dataset_coco.json: cannot be read as JSON"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_refusals(tmp_path, refused, bad):
    folder = CocoFolder(tmp_path / "coco")
    change, parts = BAD[bad]
    change(folder)
    message = refused(CaptionedImages, folder.base)
    assert all(part in message for part in parts), message


def test_a_repeated_row_that_differs_is_refused(tmp_path, refused):
    folder = CocoFolder(tmp_path / "coco", "vse", each=5)
    change_row(folder, "val", 8, 2.0)
    message = refused(CaptionedImages, folder.base)
    assert "coco_dev_ims.npy row 8 (from 0): differs from the first of its 5" in message


def test_no_folder(refused):
    assert "no folder was given" in refused(CaptionedImages, None)


def test_too_few_images_for_the_folds(tmp_path):
    folder = CocoFolder(tmp_path)
    coco_files.refuse_fewer(folder.base, {"validation": 3, "test": 4})
    with pytest.raises(DataError, match=r"test\.txt: 4 images.*at least 5 for the folds"):
        coco_files.refuse_fewer(folder.base, {"validation": 3, "test": 5})
    folder.write_json()
    for split in SPLITS.values():
        folder.text(split).unlink()
    with pytest.raises(DataError, match=r"val\.npy: 3 images.*at least 4 for the folds"):
        coco_files.refuse_fewer(folder.base, {"validation": 4})


def test_prepared(tmp_path):
    folder, cache = CocoFolder(tmp_path / "coco", each=5), tmp_path / "cache"
    prepared = prepare(CaptionedImages, "real", manual_dir=folder.base, cache=cache)
    assert {split: len(records) for split, records in prepared.splits.items()} == {
        "train": 7,
        "validation": 3,
        "test": 4,
    }
    lengths = [len(line.split()) for line in folder.captions["train"]]
    expected = {"images": 7, "tokens": sum(lengths), "max_tokens": max(lengths)}
    assert prepared.statistics == expected
    for split, name in SPLITS.items():
        records, features = prepared.splits[split], open_features(prepared, folder.base, split)
        assert [tuple(captions_of(record)) for record in records] == fives(folder.captions[name])
        assert not any("image" in record for record in records)
        assert isinstance(features, np.memmap) and not features.flags.writeable
        np.testing.assert_array_equal(features[rows_of(records)], folder.features[name])
    # Other features are another set, even where captions, sizes and times are the same.
    status = folder.npy("test").stat()
    change_row(folder, "test", slice(0, 5), 2.0)
    os.utime(folder.npy("test"), ns=(status.st_atime_ns, status.st_mtime_ns))
    other = prepare(CaptionedImages, "real", manual_dir=folder.base, cache=tmp_path / "other")
    assert other.digest != prepared.digest


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LNJAX_DATA_DIR", str(tmp_path / "cache"))
    folder = CocoFolder(tmp_path / "coco", "vse")
    arguments = ["--task", "captioned_images", "--config", "real"]
    arguments += ["--manual_dir", str(folder.base)]
    assert command.main(["check", *arguments]) == 0
    assert not (tmp_path / "cache").exists()
    checked = capsys.readouterr().out
    assert command.main(["prepare", *arguments]) == 0
    assert capsys.readouterr().out == checked
    assert [line.split() for line in checked.splitlines()[1:]] == [
        ["train", "7", "expected", "113287", "(-113280)"],
        ["validation", "3", "expected", "5000", "(-4997)"],
        ["test", "4", "expected", "5000", "(-4996)"],
    ]
    truncate(folder.npy("train"), 1000)
    assert command.main(["check", *arguments]) == 2
    assert "coco_train_ims.npy byte 1000" in capsys.readouterr().err


def test_no_more_than_a_piece_is_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((2000, 4096), np.float32))  # 33 MB
    monkeypatch.setattr(coco_files, "_ROWS", 64)
    tracemalloc.start()
    try:
        assert len(list(coco_files.check_rows(path, 1))) == 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6


def test_ids_by_captions():
    one, two = (karpathy_json.Image(name, ("a", "b")) for name in ("1", "2"))
    other = karpathy_json.Image("3", ("c",))
    ids = karpathy_json.ids_by_captions({"train": [one, other], "test": [two]})
    assert ids == {("a", "b"): None, ("c",): "3"}


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4096",  # TokenError
        b"(" * 9000,  # deeper than Python reads
        b"{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (4, 4096)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 4096)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4096)}",
        b"__import__('os').system('touch executed')",
    ],
)
def test_heads_of_arrays(tmp_path, refused, header):
    folder = CocoFolder(tmp_path / "coco")
    path = folder.npy("test")
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path.write_bytes(content + path.read_bytes()[128:])
    assert str(path) in refused(CaptionedImages, folder.base)


@pytest.mark.parametrize(
    "content",
    [
        '{"images": ' + "[" * 100_000,
        '{"images": null}',
        '{"images": {"a": 1}}',
        '{"images": 3}',
        '{"images": [{"split": ["train"], "cocoid": 1, "sentences": []}]}',
        '{"images": [{"split": "train", "cocoid": {"a": 1}, "sentences": []}]}',
        '{"images": [{"split": "train", "cocoid": 1, "sentences": [{"tokens": "a dog"}]}]}',
    ],
)
def test_json_of_other_types(tmp_path, refused, content):
    folder = CocoFolder(tmp_path / "coco")
    assert "dataset_coco.json" in (path := str(folder.write_json(content=content)))
    assert path in refused(CaptionedImages, folder.base)


def test_captions_that_are_a_bomb(tmp_path, refused):
    folder = CocoFolder(tmp_path / "coco")
    path = folder.write_captions("train", gzip.compress(b"a\n" * (1 << 20)) * 3)
    assert f"{path}: more than" in refused(CaptionedImages, folder.base)

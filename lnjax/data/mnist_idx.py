"""The four idx files of MNIST, or of Fashion-MNIST, as users have them on disk; or one refusal.

An idx file is a big-endian header (a magic number, the number of items, for images also rows and
columns) and one byte a value. Each of the two sets exists in one version only: the unpacked files
must be the published ones. Nothing here writes.
"""

import hashlib
import math
import struct
from pathlib import Path

import numpy as np

from lnjax.data import source_files
from lnjax.data.errors import DataError

NUM_IMAGES = {"train": 60_000, "test": 10_000}
NUM_VALIDATION = 5_000  # the last images of the training files
SPLITS = {"train": 55_000, "validation": 5_000, "test": 10_000}
MAGIC = {"images": 2051, "labels": 2049}
SHAPE = {"images": (28, 28), "labels": ()}  # of one item
MAX_LABEL = 9
FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
# SHA-256 of the unpacked files in the order of FILES; packed ones differ from mirror to mirror.
PUBLISHED = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
_CURE = "download this file again"


def read_folder(manual_dir: Path | None, name: str) -> dict[str, dict[str, np.ndarray]]:
    """Reads and checks the four files.

    Args:
        manual_dir: the folder of the files, or its parent with a folder `name` in it. A file may be
            packed by gzip; where both are there, the unpacked one is read.
        name: the set, a key of `PUBLISHED`.

    Returns: by split `image` (N, 28, 28, 1) uint8 and `label` (N,) int64; "validation" holds the
        last `NUM_VALIDATION` of the training files.
    Raises: DataError for the first thing that cannot be used.
    """
    paths = find_files(manual_dir, name)
    read = {split: _read_split(split, paths, name) for split in NUM_IMAGES}
    border = NUM_IMAGES["train"] - NUM_VALIDATION
    return {
        "train": {field: rows[:border] for field, rows in read["train"].items()},
        "validation": {field: rows[border:] for field, rows in read["train"].items()},
        "test": read["test"],
    }


def source_key(manual_dir: Path | None, name: str) -> str:
    """Identifies the four files without reading them, see `source_files.key`.

    Raises: DataError if one of them is missing.
    """
    paths = list(find_files(manual_dir, name).values())
    return source_files.key(paths[0].parent, paths)


def find_files(manual_dir: Path | None, name: str) -> dict[tuple[str, str], Path]:
    """The path of each of `FILES`.

    Raises: DataError that names all that are missing.
    """
    tree = "\n  ".join(
        [f"<folder>/  (or <folder>/{name}/)", *(f"{file}[.gz]" for file in FILES.values())]
    )
    if manual_dir is None:
        raise DataError(
            f"{name}: no folder was given (in training: --config.data_dir); expected the one of "
            f"these files:\n{tree}"
        )
    base = manual_dir / name if (manual_dir / name).is_dir() else manual_dir
    paths = {
        part: path
        for part, file in FILES.items()
        for path in (base / f"{file}.gz", base / file)  # the later one wins
        if path.is_file()
    }
    missing = [file for part, file in FILES.items() if part not in paths]
    if missing:
        raise DataError(f"{base}: {', '.join(missing)} not found; expected these files:\n{tree}")
    return {part: paths[part] for part in FILES}


def _read_split(split: str, paths: dict[tuple[str, str], Path], name: str) -> dict[str, np.ndarray]:
    """The images and labels of one pair of files."""
    limit = 16 + max(NUM_IMAGES.values()) * math.prod(SHAPE["images"]) + 1
    contents = {kind: source_files.read(paths[split, kind], limit) for kind in MAGIC}
    images, labels = (parse(paths[split, kind], contents[kind], kind) for kind in MAGIC)
    if len(images) != len(labels):
        raise DataError(
            f"{paths[split, 'labels']} byte 4: {len(labels)} labels for the {len(images)} images "
            f"of {paths[split, 'images'].name}; expected one for each; {_CURE}"
        )
    if len(images) != NUM_IMAGES[split]:
        (other,) = NUM_IMAGES.keys() - {split}
        hint = f" as in the {other} files: are they exchanged?" * (len(images) == NUM_IMAGES[other])
        raise DataError(
            f"{paths[split, 'images']} byte 4: {len(images)} images{hint}; expected "
            f"{NUM_IMAGES[split]}; {_CURE}"
        )
    for kind, content in contents.items():
        _refuse_another_set(paths[split, kind], content, name, (split, kind))
    return {"image": images[..., None], "label": labels.astype(np.int64)}


def parse(path: Path, content: bytes, kind: str) -> np.ndarray:
    """The items of one file: images (N, 28, 28) uint8 or labels (N,) uint8.

    Args:
        path: named in errors.
        content: of the file, unpacked.
        kind: "images" or "labels".

    Raises: DataError with the byte for a wrong magic number or shape, a size that the header does
        not account for, a label above 9, an image of one grey level.
    """
    shape, magic = SHAPE[kind], MAGIC[kind]
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        raise DataError(
            f"{path} byte 0: magic number {found}{_explain_magic(content)}; expected {magic}, "
            f"{kind}; {_CURE}"
        )
    start = 8 + 4 * len(shape)
    if len(content) < start:
        raise DataError(
            f"{path} byte {len(content)}: the file ends in its header; expected {start} bytes of "
            f"it; {_CURE}"
        )
    number, *sides = struct.unpack(f">{1 + len(shape)}I", content[4:start])
    if tuple(sides) != shape:
        raise DataError(
            f"{path} byte 8: images of {sides[0]} x {sides[1]}; expected {shape[0]} x {shape[1]}; "
            f"{_CURE}"
        )
    if number == 0:
        raise DataError(f"{path} byte 4: the header says 0 {kind}; expected some; {_CURE}")
    end = start + number * math.prod(shape)
    if len(content) < end:
        raise DataError(
            f"{path} byte {len(content)}: the file ends here; expected {end} bytes, its header "
            f"says {number} {kind}; {_CURE}"
        )
    if len(content) > end:
        raise DataError(
            f"{path} byte {end}: more bytes after the last of {number} {kind}; expected the end "
            f"of the file; {_CURE}"
        )
    values = np.frombuffer(content, np.uint8, offset=start).reshape(number, *shape)
    if kind == "labels":
        bad, what = values > MAX_LABEL, f"expected at most {MAX_LABEL}"
    else:
        bad = values.min((1, 2)) == values.max((1, 2))
        what = "in every pixel; expected a picture"
    if bad.any():
        place = int(bad.argmax())
        first = start + place * math.prod(shape)
        raise DataError(
            f"{path} record {place + 1} (byte {first}): {kind[:-1]} {content[first]}"
            f"{'' if shape else ';'} {what}; {_CURE}"
        )
    return values


def _explain_magic(content: bytes) -> str:
    found = int.from_bytes(content[:4], "little")
    if found in MAGIC.values():
        return f" (little-endian {found}: the header must be big-endian)"
    other = {number: kind for kind, number in MAGIC.items()}.get(int.from_bytes(content[:4], "big"))
    return (
        f", {other} (are images and labels exchanged?)"
        if other
        else source_files.looks_like(content)
    )


def _refuse_another_set(path: Path, content: bytes, name: str, part: tuple[str, str]) -> None:
    digest = hashlib.sha256(content).hexdigest()
    place = list(FILES).index(part)
    if digest == PUBLISHED[name][place]:
        return
    other = next((other for other, of_set in PUBLISHED.items() if digest in of_set), None)
    what = f"this is the file of {other}" if other else f"SHA-256 {digest}"
    raise DataError(
        f"{path}: {what}; expected {FILES[part]} of {name} as it was published (unpacked: "
        f"{PUBLISHED[name][place]}); give the folder of {name} or {_CURE}"
    )

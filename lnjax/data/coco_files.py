"""COCO captions with features of their images, as published: files in two layouts, or one refusal.

Five captions belong to an image, and the order of the rows is all that links the two:

    train.txt val.txt test.txt        images/10crop/{train,val,test}.npy     (order-embedding)
    coco_{train,dev,test}_caps.txt    coco_{train,dev,test}_ims.npy          (vse)

A line of text is a caption, cut into tokens by spaces; five lines after each other are of one
image. A row of features is of an image, or is repeated for each of its captions. `dev` and `val`
mean the same. In place of the texts may stand Karpathy's dataset_coco.json, see `karpathy_json`.

Features are read through memory maps, a piece at a time: they may be larger than the memory.
Nothing here writes.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lnjax.data import karpathy_json, source_files
from lnjax.data.errors import DataError
from lnjax.data.karpathy_json import NUM_CAPTIONS

NUM_IMAGES = {"train": 113_287, "validation": 5_000, "test": 5_000}  # train with restval
WIDTH = 4096  # of VGG's layer fc7
JSON = "dataset_coco.json"
NAMES = {"train": ("train",), "validation": ("val", "dev"), "test": ("test",)}
LAYOUTS: Mapping[str, tuple[str, tuple[str, ...]]] = {  # captions; features, by the split's name
    "order-embedding": ("{}.txt", ("images/10crop/{}.npy", "images/10crop/coco_{}.npy")),
    "vse": ("coco_{}_caps.txt", ("coco_{}_ims.npy",)),
}
_TREE = """<folder>/  (or <folder>/coco/)
  train.txt val.txt test.txt images/10crop/{train,val,test}.npy
or
  coco_{train,dev,test}_caps.txt coco_{train,dev,test}_ims.npy
or dataset_coco.json in place of the .txt"""
LARGEST_TEXT = 1 << 26  # bytes of a file of captions, unpacked
MOST_LINES = 2_000_000
_ROWS = 1024  # looked at together


@dataclasses.dataclass(frozen=True)
class Files:
    """Where a published set lies; without `captions` they are in `json`."""

    base: Path
    features: Mapping[str, Path]  # by split
    captions: Mapping[str, Path]
    json: Path | None

    def all(self) -> list[Path]:
        found = [*self.features.values(), *self.captions.values()]
        return found if self.json is None else [*found, self.json]


def read_folder(manual_dir: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Reads the captions and checks every number of the features.

    Args:
        manual_dir: the folder of the files, or its parent with a folder `coco` in it.

    Returns: by split the images in the order of their rows: `captions`, five strings; `id`, COCO's
        if the json knows an image with these captions, else split/number; `row` of the features;
        `features_crc32` of that row as little-endian float32.
    Raises: DataError for the first thing that cannot be used.
    """
    files = find_files(manual_dir)
    known = {} if files.json is None else karpathy_json.read(files.json)
    if files.captions:
        groups = {split: read_captions(path) for split, path in files.captions.items()}
        ids = karpathy_json.ids_by_captions(known)
    else:
        groups = {split: [image.captions for image in images] for split, images in known.items()}
        ids = {}
    examples = {}
    for split, path in files.features.items():
        captions, rows = groups[split], open_rows(path)
        source = files.captions.get(split, files.json)
        each = rows_per_image(path, len(rows), len(captions), f"{source} for {split}")
        checksums = [*check_rows(path, each)]
        numbers = range(len(captions))
        if files.captions:
            names = [ids.get(captions[i]) or f"{split}/{i}" for i in numbers]
        else:
            names = [image.id for image in known[split]]
        examples[split] = [
            {
                "captions": captions[i],
                "id": names[i],
                "row": each * i,
                "features_crc32": checksums[i],
            }
            for i in numbers
        ]
    return examples


def source_key(manual_dir: Path | None) -> str:
    """Identifies the files without reading them, see `source_files.key`.

    Raises: DataError if one of them is missing.
    """
    files = find_files(manual_dir)
    return source_files.key(files.base, files.all())


def open_features(manual_dir: Path | None, split: str) -> np.ndarray:
    """The features of a split as a read-only memory map (rows, WIDTH).

    Raises: DataError if a file is missing or no such array.
    """
    return open_rows(find_files(manual_dir).features[split])


def refuse_fewer(manual_dir: Path | None, least: Mapping[str, int]) -> None:
    """Looks for splits that are too small before all is read: at rows, and at lines of captions.

    Args:
        least: images that a split must have.

    Raises: DataError for the first split with fewer.
    """
    files = find_files(manual_dir)
    for split, number in least.items():
        path = files.captions.get(split, files.features[split])
        found = len(open_rows(files.features[split]))
        if split in files.captions:
            found = min(found, len(read_captions(path)))
        if found < number:
            raise too_few(path, split, found, number)


def too_few(place: object, split: str, found: int, least: int) -> DataError:
    """The error for a split that is smaller than the folds that were asked for."""
    return DataError(
        f"{place}: {found} images of the split {split!r}; expected at least {least} for the folds "
        "of the evaluation; take the whole published split, or ask for fewer or smaller folds "
        "(in training: --config.fold_images, --config.test_folds)"
    )


def find_files(manual_dir: Path | None) -> Files:
    """The files of the one layout that is there.

    Raises: DataError that names all that are missing, or what stands there twice.
    """
    if manual_dir is None:
        raise DataError(
            "coco: no folder was given (in training: --config.data_dir); expected the one of these "
            f"files:\n{_TREE}"
        )
    inside = manual_dir / "coco"
    base = inside if inside.is_dir() else manual_dir
    found = {}
    for layout, (text, arrays) in LAYOUTS.items():
        captions = {split: _one(base, names, [text]) for split, names in NAMES.items()}
        features = {split: _one(base, names, arrays) for split, names in NAMES.items()}
        if any(features.values()):
            found[layout] = (captions, features)
    if not found:
        raise DataError(f"{base}: no features found; expected these files:\n{_TREE}")
    if len(found) > 1:
        raise DataError(
            f"{base}: features in two layouts, {' and '.join(found)}; expected one; move the files "
            "of the other elsewhere"
        )
    ((layout, (captions, features)),) = found.items()
    json = base / JSON if (base / JSON).is_file() else None
    text, (array, *_) = LAYOUTS[layout]
    wanted = [(array, features)]
    if any(captions.values()) or json is None:
        wanted.append((text, captions))
    missing = [
        pattern.format(NAMES[split][0 if layout == "order-embedding" else -1])
        for pattern, paths in wanted
        for split, path in paths.items()
        if path is None
    ]
    if missing:
        raise DataError(f"{base}: {', '.join(missing)} not found; expected these files:\n{_TREE}")
    return Files(
        base,
        {split: path for split, path in features.items() if path},
        {split: path for split, path in captions.items() if path},
        json,
    )


def _one(base: Path, names: Sequence[str], patterns: Sequence[str]) -> Path | None:
    """The file of a split under any of its names; None if there is none."""
    paths = [base / pattern.format(name) for pattern in patterns for name in names]
    there = [path for path in paths if path.is_file()]
    if len(there) > 1:
        raise DataError(
            f"{base}: {there[0].relative_to(base)} and {there[1].relative_to(base)} are both there "
            "and mean the same split; expected one; remove the other"
        )
    return there[0] if there else None


def read_captions(path: Path) -> list[tuple[str, ...]]:
    """The captions of one split, five for each image, their tokens joined by one space.

    Raises: DataError with the line for text that is not UTF-8, an empty line, or lines that are no
        multiple of five.
    """
    content = source_files.read(path, LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT or content.count(b"\n") > MOST_LINES:
        raise DataError(
            f"{path}: more than {LARGEST_TEXT} bytes or {MOST_LINES} lines; expected the captions "
            "of one split, 31 MB in 566,435 lines at most; take the published file"
        )
    if kind := source_files.looks_like(content):
        raise DataError(f"{path} line 1: {content.lstrip()[:20]!r}{kind}; expected captions")
    lines = content.removesuffix(b"\n").split(b"\n")
    captions = []
    for place, line in enumerate(lines, start=1):
        try:
            caption = " ".join(line.decode("utf-8").split())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} line {place}: byte {error.start + 1} is "
                f"{line[error.start : error.end]!r}, not UTF-8; expected a caption in "
                "UTF-8; convert the file (as with iconv)"
            ) from error
        if not caption:
            raise DataError(
                f"{path} line {place}: an empty line; expected a caption: a line that is left out "
                "or added would give all that follow to other images; take the published file"
            )
        captions.append(caption)
    if len(captions) % NUM_CAPTIONS:
        raise DataError(
            f"{path} line {len(captions)}: the last of {len(captions)} captions; expected "
            f"{NUM_CAPTIONS} for each image, a multiple; take the published file"
        )
    return [tuple(captions[i : i + NUM_CAPTIONS]) for i in range(0, len(captions), NUM_CAPTIONS)]


def open_rows(path: Path) -> np.ndarray:
    """A .npy of features as a read-only memory map (rows, WIDTH) of floating point.

    Raises: DataError for anything else, and for a file that is shorter or longer than it says.
    """
    cure = "take the published file, or extract the features again"
    source_files.status_of(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = readers[version](file)
            head = file.tell()
    except Exception as error:  # NumPy reads the header as Python: it raises what that raises
        raise DataError(
            f"{path}: no array of NumPy ({error}); expected a .npy of features; {cure}"
        ) from error
    if dtype.kind != "f":
        raise DataError(f"{path}: dtype {dtype}; expected floating point, as float32; {cure}")
    if len(shape) != 2 or shape[1] != WIDTH:
        raise DataError(
            f"{path}: shape {shape}; expected rows of width {WIDTH} (layer fc7 of VGG-19); {cure}"
        )
    size, expected = path.stat().st_size, head + shape[0] * shape[1] * dtype.itemsize
    if size != expected:
        what = "truncated" if size < expected else "longer than it says"
        raise DataError(
            f"{path} byte {min(size, expected)}: the file is {what}, {size} bytes; expected "
            f"{expected} for {shape[0]} rows; {cure}"
        )
    return np.load(path, mmap_mode="r", allow_pickle=False)


def rows_per_image(path: Path, num_rows: int, num_images: int, captions: str) -> int:
    """1 if there is a row for each image, NUM_CAPTIONS if one for each caption.

    Raises: DataError if neither.
    """
    for each in (1, NUM_CAPTIONS):
        if num_rows == each * num_images:
            return each
    raise DataError(
        f"{path}: {num_rows} rows, but {num_images * NUM_CAPTIONS} captions in {captions}; "
        f"expected a row for each image, {num_images}, or for each caption; take both files of one "
        "release"
    )


def check_rows(path: Path, each: int) -> Iterator[int]:
    """Looks at every number; yields the CRC-32 of the row of each image.

    The file is mapped anew for each piece, so that no more than a piece of it is in memory.

    Args:
        each: rows that follow each other and must be the same.

    Raises: DataError with the row of a NaN, an infinity, a negative number or nothing but zeros,
        and of a repeated row that is not the same.
    """
    step = _ROWS * each
    for first in range(0, len(open_rows(path)), step):
        piece = np.asarray(open_rows(path)[first : first + step], np.dtype("<f4"))
        bad = ~np.isfinite(piece).all(axis=1)
        _refuse_row(path, first, bad, "holds a NaN or an infinity; expected finite numbers")
        _refuse_row(
            path,
            first,
            (piece < 0).any(axis=1),
            "holds a negative number; expected features behind the rectifier (fc7 after ReLU)",
        )
        zero = ~piece.any(axis=1)
        _refuse_row(path, first, zero, "is all zeros, without a direction; expected features")
        groups = piece.reshape(-1, each, piece.shape[1])
        differs = (groups != groups[:, :1]).any(axis=2).ravel()
        _refuse_row(
            path,
            first,
            differs,
            f"differs from the first of its {each}; expected one image's row, repeated",
        )
        yield from (zlib.crc32(row.tobytes()) for row in groups[:, 0])


def _refuse_row(path: Path, first: int, bad: np.ndarray | np.bool_, what: str) -> None:
    places = np.flatnonzero(bad)
    if places.size:
        raise DataError(
            f"{path} row {first + int(places[0])} (from 0): {what}; extract the features again"
        )

"""The binarized MNIST of Larochelle and Murray (2011): three .amat files, or one clear refusal.

A line of text is an image: 784 digits 0 or 1, row by row, with a space between two and a line feed
at the end, so every image has the same 1,568 bytes and a file is read without looking for lines.
The binarization was drawn once and published: the files must be these (a transposed or another
binarization has the same form). They are found under their own names, or under those that TFDS gave
them when it downloaded them. Nothing here writes.
"""

import base64
import hashlib
from pathlib import Path

import numpy as np

from lnjax.data import source_files
from lnjax.data.errors import DataError

NUM_IMAGES = {"train": 50_000, "validation": 10_000, "test": 10_000}
FILES = {
    "train": "binarized_mnist_train.amat",
    "validation": "binarized_mnist_valid.amat",
    "test": "binarized_mnist_test.amat",
}
PUBLISHED = {  # SHA-256, from the checksums of TensorFlow Datasets
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "validation": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
SIDE = 28
PIXELS = SIDE * SIDE
LINE = 2 * PIXELS  # bytes
_CURE = "download this file again"


def read_folder(manual_dir: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """Reads and checks the three files.

    Args:
        manual_dir: the folder of the files, or its parent with a folder `binarized_mnist` in it;
            also the `downloads` of TFDS.

    Returns: by split `image` (N, 28, 28, 1) uint8 of 0 and 1.
    Raises: DataError for the first thing that cannot be used.
    """
    columns, seen = {}, {}
    for split, path in find_files(manual_dir).items():
        content = source_files.read(path, max(NUM_IMAGES.values()) * LINE + 1)
        digest = hashlib.sha256(content).hexdigest()
        if digest in seen:
            raise DataError(
                f"{path}: the same file as {seen[digest].name}; expected the images of the "
                f"split {split!r}; {_CURE}"
            )
        seen[digest] = path
        images = parse(path, content, NUM_IMAGES[split])
        if digest != PUBLISHED[split]:
            raise DataError(
                f"{path}: SHA-256 {digest}; expected the published file, {PUBLISHED[split]}: "
                "these images are transposed, in another order or of another binarization; "
                f"{_CURE}"
            )
        columns[split] = {"image": images}
    return columns


def source_key(manual_dir: Path | None) -> str:
    """Identifies the three files without reading them, see `source_files.key`.

    Raises: DataError if one of them is missing.
    """
    paths = list(find_files(manual_dir).values())
    return source_files.key(paths[0].parent, paths)


def find_files(manual_dir: Path | None) -> dict[str, Path]:
    """The file of each split.

    Raises: DataError that names all that are missing.
    """
    tree = "\n  ".join(["<folder>/  (or <folder>/binarized_mnist/)", *FILES.values()])
    if manual_dir is None:
        raise DataError(
            "binarized_mnist: no folder was given (in training: --config.data_dir); expected the "
            f"one of these files:\n{tree}"
        )
    inside = manual_dir / "binarized_mnist"
    base = inside if inside.is_dir() else manual_dir
    paths = {split: _find(base, split) for split in FILES}
    missing = [FILES[split] for split, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{base}: {', '.join(missing)} not found; expected these files:\n{tree}")
    return {split: path for split, path in paths.items() if path is not None}


def _find(base: Path, split: str) -> Path | None:
    """The file of a split; where both are there, the one under its own name."""
    # TFDS names what it downloads by the shortened address and the digest of the content.
    digest = base64.urlsafe_b64encode(bytes.fromhex(PUBLISHED[split])).decode().rstrip("=")
    found = (base / FILES[split], *sorted(base.glob(f"*{digest}.amat")))
    return next((path for path in found if path.is_file()), None)


def parse(path: Path, content: bytes, number: int) -> np.ndarray:
    """The images of one file, (number, 28, 28, 1) uint8 of 0 and 1.

    Raises: DataError with the line for anything but `number` lines of 784 digits, and for an image
        without a 1.
    """
    if len(content) != number * LINE:
        raise _refusal(path, content, number)
    table = np.frombuffer(content, np.uint8).reshape(number, PIXELS, 2)
    ends = np.full(PIXELS, ord(" "), np.uint8)
    ends[-1] = ord("\n")
    images = table[:, :, 0] - np.uint8(ord("0"))  # wraps around for bytes below "0"
    if images.max() > 1 or (table[:, :, 1] != ends).any():
        raise _refusal(path, content, number)
    empty = ~images.any(axis=1)
    if empty.any():
        raise DataError(
            f"{path} line {empty.argmax() + 1}: 784 zeros; expected a digit, with some pixels 1; "
            f"{_CURE}"
        )
    return images.reshape(number, SIDE, SIDE, 1)


def _refusal(path: Path, content: bytes, number: int) -> DataError:
    """The error for the first line of a file that is not as it must be."""
    if kind := source_files.looks_like(content):
        return DataError(
            f"{path} line 1: begins with {content.lstrip()[:20]!r}{kind}; expected digits; {_CURE}"
        )
    ended = content.endswith(b"\n")
    found = content.count(b"\n") + (not ended)
    # No more lines than are wanted are cut out: there may be one for each byte of the file.
    for place, line in enumerate(content.split(b"\n", number)[: min(found, number)], start=1):
        if what := _explain(line, truncated=place == found and not ended):
            return DataError(
                f"{path} line {place}: {what}; expected {PIXELS} digits 0 or 1 with one space "
                f"between two; {_CURE}"
            )
    place = found
    if place > number:
        place, what = number + 1, "one line more"
    elif place < number:
        what = "the last line of the file"
    else:
        what = "no line feed at its end, truncated"
    same = [split for split, other in NUM_IMAGES.items() if other == found != number]
    what += f" (it has as many as that of the split {same[0]!r})" if same else ""
    return DataError(
        f"{path} line {place}: {what}; expected {number} lines of {LINE} bytes; {_CURE}"
    )


def _explain(line: bytes, *, truncated: bool) -> str:
    """What is wrong with a line, "" if nothing is."""
    if not line.strip():
        return "an empty line"
    if line.endswith(b"\r"):
        return "a carriage return at its end (DOS line ends)"
    for separator, name in ((b"\t", "a tab"), (b",", "a comma")):
        if separator in line:
            return f"{name} as byte {line.index(separator) + 1} of the line"
    values = line.split()
    for place, value in enumerate(values, start=1):
        if value not in (b"0", b"1"):
            shown = value[:20].decode("latin-1")
            grey = value.isdigit() and 1 < int(value[:9]) < 256
            hint = " (a grey level: this file is not binarized)" if grey else ""
            return f"value {place} is {shown!r}{hint}"
    if len(values) != PIXELS:
        return f"{len(values)} values" + (", the file is truncated" if truncated else "")
    if other := line.translate(None, b"01 "):
        return f"{other[:1]!r} as byte {line.index(other[:1]) + 1} of the line"
    if len(line) != LINE - 1:
        return f"{len(line) - LINE + 1} more spaces than separate its values"
    return ""

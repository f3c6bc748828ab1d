"""Karpathy's dataset_coco.json: which images there are, in which split, with which captions.

    {"images": [{"split": "train", "cocoid": 57870, "sentences": [{"tokens": ["a", ...]}, ...]}]}

Images are read in the order of the file; `restval` belongs to train. Of an image with more than
five captions the first five are taken, as the published ones are made.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lnjax.data import source_files
from lnjax.data.errors import DataError

NUM_CAPTIONS = 5
LARGEST = 1 << 29  # bytes; the published file has 144 MB
SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
_CURE = "take the published dataset_coco.json"


class Image(NamedTuple):
    """One image of the file."""

    id: str
    captions: tuple[str, ...]  # their tokens joined by a space


def read(path: Path) -> dict[str, list[Image]]:
    """By split the images in the order of the file.

    Raises: DataError for the first image that cannot be used, by its number in the file.
    """
    source_files.refuse_larger(path, LARGEST)
    try:
        with path.open(encoding="utf-8") as file:
            images = json.load(file)["images"]
        if not isinstance(images, list):
            raise TypeError(f"images is a {type(images).__name__}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON with a list of images ({error!r}); {_CURE}"
        ) from error
    by_split: dict[str, list[Image]] = {split: [] for split in SPLITS.values()}
    split_of: dict[str, str] = {}
    for number, image in enumerate(images):
        place = f"{path} images[{number}]"
        try:
            split, image_id = str(image["split"]), image.get("cocoid", image.get("imgid"))
            tokens = [sentence["tokens"] for sentence in image["sentences"]]
            if type(image_id) is not int or not all(isinstance(each, list) for each in tokens):
                raise TypeError("an id that is no integer, or tokens that are no list")
            image_id, captions = str(image_id), [" ".join(each) for each in tokens]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{place}: {error!r}; expected split, cocoid and sentences with tokens; {_CURE}"
            ) from error
        if split not in SPLITS:
            raise DataError(
                f"{place}: split {split!r}; expected one of {', '.join(SPLITS)}; {_CURE}"
            )
        if image_id in split_of:
            raise DataError(
                f"{place}: the image {image_id} of split {split!r} stands in "
                f"{split_of[image_id]!r} already; expected every image once; {_CURE}"
            )
        split_of[image_id] = split
        _check_captions(place, captions)
        by_split[SPLITS[split]].append(Image(image_id, tuple(captions[:NUM_CAPTIONS])))
    return by_split


def _check_captions(place: str, captions: Sequence[str]) -> None:
    if len(captions) < NUM_CAPTIONS:
        raise DataError(
            f"{place}: {len(captions)} sentences; expected at least {NUM_CAPTIONS}; {_CURE}"
        )
    empty = [i for i, caption in enumerate(captions[:NUM_CAPTIONS]) if not caption.strip()]
    if empty:
        raise DataError(f"{place}: sentence {empty[0]} has no tokens; expected a caption; {_CURE}")


def ids_by_captions(by_split: Mapping[str, Sequence[Image]]) -> dict[Any, str | None]:
    """The id of the image with these captions; None if several have them."""
    ids: dict[Any, str | None] = {}
    for images in by_split.values():
        for image in images:
            ids[image.captions] = None if image.captions in ids else image.id
    return ids

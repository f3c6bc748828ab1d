"""Images with five captions each: COCO with published features, or embedded scenes of digits.

Record: `captions`, five lines of tokens with spaces between; `id`; of a scene `image` (56, 56, 1)
uint8, its pixels; `row`, the place of its features, and `features_crc32` of that row as
little-endian float32, so that the digest of the set covers the features too. They are no part of a
record: `open_features` has them, those of COCO (1.9 GB) left on
the disk. What is printed from the config `embedded` carries that name: scenes composed of real
digits, with made captions, are no measure of COCO.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lnjax.data import coco_files, embedded_scenes
from lnjax.data.builder import Builder, Example, Source
from lnjax.data.errors import DataError
from lnjax.data.labelled_images import image_feature
from lnjax.data.preparation import Prepared


class CaptionedImages(Builder):
    """Captions and images; open them with `lnjax.data.prepare(CaptionedImages, "embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="embedded", description="2 x 2 scenes of real digits."),
        tfds.core.BuilderConfig(name="real", description="COCO, Karpathy's splits, VGG features."),
    )
    EXPECTED: ClassVar = {"embedded": embedded_scenes.NUM_SCENES, "real": coco_files.NUM_IMAGES}

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "captions": tfds.features.Text(),
            "id": tfds.features.Text(),
            "row": tfds.features.Scalar(dtype=np.int64),
            "features_crc32": tfds.features.Scalar(dtype=np.int64),
        }
        if self.builder_config.name == "embedded":
            features["image"] = image_feature(embedded_scenes.SHAPE)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # records keep the order of the source
        )

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return "" if config_name == "embedded" else coco_files.source_key(manual_dir)

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            source = {split: _scenes(split, of) for split, of in embedded_scenes.make().items()}
        else:
            source = coco_files.read_folder(manual_dir)
        return {
            split: [{**example, "captions": "\n".join(example["captions"])} for example in examples]
            for split, examples in source.items()
        }

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """`images`; `tokens` in all captions; `max_tokens` in one."""
        lengths = [len(line.split()) for example in train for line in captions_of(example)]
        return {"images": len(train), "tokens": sum(lengths), "max_tokens": max(lengths)}


def captions_of(example: Example) -> list[str]:
    """The captions of a record, their tokens separated by spaces."""
    return example["captions"].split("\n")


def rows_of(records: Sequence[Example]) -> np.ndarray:
    """Where the features of each record are: (N,) int64."""
    return np.array([record["row"] for record in records], np.int64)


def open_features(prepared: Prepared, manual_dir: Path | None, split: str) -> np.ndarray:
    """The features of a split by `row`: (rows, F) floating point, none negative.

    Args:
        prepared: of `CaptionedImages`.
        manual_dir: as it was for `prepare`. COCO's features are a memory map of its file.
        split: such as "train".

    Raises: DataError if a file is missing or no such array, or scenes have other features than
        when they were prepared.
    """
    if prepared.config == "real":
        return coco_files.open_features(manual_dir, split)
    records = prepared.splits[split]
    features = embedded_scenes.features(np.stack([record["image"] for record in records]))
    if _checksums(features) != [int(record["features_crc32"]) for record in records]:
        raise DataError(
            f"captioned_images/embedded, split {split!r}: this machine computes other features "
            "than the one that prepared the set; delete the prepared data and run again"
        )
    return features


def _scenes(split: str, scenes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    images = np.stack([scene["image"] for scene in scenes])
    checksums = _checksums(embedded_scenes.features(images))
    return [
        {**scene, "id": f"{split}/{row}", "row": row, "features_crc32": checksum}
        for row, (scene, checksum) in enumerate(zip(scenes, checksums, strict=True))
    ]


def _checksums(features: np.ndarray) -> list[int]:
    return [zlib.crc32(row.tobytes()) for row in features.astype("<f4", copy=False)]

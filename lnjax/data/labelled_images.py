"""The base of the sets of images in ten classes: one form of records, one kind of statistics.

Features: `image` (height, width, channels) uint8, `label` int64 scalar, 0 to 9.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lnjax.data.builder import Builder, Example

NUM_CLASSES = 10


def image_feature(shape: tuple[int, int, int]) -> tfds.features.Tensor:
    """Images as they are, uint8; stored as bytes, which is read faster than numbers."""
    return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)


class LabelledImages(Builder, skip_registration=True):
    """Images of one shape in ten classes; a subclass gives `SHAPE` and the source."""

    SHAPE: ClassVar[tuple[int, int, int]]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(
                {
                    "image": image_feature(self.SHAPE),
                    "label": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            disable_shuffling=True,  # records keep the order of the source
        )

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """`images`, their number, and `class_counts`, the images of each of the ten classes."""
        labels = [int(example["label"]) for example in train]
        return {
            "images": len(train),
            "class_counts": np.bincount(labels, minlength=NUM_CLASSES).tolist(),
        }

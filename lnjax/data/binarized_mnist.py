"""Binary handwritten digits: Larochelle and Murray's files, or the embedded digits, thresholded.

Feature: `image` (28, 28, 1) uint8 of 0 and 1. `real` is the fixed binarization that bounds are
published for: each pixel was drawn once with its grey level as probability. `embedded` is *not*
comparable with it: 5,000 images (the splits of `Digits`), a pixel 1 where its grey level is at
least 128, deterministically. What is printed from it carries its name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lnjax.data import amat, embedded_digits
from lnjax.data.builder import Builder, Example, Source
from lnjax.data.columns import unstacked
from lnjax.data.labelled_images import image_feature

THRESHOLD = 128


class BinarizedMnist(Builder, skip_registration=True):  # TFDS has one of this name
    """Binary digits; open them with `lnjax.data.prepare(BinarizedMnist, "embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="embedded", description="5,000 digits of MNIST's train set, >= 128."
        ),
        tfds.core.BuilderConfig(name="real", description="Larochelle and Murray's binarization."),
    )
    EXPECTED: ClassVar = {"embedded": embedded_digits.NUM_IMAGES, "real": amat.NUM_IMAGES}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict({"image": image_feature((28, 28, 1))}),
            disable_shuffling=True,  # records keep the order of the source
        )

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return "" if config_name == "embedded" else amat.source_key(manual_dir)

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            columns = {
                split: {"image": (of_split["image"] >= THRESHOLD).astype(np.uint8)}
                for split, of_split in embedded_digits.read().items()
            }
        else:
            columns = amat.read_folder(manual_dir)
        return {split: unstacked(of_split) for split, of_split in columns.items()}

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """`images`, their number, and `pixel_means`, for each of the 784 pixels, row by row, the
        share of images in which it is 1.

        A pixel can be 0 or 1 in all of them: as a probability take (images m + 1) / (images + 2).
        """
        total = np.sum([example["image"] for example in train], axis=0, dtype=np.int64)
        return {"images": len(train), "pixel_means": (total.ravel() / len(train)).tolist()}

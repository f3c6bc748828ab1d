"""Handwritten digits in ten classes: MNIST from the user's disk, or 5,000 of its images embedded.

Features: `image` (28, 28, 1) uint8, ink is 255; `label` int64 scalar. What is printed from the
config `embedded` carries that name: it is no measure of MNIST.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from lnjax.data import embedded_digits, mnist_idx
from lnjax.data.builder import Source
from lnjax.data.columns import unstacked
from lnjax.data.labelled_images import LabelledImages


class Digits(LabelledImages):
    """Digits; open them with `lnjax.data.prepare(Digits, "embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="embedded", description="5,000 digits of MNIST's train set."),
        tfds.core.BuilderConfig(name="real", description="MNIST, the last 5,000 for validation."),
    )
    SHAPE = (28, 28, 1)
    EXPECTED: ClassVar = {"embedded": embedded_digits.NUM_IMAGES, "real": mnist_idx.SPLITS}

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return "" if config_name == "embedded" else mnist_idx.source_key(manual_dir, "mnist")

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            columns = embedded_digits.read()
        else:
            columns = mnist_idx.read_folder(manual_dir, "mnist")
        return {split: unstacked(of_split) for split, of_split in columns.items()}

"""Fashion-MNIST from the user's disk: pictures of clothes in ten classes, in MNIST's form.

Features: `image` (28, 28, 1) uint8; `label` int64 scalar, 0 T-shirt to 9 ankle boot. There is no
embedded config.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from lnjax.data import mnist_idx
from lnjax.data.builder import Source
from lnjax.data.columns import unstacked
from lnjax.data.labelled_images import LabelledImages


class FashionMnist(LabelledImages, skip_registration=True):  # TFDS has one of this name
    """Clothes; open them with `lnjax.data.prepare(FashionMnist, "real", manual_dir=...)`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="real", description="Fashion-MNIST, the last 5,000 for validation."
        ),
    )
    SHAPE = (28, 28, 1)
    EXPECTED: ClassVar = {"real": mnist_idx.SPLITS}

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return mnist_idx.source_key(manual_dir, "fashion_mnist")

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        columns = mnist_idx.read_folder(manual_dir, "fashion_mnist")
        return {split: unstacked(of_split) for split, of_split in columns.items()}

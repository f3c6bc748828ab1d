"""CIFAR-10 from the user's disk: colour photographs in ten classes.

Features: `image` (32, 32, 3) uint8, red, green, blue; `label` int64 scalar, 0 airplane to 9 truck.
There is no embedded config: no package ships these images.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from lnjax.data import cifar_binary
from lnjax.data.builder import Source
from lnjax.data.columns import unstacked
from lnjax.data.labelled_images import LabelledImages


class Cifar10(LabelledImages, skip_registration=True):  # TFDS has one of this name
    """Photographs; open them with `lnjax.data.prepare(Cifar10, "real", manual_dir=...)`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="real", description="CIFAR-10, the last 5,000 for validation."
        ),
    )
    SHAPE = (32, 32, 3)
    EXPECTED: ClassVar = {"real": cifar_binary.SPLITS}

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return cifar_binary.source_key(manual_dir)

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        columns = cifar_binary.read_folder(manual_dir)
        return {split: unstacked(of_split) for split, of_split in columns.items()}

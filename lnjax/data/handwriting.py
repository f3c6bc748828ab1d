"""Handwriting with its text: IAM-OnDB from the user's disk, or lines written by a synthetic pen.

Features: `strokes` (T, 3) float32, rows [dx, dy, end of stroke] from one point to the next, y
downward; `text`, the characters as written; `id`; `writer`, "" if unknown. Offsets are raw:
subtract `offset_mean` and divide by `offset_std` of the statistics. What is printed from the config
`embedded` carries that name: it is no measure of IAM-OnDB.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lnjax.data import handwriting_lines, iam
from lnjax.data.builder import Builder, Example, Source


class Handwriting(Builder):
    """Handwriting; open it with `lnjax.data.prepare(Handwriting, "embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="embedded", description="World English Bible, Hershey script, synthetic pen."
        ),
        tfds.core.BuilderConfig(name="real", description="IAM-OnDB, one line of text a record."),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(
                {
                    "strokes": tfds.features.Tensor(shape=(None, 3), dtype=np.float32),
                    "text": tfds.features.Text(),
                    "id": tfds.features.Text(),
                    "writer": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,  # records keep the order of the source
        )

    EXPECTED: ClassVar = {"embedded": handwriting_lines.NUM_LINES, "real": iam.NUM_LINES}

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return "" if config_name == "embedded" else iam.source_key(manual_dir)

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            return handwriting_lines.write_all()
        return iam.read_tree(manual_dir)

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """Mean and standard deviation of (dx, dy) over all points; counts and greatest lengths."""
        offsets = np.concatenate([example["strokes"][:, :2] for example in train]).astype(
            np.float64
        )
        return {
            "offset_mean": offsets.mean(axis=0).tolist(),
            "offset_std": offsets.std(axis=0).tolist(),
            "lines": len(train),
            "points": len(offsets),
            "characters": sum(len(example["text"]) for example in train),
            "max_points": max(len(example["strokes"]) for example in train),
            "max_characters": max(len(example["text"]) for example in train),
        }

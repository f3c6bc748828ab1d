"""A data set of a few numbers: what preparation and pipeline do, without the cost of a real one."""

import os
import time
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from lnjax.data import DataError
from lnjax.data.builder import Builder

LENGTHS = {"train": 12, "test": 5}


def embedded_examples():
    return {
        split: [
            {"values": np.arange(i + 1, dtype=np.float32) + len(split), "name": f"{split} {i}"}
            for i in range(length)
        ]
        for split, length in LENGTHS.items()
    }


class ToyNumbers(Builder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="embedded", description="counted here"),
        tfds.core.BuilderConfig(name="real", description="read from numbers.txt"),
    )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "values": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                    "name": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    @classmethod
    def source_key(cls, config_name, manual_dir):
        if config_name == "embedded":
            return ""
        file = Path(manual_dir or "nowhere", "numbers.txt")
        if not file.is_file():
            raise DataError(f"{file}: not found; expected the numbers")
        return f"{file.stat().st_mtime_ns:020d}"[::-1]

    @classmethod
    def read_source(cls, config_name, manual_dir):
        if config_name == "embedded":
            # Long enough for several processes to meet here if nothing keeps them apart.
            time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
            if log := os.environ.get("TOY_LOG"):
                with open(log, "a") as file:
                    file.write("read\n")
            return embedded_examples()
        values = Path(manual_dir, "numbers.txt").read_text().split()
        if "bad" in values:
            raise DataError(f"{manual_dir}/numbers.txt line 1: found 'bad'; expected a number")
        example = {"values": np.array(values, np.float32), "name": "line"}
        return {"train": [example], "test": [example]}

    @classmethod
    def statistics(cls, train):
        return {"total": float(sum(example["values"].sum() for example in train))}

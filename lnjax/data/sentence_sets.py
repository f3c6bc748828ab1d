"""Sentences with labels as `lnjax.evaluation` takes them: sets of pairs and sets of two classes.

    sets = load("embedded")                  # or load("real", folder)
    sets["embedded/speech"].sentences        # "mr" and so on of the real ones

Sets of the user's own are made the same way: `ClassSet(sentences, labels)`.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lnjax.data.preparation import Prepared, prepare


class Pairs(NamedTuple):
    """N pairs of sentences."""

    first: list[str]
    second: list[str]
    scores: np.ndarray  # (N,) float64, relatedness from 1 to 5


class PairSet(NamedTuple):
    """Pairs to fit on, to stop by and to report."""

    train: Pairs
    trial: Pairs
    test: Pairs


class ClassSet(NamedTuple):
    """N sentences of two classes, without a split: for cross-validation."""

    sentences: list[str]
    labels: np.ndarray  # (N,) int64, 1 or 0; the published sets have all of class 1 first


SentenceSets = Mapping[str, PairSet | ClassSet]


def load(
    config_name: str,
    manual_dir: str | os.PathLike | None = None,
    *,
    cache: str | os.PathLike | None = None,
) -> dict[str, PairSet | ClassSet]:
    """Prepares the data set `senteval`, if need be, and opens it as sets.

    Args: as `lnjax.data.prepare`.

    Returns: by name: "sick", "mr", "cr", "subj", "mpqa" as far as there are files; the embedded
        sets as "embedded/relatedness", "embedded/speech" and so on.
    Raises: DataError as `lnjax.data.prepare`.
    """
    from lnjax.data.senteval import Senteval

    return from_prepared(prepare(Senteval, config_name, manual_dir=manual_dir, cache=cache))


def from_prepared(prepared: Prepared) -> dict[str, PairSet | ClassSet]:
    """The sets of a prepared data set `senteval`."""
    prefix = "embedded/" if prepared.config == "embedded" else ""
    sets: dict[str, PairSet | ClassSet] = {}
    for split in prepared.splits:
        name, part = split.rsplit("_", 1)
        if part == "train":
            train, trial, test = (
                _pairs(prepared, f"{name}_{part}") for part in ("train", "trial", "test")
            )
            sets[prefix + name] = PairSet(train, trial, test)
        elif part == "positive":
            records = [*prepared.splits[split], *prepared.splits[f"{name}_negative"]]
            labels = np.array([record["score"] for record in records]).astype(np.int64)
            sets[prefix + name] = ClassSet([record["sentence"] for record in records], labels)
    return sets


def _pairs(prepared: Prepared, split: str) -> Pairs:
    records = list(prepared.splits[split])
    return Pairs(
        [record["sentence"] for record in records],
        [record["other"] for record in records],
        # float32 in the records; ratings are published with three decimals at most
        np.round(np.array([record["score"] for record in records], np.float64), 4),
    )

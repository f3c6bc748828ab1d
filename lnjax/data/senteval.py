"""The sets on which sentence encoders are compared, from the user's disk, or embedded stand-ins.

`real`: SICK, MR, CR, SUBJ, MPQA; a set is there with all of its files or not at all, and one is
enough. `embedded`: sets of the same form with labels by rule, see `embedded_sentences`. A split is
a part of a set with published files (`sick_train`, `sick_trial`, `sick_test`) or a class
(`mr_positive`, `mr_negative`), so that counts can be compared with those of the publications.
Features: `sentence`; `other`, the second of a pair, else ""; `score`, the relatedness of a pair,
else 1 in the positive class and 0 in the negative. `sentence_sets` opens them as sets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lnjax.data import embedded_sentences, polarity, sick, source_files
from lnjax.data.builder import Builder, Example, Source
from lnjax.data.errors import DataError

FOLDERS = {"sick": "SICK", "mr": "MR", "cr": "CR", "subj": "SUBJ", "mpqa": "MPQA"}
PUBLISHED = {
    "sick_train": 4500,
    "sick_trial": 500,
    "sick_test": 4927,
    "mr_positive": 5331,
    "mr_negative": 5331,
    "cr_positive": 2406,  # these two sets circulate with a few sentences more or less
    "cr_negative": 1366,
    "subj_positive": 5000,
    "subj_negative": 5000,
    "mpqa_positive": 3316,
    "mpqa_negative": 7308,
}


class Senteval(Builder):
    """Sentences with labels; open them with `lnjax.data.sentence_sets.load("embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="embedded", description="World English and King James Bible, labels by rule."
        ),
        tfds.core.BuilderConfig(name="real", description="SICK, MR, CR, SUBJ, MPQA."),
    )
    EXPECTED: ClassVar = {"embedded": embedded_sentences.COUNTS, "real": PUBLISHED}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(
                {
                    "sentence": tfds.features.Text(),
                    "other": tfds.features.Text(),
                    "score": tfds.features.Scalar(np.float32),
                }
            ),
            disable_shuffling=True,  # records keep the order of the source
        )

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        if config_name == "embedded":
            return ""
        base, found = find_files(manual_dir)
        return source_files.key(base, [path for paths in found.values() for path in paths.values()])

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            pairs, classes = embedded_sentences.make()
        else:
            found = find_files(manual_dir)[1]
            pairs = {"sick": sick.read(found["sick"])} if "sick" in found else {}
            names = (name for name in found if name != "sick")
            classes = {name: polarity.read(name, found[name]) for name in names}
        splits = {}
        for name, parts in pairs.items():
            for part, rows in parts.items():
                splits[f"{name}_{part}"] = [
                    {"sentence": first, "other": second, "score": score}
                    for first, second, score in rows
                ]
        for name, sentences in classes.items():
            for label, score in (("positive", 1.0), ("negative", 0.0)):
                splits[f"{name}_{label}"] = [
                    {"sentence": sentence, "other": "", "score": score}
                    for sentence in sentences[label]
                ]
        return splits

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """None: no model is made for these sets."""
        return {}


def find_files(manual_dir: Path | None) -> tuple[Path, dict[str, dict[str, Path]]]:
    """The folder, and the files of each set that is there, by its splits or classes.

    Each file may also stand in a folder named after its set, as in SentEval's tree.

    Raises: DataError if there is no set, or a set lacks one of its files.
    """
    names = {"sick": {split: (file,) for split, file in sick.FILES.items()}, **polarity.FILES}
    if manual_dir is None:
        raise DataError(
            "senteval: no folder was given (in training: --config.data_dir); expected one with the "
            f"files of at least one set:\n{_tree(names)}"
        )
    inside = manual_dir / "senteval"
    base = inside if inside.is_dir() else manual_dir
    found, missing = {}, {}
    for name, parts in names.items():
        for part, known in parts.items():
            candidates = [
                folder / file for folder in (base, base / FOLDERS[name]) for file in known
            ]
            path = next((path for path in candidates if path.is_file()), None)
            if path is None:
                missing.setdefault(name, []).append(" or ".join(known))
            else:
                found.setdefault(name, {})[part] = path
    for name, parts in found.items():
        if name in missing:
            have = ", ".join(sorted(path.name for path in parts.values()))
            raise DataError(
                f"{base}: {FOLDERS[name]} has {have} but no {', no '.join(missing[name])}; "
                "expected all files of a set or none; copy the missing ones into that folder"
            )
    if not found:
        raise DataError(
            f"{base}: no set of sentences was found; expected the files of at least one:\n"
            f"{_tree(names)}"
        )
    return base, found


def _tree(names: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    lines = [", ".join(" or ".join(known) for known in parts.values()) for parts in names.values()]
    return "\n  ".join(["<folder>/  (or <folder>/senteval/)", *lines])

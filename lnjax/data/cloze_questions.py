"""Questions on a passage with one entity left out: the CNN questions, or those of two translators.

Features: `passage`, `question` (with one `@placeholder`), `answer` (`@entityN`), each as tokens in
lower case with a blank between, and `id`. Config `embedded` is `lnjax.data.two_translators`, `real`
the CNN questions from `.question` files, or, if there is no folder of these, from the pickles of
the public reader code, which have no test split. What is printed from `embedded` carries that name:
it is no measure of the CNN questions.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from lnjax.data import cnn_pickles, cnn_questions, source_files, two_translators
from lnjax.data.builder import Builder, Example, Source
from lnjax.data.errors import DataError


class ClozeQuestions(Builder):
    """Questions; open it with `lnjax.data.prepare(ClozeQuestions, "embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="embedded", description="World English Bible, asked by the King James Version."
        ),
        tfds.core.BuilderConfig(name="real", description="CNN questions, four sentences each."),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(
                dict.fromkeys(("passage", "question", "answer", "id"), tfds.features.Text())
            ),
            disable_shuffling=True,  # records keep the order of the source
        )

    EXPECTED: ClassVar = {
        "embedded": two_translators.NUM_QUESTIONS,
        "real": cnn_questions.NUM_QUESTIONS,
    }

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        if config_name == "embedded":
            return ""
        folder, pickled = _place(manual_dir)
        if pickled:
            return source_files.key(folder, cnn_pickles.files(folder))
        of_splits = cnn_questions.files(folder).values()
        return source_files.key(folder, (path for paths in of_splits for path in paths))

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            return two_translators.all_questions()
        folder, pickled = _place(manual_dir)
        if pickled:
            return cnn_pickles.read_tree(folder)
        found = cnn_questions.files(folder)
        return {split: cnn_questions.read_split(paths) for split, paths in found.items()}

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """Occurrences by word, questions, and the share of them whose answer is in the passage."""
        counts: Counter[str] = Counter()
        kept = 0
        for example in train:
            passage = example["passage"].split()
            counts.update(passage)
            counts.update(example["question"].split())
            kept += example["answer"] in passage
        return {
            "counts": dict(sorted(counts.items())),
            "questions": len(train),
            "answer_in_passage": kept / len(train),
        }


def _place(manual_dir: Path | None) -> tuple[Path, bool]:
    """The folder of `.question` files or that of pickles, and whether it is the latter."""
    if manual_dir is None:
        raise DataError(
            "cloze_questions/real: no folder was given (in training: --config.data_dir); expected "
            f"the one of the CNN questions:\n{cnn_questions.TREE}\nor\n{cnn_pickles.TREE}"
        )
    if (texts := cnn_questions.find(manual_dir)) is not None:
        return texts, False
    if (pickles := cnn_pickles.find(manual_dir)) is not None:
        return pickles, True
    raise DataError(
        f"{manual_dir}: neither questions/ nor dict.pkl found; expected this tree:\n"
        f"{cnn_questions.TREE}\nor\n{cnn_pickles.TREE}"
    )

"""Sentences with their neighbours: BookCorpus from the user's disk, or the chapters of a bible.

A record holds sentences in the order of the text: `sentences`, tokenized, one a line, words with a
space between two; and `source`, where they are from. A triple of neighbours lies within a record,
and in one record only. `real` has records of 100 sentences (and the two behind them), so that a
corpus that does not fit into memory can be read piece by piece; `embedded` has a chapter a record.
What is printed from the config `embedded` carries that name: it says nothing about BookCorpus.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from lnjax.data import books, scripture_sentences
from lnjax.data.builder import Builder, Example, Source

MAX_WORDS = 200_000  # of the training split that the statistics count, the most frequent ones


class Sentences(Builder):
    """Running text; open it with `lnjax.data.prepare(Sentences, "embedded")`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="embedded", description="World English Bible, the sentences of a chapter a record."
        ),
        tfds.core.BuilderConfig(name="real", description="BookCorpus, 100 sentences a record."),
    )
    EXPECTED: ClassVar = {
        "embedded": scripture_sentences.NUM_CHAPTERS,
        "real": {
            "train": -(-(books.NUM_SENTENCES - 2 * books.HELD_OUT) // books.BLOCK),
            **dict.fromkeys(("validation", "test"), books.HELD_OUT // books.BLOCK),
        },
    }
    UNITS: ClassVar = {"embedded": "chapters", "real": "blocks of 100 sentences"}
    IN_MEMORY = False

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict({"sentences": text, "source": text}),
            disable_shuffling=True,  # records keep the order of the source
        )

    @classmethod
    def source_key(cls, config_name: str, manual_dir: Path | None) -> str:
        return "" if config_name == "embedded" else books.source_key(manual_dir)

    @classmethod
    def read_source(cls, config_name: str, manual_dir: Path | None) -> Source:
        if config_name == "embedded":
            return scripture_sentences.read()
        return books.read_folder(manual_dir)

    @classmethod
    def statistics(cls, train: Sequence[Example]) -> dict[str, Any]:
        """`sentences`, `tokens` and `types`, the numbers of sentences, words and different words;
        `words`, the MAX_WORDS most frequent ones with their counts.

        The two sentences that a block of BookCorpus shares with the next are counted twice.
        """
        counts: Counter[str] = Counter()
        sentences = 0
        for example in train:
            counts.update(example["sentences"].split())
            sentences += example["sentences"].count("\n") + 1
        words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
        return {
            "sentences": sentences,
            "tokens": counts.total(),
            "types": len(counts),
            "words": dict(words),
        }

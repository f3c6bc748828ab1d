"""Questions as numbers: the words of a data set, its splits as long arrays, batches of them.

The entities have the ids 2, 3, ... in the order of their numbers, the words come behind them. A
batch is passage (B, T) and question (B, U) int32, padded with 0, passage_length and question_length
(B,) int32, answer (B,) int32, an id, and mask (B,) bool.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lnjax.data.cloze import ENTITY, PLACEHOLDER, is_entity
from lnjax.data.vocabulary import FIRST_WORD, Vocabulary

Question = Mapping[str, str]


class Ragged(NamedTuple):
    """Rows of unequal length, one behind the other."""

    ids: np.ndarray  # (total,) int32
    starts: np.ndarray  # (N + 1,) int64

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Some of the rows as (len(rows), width) int32, zeros behind each."""
        steps = np.arange(width)
        real = steps < self.lengths[rows][:, None]
        places = np.where(real, self.starts[rows][:, None] + steps, 0)
        return np.where(real, self.ids[places], 0)


class Questions(NamedTuple):
    """A split."""

    passage: Ragged
    question: Ragged
    answer: np.ndarray  # (N,) int32


def make_vocabulary(
    counts: Mapping[str, int], num_entities: int, *, size: int | None, min_count: int
) -> Vocabulary:
    """`@entity0` to `@entity<num_entities - 1>` and the placeholder, then the words of `counts`.

    Args:
      counts: occurrences in training by word; entities and placeholder among them do not matter.
      size, min_count: of the words, see `Vocabulary.from_counts`; entities and placeholder are
        always in.
    """
    marks = [*(f"@entity{number}" for number in range(num_entities)), PLACEHOLDER]
    words = {
        word: count for word, count in counts.items() if not is_entity(word) and word != PLACEHOLDER
    }
    frequent = Vocabulary.from_counts(words, size and size - len(marks), min_count)
    return Vocabulary((*marks, *frequent.words))


def count_entities(splits: Sequence[Sequence[Question]]) -> int:
    """The highest number of an entity of any question, plus 1."""
    highest = -1
    for split in splits:
        for example in split:
            for field in ("passage", "question", "answer"):
                for number in ENTITY.findall(example[field]):
                    highest = max(highest, int(number))
    return highest + 1


def encode(
    split: Sequence[Question], vocabulary: Vocabulary, *, drop_last_token: bool
) -> Questions:
    """A split as ids; with `drop_last_token` without the last of each passage and question."""
    fields: dict[str, list[np.ndarray]] = {"passage": [], "question": []}
    answers = []
    for example in split:
        for field, rows in fields.items():
            tokens = example[field].split()
            keep = len(tokens) - (drop_last_token and len(tokens) > 1)
            rows.append(vocabulary.encode(tokens[:keep]))
        answers.append(example["answer"])
    return Questions(
        **{field: _ragged(rows) for field, rows in fields.items()},
        answer=vocabulary.encode(answers),
    )


def collate(
    questions: Questions, rows: Sequence[int], passage_width: int, question_width: int
) -> dict[str, np.ndarray]:
    """Some of the questions as a batch, see the head of this module."""
    chosen = np.asarray(rows)
    return {
        "passage": questions.passage.padded(chosen, passage_width),
        "passage_length": questions.passage.lengths[chosen].astype(np.int32),
        "question": questions.question.padded(chosen, question_width),
        "question_length": questions.question.lengths[chosen].astype(np.int32),
        "answer": questions.answer[chosen],
        "mask": np.ones(len(chosen), bool),
    }


def permute_entities(
    batch: Mapping[str, np.ndarray], generator: np.random.Generator, num_entities: int
) -> dict[str, np.ndarray]:
    """The batch with its entities dealt out anew, by one permutation for all its questions."""
    last = FIRST_WORD + num_entities
    new = np.arange(last, dtype=np.int32)
    new[FIRST_WORD:] = FIRST_WORD + generator.permutation(num_entities)

    def renamed(ids: np.ndarray) -> np.ndarray:
        return np.where(ids < last, new[np.minimum(ids, last - 1)], ids)

    return {
        name: renamed(ids) if name in ("passage", "question", "answer") else ids
        for name, ids in batch.items()
    }


def _ragged(rows: Sequence[np.ndarray]) -> Ragged:
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Ragged(np.concatenate(rows), starts)

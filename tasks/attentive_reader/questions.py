"""Questions as numbers: the words of a data set, its splits as long arrays, batches of them.

The entities have the ids 2, 3, ... in the order of their numbers, the words come behind them. A
batch is passage (B, T) and question (B, U) int32, padded with 0, passage_length and question_length
(B,) int32, answer (B,) int32, an id, and mask (B,) bool.
"""

import array
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lnjax.data.cloze import ENTITY, PLACEHOLDER, is_entity
from lnjax.data.vocabulary import FIRST_WORD, Vocabulary

Question = Mapping[str, str]
TEXTS = ("passage", "question", "answer")


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


def count_entities(counts: Mapping[str, int], splits: Iterable[Sequence[Question]]) -> int:
    """The highest number of an entity among the words of `counts` and in `splits`, plus 1."""
    held_out = (example[field] for split in splits for example in split for field in TEXTS)
    words = itertools.chain(counts, *(text.split() for text in held_out))
    numbers = (int(match[1]) for match in map(ENTITY.fullmatch, words) if match)
    return max(numbers, default=-1) + 1


def edges_for(splits: Iterable[Questions], edges: str) -> tuple[int, ...]:
    """The numbers of `edges`, up to the first that holds every passage; if none does, the longest
    passage is one more.

    Raises: ValueError if `edges` is not a list of ascending numbers.
    """
    try:
        numbers = tuple(map(int, edges.split()))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1 or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"length_edges={edges!r} must be ascending numbers such as '64 96 128'")
    longest = max(int(split.passage.lengths.max()) for split in splits)
    below = tuple(edge for edge in numbers if edge < longest)
    return (*below, next((edge for edge in numbers if edge >= longest), longest))


def question_widths(splits: Sequence[Questions], edges: Sequence[int]) -> dict[int, int]:
    """For each edge the longest question on a passage that is not longer: one width a bucket."""
    widths = {}
    for edge in edges:
        lengths = [split.question.lengths[split.passage.lengths <= edge] for split in splits]
        widths[edge] = int(np.concatenate(lengths).max(initial=1))
    return widths


def encode(
    split: Sequence[Question], vocabulary: Vocabulary, *, drop_last_token: bool
) -> Questions:
    """A split as ids; with `drop_last_token` without the last of each passage and question."""
    fields = {"passage": _Growing(), "question": _Growing()}
    answers = []
    for example in split:
        for field, rows in fields.items():
            tokens = example[field].split()
            keep = len(tokens) - (drop_last_token and len(tokens) > 1)
            rows.append(vocabulary.encode(tokens[:keep]))
        answers.append(example["answer"])
    return Questions(
        **{field: rows.ragged() for field, rows in fields.items()},
        answer=vocabulary.encode(answers),
    )


class _Growing:
    """Rows that are appended to one buffer: of a large split there is no second copy."""

    def __init__(self) -> None:
        self._ids, self._starts = array.array("i"), array.array("q", [0])

    def append(self, row: np.ndarray) -> None:
        self._ids.frombytes(row.tobytes())
        self._starts.append(len(self._ids))

    def ragged(self) -> Ragged:
        return Ragged(np.frombuffer(self._ids, np.int32), np.frombuffer(self._starts, np.int64))


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

"""Three sentences in a row, from records of sentences: which there are, and batches of them.

Only lengths and places are held in memory (7 bytes a triple); the sentences stay where they are, in
records that are read when a batch needs them.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lnjax.data.vocabulary import END, FIRST_WORD, UNKNOWN, Vocabulary

PARTS = ("previous", "centre", "next")
RECORDS_KEPT = 2048  # in memory, those that were used last


class Triples(NamedTuple):
    """Triple i: the sentences of record `record[i]` around sentence `place[i]`."""

    records: Sequence[Mapping[str, Any]]  # see lnjax.data.sentences
    record: np.ndarray  # (N,) int32
    place: np.ndarray  # (N,) int16
    length: np.ndarray  # (N,) uint8, of the sentence in the middle, with the 0 at its end


def find(records: Sequence[Mapping[str, Any]], *, max_words: int) -> Triples:
    """All triples of which no sentence has more than `max_words` words, in the order of the text.

    Raises: ValueError if `max_words` is not from 1 to 254, or there is no such triple.
    """
    if not 1 <= max_words <= 254:
        raise ValueError(f"max_words={max_words} must be from 1 to 254")
    found_records, found_places, found_lengths = [], [], []
    for number, record in enumerate(records):
        lines = record["sentences"].split("\n")
        words = np.array([line.count(" ") + 1 for line in lines])
        short = words <= max_words
        places = np.flatnonzero(short[:-2] & short[1:-1] & short[2:]) + 1
        found_records.append(np.full(len(places), number, np.int32))
        found_places.append(places.astype(np.int16))
        found_lengths.append((words[places] + 1).astype(np.uint8))
    triples = Triples(records, *map(np.concatenate, (found_records, found_places, found_lengths)))
    if not len(triples.length):
        raise ValueError(
            f"no three sentences in a row have at most max_words={max_words} words each"
        )
    return triples


def others(triples: Triples, seed: int) -> np.ndarray:
    """For each triple the number of another, (N,) int64: each is the other of one.

    Triples are taken round in a random order within one length, so that the other sentence is as
    long as the own one (but for one triple of each length).

    Raises: ValueError for a single triple, which has no other.
    """
    number = len(triples.length)
    if number < 2:
        raise ValueError("one triple has no other; expected at least two")
    tie_breaks = np.random.default_rng(seed).permutation(number)
    order = np.lexsort((tie_breaks, triples.length))
    other = np.empty(number, np.int64)
    other[order] = np.roll(order, 1)
    return other


class Collate:
    """Makes batches of numbers of triples; the function of `lnjax.data.length_buckets`.

    A batch of B triples, `length` the longest centre:
      centre (B, length), previous and next (B, max_words + 1): int32 ids, 0 behind the end;
      centre_length, previous_length, next_length (B,) int32, with the 0 that ends a sentence;
      mask (B,) bool; and with `other`: other and other_length, the centre of another triple.
    """

    def __init__(
        self,
        triples: Triples,
        vocabulary: Vocabulary,
        *,
        max_words: int,
        other: np.ndarray | None = None,
    ):
        self._triples, self._vocabulary, self._other = triples, vocabulary, other
        self._width = max_words + 1
        self._sentences = functools.lru_cache(RECORDS_KEPT)(self._split)

    def _split(self, record: int) -> list[str]:
        return self._triples.records[record]["sentences"].split("\n")

    def __call__(self, rows: Sequence[int], length: int) -> dict[str, np.ndarray]:
        widths = {"previous": self._width, "centre": length, "next": self._width}
        ids = {part: np.zeros((len(rows), width), np.int32) for part, width in widths.items()}
        lengths = {part: np.zeros(len(rows), np.int32) for part in ids}
        if self._other is not None:
            ids["other"] = np.zeros((len(rows), self._width), np.int32)
            lengths["other"] = np.zeros(len(rows), np.int32)
        for place, row in enumerate(rows):
            sentences = dict(zip(PARTS, self._around(row), strict=True))
            if self._other is not None:
                sentences["other"] = self._around(int(self._other[row]))[1]
            for part, sentence in sentences.items():
                words = self._vocabulary.encode(sentence.split())
                ids[part][place, : len(words)] = words
                lengths[part][place] = len(words) + 1
        of_lengths = {f"{part}_length": array for part, array in lengths.items()}
        return ids | of_lengths | {"mask": np.ones(len(rows), bool)}

    def _around(self, row: int) -> list[str]:
        place = int(self._triples.place[row])
        return self._sentences(int(self._triples.record[row]))[place - 1 : place + 2]


def unigram_nats(statistics: Mapping[str, Any], vocabulary: Vocabulary, held_out: Triples) -> float:
    """Nats per predicted word of `held_out` if every word came as often as in the training text.

    The trivial predictor that every figure is to be read against, on the same words, the end of a
    sentence included. Each id is counted once more than it was seen, so that none is impossible.

    Args:
      statistics: `sentences`, `tokens` and `words` of the training text, see `Sentences`.
    """
    counts = statistics["words"]
    frequency = np.ones(len(vocabulary))
    known = [counts[word] for word in vocabulary.words]
    frequency[END] += statistics["sentences"]
    frequency[UNKNOWN] += statistics["tokens"] - sum(known)
    frequency[FIRST_WORD:] += known
    log_p = np.log(frequency / frequency.sum())
    seen = np.zeros(len(vocabulary), np.int64)
    collate = Collate(held_out, vocabulary, max_words=254)
    for first in range(0, len(held_out.length), 1000):
        batch = collate(range(first, min(first + 1000, len(held_out.length))), 255)
        for part in ("previous", "next"):
            real = np.arange(batch[part].shape[1]) < batch[f"{part}_length"][:, None]
            seen += np.bincount(batch[part][real], minlength=len(vocabulary))
    return float(-(seen @ log_p) / seen.sum())

"""Batches of images with their captions; in training one caption of each image, drawn anew.

Which caption an image has in a training batch is a pure function of the seed and the number of the
batch, as the order of the images is: a pipeline resumes from that number alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lnjax.data import pipeline
from lnjax.data.vocabulary import Vocabulary

Batch = dict[str, np.ndarray]
_CAPTIONS = 1  # third word of a generator's seed; the order of the images has none


class CaptionTokens(NamedTuple):
    """K captions of each of N images as ids of words, one after the other."""

    flat: np.ndarray  # (number of tokens,) int32
    starts: np.ndarray  # (N K + 1,) int64, where in `flat` each caption starts
    each: int  # K

    @property
    def longest(self) -> int:
        return int(np.diff(self.starts).max())

    def padded(self, images: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The captions of `images` (B,): tokens (B, K, width) int32, lengths (B, K) int32.

        The id 0, of the sentence's end, stands behind each caption and counts in its length; of a
        caption that is too long for it, the last words are left out.
        """
        captions = images[:, None] * self.each + np.arange(self.each)
        first = self.starts[captions]
        words = np.minimum(self.starts[captions + 1] - first, width - 1)
        places = np.arange(width)
        at = np.minimum(first[..., None] + places, len(self.flat) - 1)
        tokens = np.where(places < words[..., None], self.flat[at], 0)
        return tokens.astype(np.int32), (words + 1).astype(np.int32)


def encode(images: Sequence[Sequence[str]], vocabulary: Vocabulary) -> CaptionTokens:
    """The captions of images, each with the same number of them, tokens separated by spaces.

    Raises: ValueError if there is no image, or images differ in their number of captions.
    """
    numbers = {len(captions) for captions in images}
    if len(numbers) != 1:
        raise ValueError(f"captions by image: {sorted(numbers)}; expected one number for all")
    encoded = [vocabulary.encode(line.split()) for captions in images for line in captions]
    starts = np.array([0, *itertools.accumulate(map(len, encoded))], np.int64)
    return CaptionTokens(np.concatenate(encoded), starts, numbers.pop())


def count_words(captions: Iterable[str]) -> Counter[str]:
    """How often each token occurs."""
    return Counter(token for line in captions for token in line.split())


class CaptionedSplit(NamedTuple):
    """A split, ready to be cut into batches."""

    features: np.ndarray  # (rows, F), may be a memory map
    rows: np.ndarray  # (N,) int64, the row of each image
    tokens: CaptionTokens

    def batch(self, images: Sequence[int], width: int) -> Batch:
        """Images by number, with all their captions.

        Returns: `features` (B, F) float32 of length 1; `tokens` (B, K, width) and `lengths` (B, K)
            int32, see `CaptionTokens.padded`; `image` (B,) int32, the numbers; `mask` (B,) bool.
        """
        numbers = np.asarray(images)
        features = np.asarray(self.features[self.rows[numbers]], np.float32)
        length = np.sqrt(np.sum(np.square(features, dtype=np.float64), axis=1, keepdims=True))
        tokens, lengths = self.tokens.padded(numbers, width)
        return {
            "features": (features / length).astype(np.float32),
            "tokens": tokens,
            "lengths": lengths,
            "image": numbers.astype(np.int32),
            "mask": np.ones(len(numbers), bool),
        }


class DrawnCaptions(Iterator[Batch]):
    """The endless iterator of `train_batches`."""

    def __init__(self, batches: pipeline.TrainBatches, seed: int, batch_size: int):
        self._batches, self._seed, self._size = batches, seed, batch_size
        self._rows = range(batch_size)

    def __next__(self) -> Batch:
        number = self.get_state()["next_index"]
        batch = next(self._batches)
        rng = np.random.default_rng([self._seed, number, _CAPTIONS])
        each = batch["tokens"].shape[1]
        drawn = rng.integers(each, size=self._size)[self._rows, None]  # for all rows, kept or not
        return batch | {
            "tokens": np.take_along_axis(batch["tokens"], drawn[..., None], axis=1),
            "lengths": np.take_along_axis(batch["lengths"], drawn, axis=1),
        }

    def get_state(self) -> dict[str, Any]:
        """As `pipeline.TrainBatches.get_state`."""
        return self._batches.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """As `pipeline.TrainBatches.set_state`."""
        self._batches.set_state(state)

    @property
    def rows(self) -> range:
        """As `pipeline.TrainBatches.rows`."""
        return self._batches.rows

    def keep_rows(self, rows: range) -> None:
        """As `pipeline.TrainBatches.keep_rows`."""
        self._batches.keep_rows(rows)
        self._rows = rows

    def records(self, state: Mapping[str, Any]) -> list[int]:
        """As `pipeline.TrainBatches.records`; a record is an image of the split."""
        return self._batches.records(state)


def train_batches(
    split: CaptionedSplit, *, seed: int, batch_size: int, width: int, num_threads: int
) -> DrawnCaptions:
    """Endless shuffled batches as `CaptionedSplit.batch`, but with one caption, K = 1.

    Args:
        split: images with captions.
        seed, batch_size, num_threads: see `pipeline.train_batches`.
        width: of the tokens, with the end's.
    """
    batches = pipeline.train_batches(
        range(len(split.rows)),
        seed=seed,
        batch_size=batch_size,
        collate=lambda images: split.batch(images, width),
        num_threads=num_threads,
    )
    return DrawnCaptions(batches, seed, batch_size)


def eval_batches(
    split: CaptionedSplit, *, num_images: int, batch_size: int, width: int, num_threads: int
) -> pipeline.EvalBatches:
    """The first `num_images` images with all their captions, see `pipeline.eval_batches`."""
    return pipeline.eval_batches(
        range(num_images),
        batch_size=batch_size,
        collate=lambda images: split.batch(images, width),
        num_threads=num_threads,
    )

"""Sentences as vectors, with a trained network: the final state of its encoder.

    encoder = load("runs/skip_thoughts")
    vectors = encoder(["A first sentence.", "Another one!"])        # (2, features)

with words that it was not trained on:

    vectors = word_vectors.read("GoogleNews-vectors-negative300.bin", keep=expansion.is_word)
    encoder = encoder.with_words(vectors)
"""

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import tasks.skip_thoughts as experiment
from lnjax.data.vocabulary import END
from lnjax.data.word_vectors import WordVectors
from lnjax.training import trained
from lnjax.typing import Array, Params
from tasks.skip_thoughts.expansion import WordTable, expand
from tasks.skip_thoughts.words import ids_of

SHORTEST = 8  # words that a batch is padded to at least; else to the next power of two


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encodes sentences; make one with `load` or `of`.

    Attributes:
      task, params: of the trained network.
      table: the words that it reads.
      batch_size: sentences at once.
    """

    task: "experiment.SkipThoughtsTask"
    params: Params
    table: WordTable
    batch_size: int = 64

    def __call__(
        self, sentences: Sequence[str], *, end: bool = True, normalize: bool = True
    ) -> np.ndarray:
        """A vector for each sentence, in their order.

        Args:
          sentences: text; see `lnjax.data.vocabulary.tokenize`.
          end: read the end of the sentence too, as in training. The paper does so for SICK alone.
          normalize: to an L2 norm of 1, as in the paper.

        Returns:
          (N, features) float32.

        Raises:
          ValueError: a sentence has no words.
        """
        ids = [self._ids(sentence, place, end) for place, sentence in enumerate(sentences)]
        vectors = np.zeros((len(ids), self.task.features), np.float32)
        # Long sentences with long ones: little padding, and a shape for each power of two.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            length = max(SHORTEST, 1 << (len(ids[rows[-1]]) - 1).bit_length())
            batch = np.zeros((self.batch_size, length), np.int32)
            lengths = np.zeros(self.batch_size, np.int32)
            for place, row in enumerate(rows):
                batch[place, : len(ids[row])] = ids[row]
                lengths[place] = len(ids[row])
            found = _encode(self.params, self.table.rows[batch], lengths, task=self.task)
            vectors[rows] = np.asarray(found)[: len(rows)]
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def with_words(self, vectors: WordVectors) -> "Encoder":
        """An encoder that also reads the words of `vectors`, see `expansion`."""
        return dataclasses.replace(self, table=expand(self.table, vectors))

    def _ids(self, sentence: str, place: int, end: bool) -> np.ndarray:
        ids = ids_of(sentence, self.table.vocabulary)
        if not len(ids):
            raise ValueError(f"sentence {place + 1} has no words: {sentence!r}")
        return np.append(ids, np.int32(END)) if end else ids


def load(workdir: str | os.PathLike) -> Encoder:
    """The encoder of the newest good checkpoint of a run.

    Raises:
      ValueError: there is no run of skip-thoughts in `workdir`, or it has no checkpoint.
      lnjax.training.checkpoint.CheckpointError: none of its checkpoints is usable.
    """
    run = trained.load(Path(workdir), experiment.make_task, task="skip_thoughts")
    return of(run.task, run.state.params)


def of(task: "experiment.SkipThoughtsTask", params: Params) -> Encoder:
    """The encoder of a network in memory."""
    return Encoder(task, params, WordTable(task.vocabulary, np.asarray(params["embedding"])))


@partial(jax.jit, static_argnames=("task",))
def _encode(
    params: Params, words: Array, lengths: Array, *, task: "experiment.SkipThoughtsTask"
) -> Array:
    network = task.network
    vectors = network.apply({"params": params}, words, lengths, method="encode_words")
    return jnp.asarray(vectors).astype(jnp.float32)

"""The sentence evaluations of the paper's Figure 3, while a network is trained.

Their sentences are one more split of the run: `batches` makes ids of them, the task's `outputs`
gives vectors, and `evaluate` hands those to `lnjax.evaluation`. The network is not trained on any
of it.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lnjax.data.vocabulary import END, Vocabulary
from lnjax.typing import PyTree
from tasks.skip_thoughts.words import ids_of

SPLIT = "sentences"  # of the run: figures are named "sentences/mr/accuracy"
EDGES = (8, 16, 32, 64)  # lengths that batches are padded to; longer sentences are cut


class Suite(NamedTuple):
    """What is evaluated. Plain values: it is a part of the task, which jit holds static.

    Attributes:
      names: of sets, see `lnjax.data.sentence_sets`.
      config, folder: where they are from: "embedded" and "", or "real" and a folder.
      protocol: "paper", "senteval" or "quick", see `lnjax.evaluation.evaluate_encoder`.
    """

    names: tuple[str, ...]
    config: str
    folder: str
    protocol: str


@functools.lru_cache(1)
def sets_of(suite: Suite) -> Mapping[str, Any]:
    """The sets of `suite` by name.

    Raises: ValueError (`DataError`) if they cannot be used, or one of the names is unknown.
    """
    from lnjax.data import sentence_sets

    found = sentence_sets.load(suite.config, suite.folder or None)
    for name in suite.names:
        if name not in found:
            raise ValueError(
                f"sentence_tasks names {name!r}, of which there are no sentences; known: "
                f"{', '.join(sorted(found))}"
            )
    return {name: found[name] for name in suite.names}


def sentences_of(sets: Mapping[str, Any]) -> list[str]:
    """All sentences of some sets, each once, in order."""
    found: dict[str, None] = {}

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found[value] = None
        elif isinstance(value, list | tuple):  # pairs and sets are named tuples of lists
            for inner in value:
                collect(inner)

    collect([sets[name] for name in sorted(sets)])
    return list(found)


def batches(suite: Suite, vocabulary: Vocabulary, *, batch_size: int) -> Iterable[Any]:
    """The sentences of a suite in batches by length.

    Each has sentence (B, T) and sentence_length (B,) int32, with the 0 at the end, row (B,) int32,
    the number of the sentence, and mask (B,) bool.

    Raises: ValueError as `sets_of`.
    """
    from lnjax.data import length_buckets

    longest = EDGES[-1] - 1
    ids = [
        np.append(ids_of(sentence, vocabulary)[:longest], np.int32(END))
        for sentence in sentences_of(sets_of(suite))
    ]

    def collate(rows: Sequence[int], length: int) -> dict[str, np.ndarray]:
        sentence = np.zeros((len(rows), length), np.int32)
        for place, row in enumerate(rows):
            sentence[place, : len(ids[row])] = ids[row]
        return {
            "sentence": sentence,
            "sentence_length": np.array([len(ids[row]) for row in rows], np.int32),
            "row": np.array(rows, np.int32),
            "mask": np.ones(len(rows), bool),
        }

    lengths = np.array([len(row) for row in ids])
    return length_buckets.eval_batches(lengths, EDGES, batch_size=batch_size, collate=collate)


def evaluate(suite: Suite, pairs: Iterable[tuple[Mapping[str, Any], PyTree]]) -> dict[str, float]:
    """The figures of a suite.

    Args:
      pairs: of the batches of `batches`, with the vectors of their sentences: "with_end" and
        "without_end", each (B, H).
    """
    from lnjax.evaluation import evaluate_encoder

    sets = sets_of(suite)
    place = {sentence: row for row, sentence in enumerate(sentences_of(sets))}
    vectors: dict[str, np.ndarray] = {}
    for batch, of_batch in pairs:
        real = np.asarray(batch["mask"])
        for name, values in of_batch.items():
            values = np.asarray(values)
            every = vectors.setdefault(name, np.zeros((len(place), values.shape[1]), np.float32))
            every[np.asarray(batch["row"])[real]] = values[real]

    def encode(name: str, sentences: Sequence[str]) -> np.ndarray:
        return vectors[name][[place[sentence] for sentence in sentences]]

    return evaluate_encoder(
        functools.partial(encode, "without_end"),
        suite.names,
        protocol=suite.protocol,
        data=sets,
        encode_pairs=functools.partial(encode, "with_end"),  # the paper's: on SICK alone
    )

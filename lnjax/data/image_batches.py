"""Labelled images: their batches, and what a classifier reaches that has seen no image."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lnjax.data import columns, pipeline

if TYPE_CHECKING:
    from lnjax.data.preparation import Prepared

EVALS = {"eval": "validation", "test": "test"}  # prefix of the metrics -> split


def of_a_run(
    prepared: "Prepared", *, seed: int, batch_size: int, eval_batch_size: int
) -> dict[str, Any]:
    """The arguments of `lnjax.training.task.TaskData` for a set of labelled images.

    A batch is image (B, H, W, C) uint8, label (B,) int32, mask (B,) bool; the pixels stay bytes
    until the model.

    Args:
        prepared: splits "train", "validation" and "test" of examples with `image` and `label`, and
            the statistic `class_counts`, the training images of each class.
        seed, batch_size: of the training batches, see `pipeline.train_batches`.
        eval_batch_size: of "eval", the validation split, and of "test".

    Returns: train, evals, fingerprint, spec (`num_classes`) and baselines, by name.
    Raises: ValueError as `pipeline.train_batches`; DataError if the prepared files are damaged.
    """
    fields = {split: _fields(prepared.splits[split]) for split in ("train", *EVALS.values())}
    class_counts = prepared.statistics["class_counts"]
    train, evals = fields["train"], {prefix: fields[split] for prefix, split in EVALS.items()}
    return {
        "train": pipeline.train_batches(
            range(columns.num_rows(train)),
            seed=seed,
            batch_size=batch_size,
            collate=columns.take_rows(train),
            num_threads=0,
        ),
        "evals": {
            prefix: pipeline.eval_batches(
                range(columns.num_rows(held_out)),
                batch_size=eval_batch_size,
                collate=columns.take_rows(held_out),
                num_threads=0,
            )
            for prefix, held_out in evals.items()
        },
        "fingerprint": pipeline.fingerprint(prepared, seed=seed, batch_size=batch_size),
        "spec": {"num_classes": len(class_counts)},
        "baselines": {
            f"{prefix}/error of the class most frequent in training": majority_error(
                class_counts, held_out["label"]
            )
            for prefix, held_out in evals.items()
        },
    }


def majority_error(class_counts: Sequence[int], labels: np.ndarray) -> float:
    """The share of `labels` (N,) that is not the class most frequent in training.

    Args:
        class_counts: training images of each class; of classes that tie the first is taken.
        labels: of the images that are held out.
    """
    return float(np.mean(labels != int(np.argmax(class_counts))))


def _fields(split: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    of_split = columns.stacked(split)
    return {"image": of_split["image"], "label": of_split["label"].astype(np.int32)}

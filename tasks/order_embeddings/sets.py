"""The captions and images of a run: prepared once per machine, checked against the folds asked for,
cut into batches of one width. Not bucketed by length: that would give every caption contrasts of
its own length."""

from pathlib import Path
from typing import Any, NamedTuple

from lnjax.data import caption_batches, captioned_images, coco_files, pipeline, preparation
from lnjax.data.caption_batches import CaptionedSplit
from lnjax.data.captioned_images import CaptionedImages, captions_of
from lnjax.data.preparation import Prepared
from lnjax.data.vocabulary import Vocabulary
from lnjax.training.task import TaskData

EVALS = {"eval": "validation", "test": "test"}  # prefix of the metrics -> split


class Sets(NamedTuple):
    """The prepared set and what a model reads of it."""

    prepared: Prepared
    vocabulary: Vocabulary  # of the captions of train and validation, as the paper's code has it
    splits: dict[str, CaptionedSplit]


def open_sets(config: Any) -> Sets:
    """Opens the set that a config names; prepares it if it is not there.

    Raises:
      DataError: the files are missing or cannot be used; nothing is written then.
    """
    manual_dir = Path(config.data_dir).expanduser() if config.data_dir else None
    if config.data == "real":
        coco_files.refuse_fewer(manual_dir, images_needed(config))
    prepared = preparation.prepare(CaptionedImages, config.data, manual_dir=manual_dir)
    for split, least in images_needed(config).items():
        if (found := len(prepared.splits[split])) < least:
            place = f"{prepared.name}/{prepared.config}"
            raise coco_files.too_few(place, split, found, least)
    captions = {
        split: [captions_of(record) for record in records]
        for split, records in prepared.splits.items()
    }
    known = (line for split in ("train", "validation") for five in captions[split] for line in five)
    vocabulary = Vocabulary.from_counts(caption_batches.count_words(known))
    features = captioned_images.open_features(prepared, manual_dir)
    splits = {
        split: CaptionedSplit(
            features=features[split],
            rows=captioned_images.rows_of(records),
            tokens=caption_batches.encode(captions[split], vocabulary),
        )
        for split, records in prepared.splits.items()
    }
    return Sets(prepared, vocabulary, splits)


def images_needed(config: Any) -> dict[str, int]:
    """By split the images that are evaluated: one fold of validation, `test_folds` of test."""
    needed = {"validation": config.fold_images, "test": config.test_folds * config.fold_images}
    return {split: number for split, number in needed.items() if number}


def make_data(config: Any) -> TaskData:
    """Training with one caption an image, evaluation with all."""
    prepared, vocabulary, splits = open_sets(config)
    longest = max(split.tokens.longest for split in splits.values())
    width = min(longest, config.max_tokens or longest) + 1
    threads = 2 if config.data == "real" else 0  # rows of a file are worth reading ahead
    needed = images_needed(config)
    return TaskData(
        train=caption_batches.train_batches(
            splits["train"],
            seed=config.seed,
            batch_size=config.batch_size,
            width=width,
            num_threads=threads,
        ),
        evals={
            prefix: caption_batches.eval_batches(
                splits[split],
                num_images=needed[split],
                batch_size=config.eval_batch_size,
                width=width,
                num_threads=threads,
            )
            for prefix, split in EVALS.items()
            if split in needed
        },
        fingerprint=pipeline.fingerprint(prepared, seed=config.seed, batch_size=config.batch_size),
        spec={
            "words": vocabulary.to_json(),
            "num_features": splits["train"].features.shape[1],
            "digest": prepared.digest,
        },
        baselines={
            f"image_recall_at_10 of chance, {config.fold_images} images": min(
                10 / config.fold_images, 1.0
            )
        },
    )

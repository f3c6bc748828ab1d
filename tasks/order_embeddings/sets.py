"""The captions and images of a run: prepared once per machine, checked against the folds asked for,
cut into batches of one width. Not bucketed by length: that would give every caption contrasts of
its own length."""

from pathlib import Path
from typing import Any

from lnjax.data import caption_batches, captioned_images, coco_files, pipeline, preparation
from lnjax.data.caption_batches import CaptionedSplit
from lnjax.data.captioned_images import CaptionedImages, captions_of
from lnjax.data.preparation import Prepared
from lnjax.data.vocabulary import Vocabulary
from lnjax.training.task import TaskData

EVALS = {"eval": "validation", "test": "test"}  # prefix of the metrics -> split


def prepare(config: Any) -> Prepared:
    """The set that a config names, prepared if it is not there.

    Raises:
      DataError: the files are missing, cannot be used, or have fewer images than the folds need.
    """
    if config.data == "real":
        coco_files.refuse_fewer(_folder(config), images_needed(config))
    prepared = preparation.prepare(CaptionedImages, config.data, manual_dir=_folder(config))
    for split, least in images_needed(config).items():
        if (found := len(prepared.splits[split])) < least:
            place = f"{prepared.name}/{prepared.config}"
            raise coco_files.too_few(place, split, found, least)
    return prepared


def open_split(
    config: Any, prepared: Prepared, split: str, vocabulary: Vocabulary
) -> CaptionedSplit:
    """What a model reads of a split of the set that `prepare` gave.

    Raises:
      DataError: as `captioned_images.open_features`.
    """
    records = prepared.splits[split]
    return CaptionedSplit(
        features=captioned_images.open_features(prepared, _folder(config), split),
        rows=captioned_images.rows_of(records),
        tokens=caption_batches.encode([captions_of(record) for record in records], vocabulary),
    )


def _folder(config: Any) -> Path | None:
    return Path(config.data_dir).expanduser() if config.data_dir else None


def images_needed(config: Any) -> dict[str, int]:
    """By split the images that are evaluated: one fold of validation, `test_folds` of test."""
    needed = {"validation": config.fold_images, "test": config.test_folds * config.fold_images}
    return {split: number for split, number in needed.items() if number}


def make_data(config: Any) -> TaskData:
    """Training with one caption an image, evaluation with all."""
    prepared = prepare(config)
    vocabulary = Vocabulary.from_counts(  # of train and dev, as the paper's code has it
        caption_batches.count_words(
            line
            for split in ("train", "validation")
            for record in prepared.splits[split]
            for line in captions_of(record)
        )
    )
    splits = {name: open_split(config, prepared, name, vocabulary) for name in prepared.splits}
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

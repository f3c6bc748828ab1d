"""Labelled images: what of_a_run makes of a prepared set."""

import numpy as np
import pytest

from lnjax.data import image_batches
from lnjax.data.preparation import Prepared


def make_prepared(rng, sizes=(6, 5, 3)):
    splits = {
        split: [
            {
                "image": rng.integers(0, 256, (2, 3, 1)).astype(np.uint8),
                "label": np.int64(rng.integers(0, 4)),
            }
            for _ in range(size)
        ]
        for split, size in zip(("train", "validation", "test"), sizes, strict=True)
    }
    return Prepared("toys", "embedded", "1.0.0", "abc", {"class_counts": [1, 2, 3, 0]}, splits)


def test_of_a_run(rng):
    prepared = make_prepared(rng)
    data = image_batches.of_a_run(prepared, seed=3, batch_size=4, eval_batch_size=4)
    assert set(data) == {"train", "evals", "fingerprint", "spec", "baselines"}
    assert data["spec"] == {"num_classes": 4}
    named = {"name": "toys", "config": "embedded", "digest": "abc", "seed": 3, "batch_size": 4}
    assert named.items() <= data["fingerprint"].items()

    def described(batch):
        return {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()}

    form = {"image": ((4, 2, 3, 1), np.uint8), "label": ((4,), np.int32), "mask": ((4,), bool)}
    first, second, third = (next(data["train"]) for _ in range(3))
    assert described(first) == form
    assert all(batch["mask"].all() for batch in (first, second, third))
    # Two epochs of six records in three batches of four: each record twice, label beside image.
    seen = sorted(
        (image.tobytes(), int(label))
        for batch in (first, second, third)
        for image, label in zip(batch["image"], batch["label"], strict=True)
    )
    records = [(r["image"].tobytes(), int(r["label"])) for r in prepared.splits["train"]]
    assert seen == sorted(records * 2)

    one, two = data["evals"]["eval"]
    assert described(one) == described(two) == form
    assert two["mask"].tolist() == [True, False, False, False]
    labels = np.concatenate([one["label"], two["label"]])[:5]
    assert labels.tolist() == [r["label"] for r in prepared.splits["validation"]]
    (only,) = data["evals"]["test"]
    np.testing.assert_array_equal(only["image"][:3], [r["image"] for r in prepared.splits["test"]])
    assert only["mask"].tolist() == [True, True, True, False]


def test_baselines_are_of_each_split(rng):
    prepared = make_prepared(rng, sizes=(3, 40, 30))
    baselines = image_batches.of_a_run(prepared, seed=0, batch_size=1, eval_batch_size=40)[
        "baselines"
    ]
    for prefix, split in (("eval", "validation"), ("test", "test")):
        records = prepared.splits[split]
        wrong = sum(record["label"] != 2 for record in records) / len(records)
        assert 0 < wrong < 1
        name = f"{prefix}/error of the class most frequent in training"
        assert baselines[name] == pytest.approx(wrong)
    assert len(baselines) == 2


@pytest.mark.parametrize(
    ("counts", "labels", "error"),
    [([1, 5, 2], [1, 1, 0, 2], 0.5), ([3, 3], [0, 1, 1, 1], 0.75), ([0, 1], [0, 0], 1.0)],
)
def test_majority_error(counts, labels, error):
    assert image_batches.majority_error(counts, np.array(labels)) == error

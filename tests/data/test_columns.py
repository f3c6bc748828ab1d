"""Records as arrays: what goes in comes out, batches by index are those by record."""

import itertools

import numpy as np
import pytest

from lnjax.data import pipeline
from lnjax.data.columns import num_rows, stacked, take_rows, unstacked


def records(number):
    rng = np.random.default_rng(0)
    return [
        {"image": rng.integers(0, 256, (3, 2), np.uint8), "label": np.int64(i)}
        for i in range(number)
    ]


def by_record(examples):
    return {name: np.stack([e[name] for e in examples]) for name in ("image", "label")}


def test_stacked_and_back():
    rows = records(7)
    columns = stacked(rows)
    assert {k: (v.shape, v.dtype) for k, v in columns.items()} == {
        "image": ((7, 3, 2), np.uint8),
        "label": ((7,), np.int64),
    }
    assert num_rows(columns) == 7
    for old, new in zip(rows, unstacked(columns), strict=True):
        assert set(new) == {"image", "label"}
        assert np.array_equal(old["image"], new["image"]) and old["label"] == new["label"]
    with pytest.raises(ValueError, match="read-only"):
        columns["image"][0] = 0


def test_what_cannot_be_stacked():
    with pytest.raises(ValueError, match="no records"):
        stacked([])
    with pytest.raises(ValueError, match="fields"):
        stacked([{"a": 1}, {"a": 1, "b": 2}])
    with pytest.raises(ValueError, match="shape"):
        stacked([{"a": np.zeros(2)}, {"a": np.zeros(3)}])
    with pytest.raises(ValueError, match=r"rows by field: \{'a': 2, 'b': 3\}"):
        take_rows({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(ValueError, match="mask"):
        take_rows({"mask": np.zeros(2)})


@pytest.mark.parametrize("batch_size", [4, 23])
def test_batches_are_those_of_the_records(batch_size):
    rows = records(10)
    columns = stacked(rows)
    one = pipeline.train_batches(rows, seed=3, batch_size=batch_size, collate=by_record)
    two, fresh = (
        pipeline.train_batches(
            range(num_rows(columns)),
            seed=3,
            batch_size=batch_size,
            collate=take_rows(columns),
            num_threads=0,
        )
        for _ in range(2)
    )
    for expected, batch in itertools.islice(zip(one, two, strict=True), 12):
        assert batch["mask"].all() and batch["mask"].shape == (batch_size,)
        for name in ("image", "label"):
            assert np.array_equal(batch[name], expected[name])
            assert batch[name].dtype == expected[name].dtype
    fresh.set_state(two.get_state())
    assert np.array_equal(next(fresh)["image"], next(two)["image"])


def test_evaluation_masks_what_fills_the_last_batch():
    columns = stacked(records(10))
    batches = pipeline.eval_batches(range(10), batch_size=4, collate=take_rows(columns))
    mask = np.concatenate([batch["mask"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    assert mask.tolist() == [True] * 10 + [False] * 2
    assert np.array_equal(images[:10], columns["image"]) and not images[10:].any()


def test_a_batch_is_a_copy():
    columns = stacked(records(5))
    batch = take_rows(columns)(range(2))
    assert batch["image"].shape == (2, 3, 2)
    batch["image"][:] = 7
    assert not (columns["image"][:2] == 7).all()

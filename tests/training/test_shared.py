"""The rows of several processes are those of one: what each of them reads, without any process."""

import numpy as np
import pytest

from lnjax.data import caption_batches, columns, length_buckets, pipeline
from lnjax.data.caption_batches import CaptionedSplit, CaptionTokens
from lnjax.training import processes, shared
from lnjax.training.task import TaskData
from tests.trees import assert_equal


def streams():
    """A function for each kind of stream: makes it anew, with batches of 8."""
    table = {"x": np.arange(37), "y": np.arange(37) % 5}
    lengths = np.arange(53) % 9 + 1
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 60)
    tokens = CaptionTokens(
        rng.integers(1, 9, sizes.sum()).astype(np.int32),
        np.concatenate([[0], np.cumsum(sizes)]),
        each=3,
    )
    split = CaptionedSplit(rng.normal(size=(20, 4)), np.arange(20), tokens)

    def collate(rows, length):
        return {"row": np.asarray(rows), "padding": np.zeros((len(rows), length))}

    def shifted(batch, generator):
        return batch | {"row": batch["row"] + generator.integers(1000)}

    return {
        "records": lambda: pipeline.train_batches(
            range(37), seed=3, batch_size=8, collate=columns.take_rows(table), num_threads=0
        ),
        "buckets": lambda: length_buckets.train_batches(
            lengths, [4, 9], seed=3, batch_size=8, collate=collate, group=2, augment=shifted
        ),
        "captions": lambda: caption_batches.train_batches(
            split, seed=3, batch_size=8, width=5, num_threads=0
        ),
    }


@pytest.mark.parametrize("name", ["records", "buckets", "captions"])
@pytest.mark.parametrize("number", [2, 4])
def test_the_rows_of_all_processes_are_the_batch_of_one(name, number):
    """Batch by batch, also where it lies in two epochs, and after a position is set."""
    make = streams()[name]
    whole, each = make(), 8 // number
    parts = [make() for _ in range(number)]
    next(whole), next(parts[0])
    for process, part in enumerate(parts):
        part.set_state(whole.get_state())
        part.keep_rows(range(process * each, (process + 1) * each))
        assert part.get_state() == whole.get_state() == {"next_index": 1}
    for count in range(20):
        if count == 10:
            for stream in (whole, *parts):
                stream.set_state({"next_index": 40})
        batch = next(whole)
        of_parts = [next(part) for part in parts]
        joined = {key: np.concatenate([part[key] for part in of_parts]) for key in batch}
        assert_equal(joined, batch)
        assert len(of_parts[0]["row" if "row" in batch else "mask"]) == each


def test_a_stream_that_makes_whole_batches_is_cut():
    class Whole:
        def __next__(self):
            return {"x": np.arange(6)}

        def get_state(self):
            return {"at": 1}

        def set_state(self, state):
            self.state = state

        def records(self, state):
            return list(range(6))

    mesh = type("Mesh", (), {"shape": {"data": 3}, "devices": np.array([[None]] * 3)})
    data = TaskData(train=Whole(), evals={}, fingerprint={}, spec={})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shared, "own_rows", lambda size, _: range(2, 4))
        cut = shared.keep_own_rows(data, 6, mesh)
    assert next(cut.train)["x"].tolist() == [2, 3] and cut.train.get_state() == {"at": 1}
    cut.train.set_state({"at": 2})
    assert data.train.state == {"at": 2}


def test_what_is_sent_in_pieces_is_whole(monkeypatch):
    monkeypatch.setattr(processes, "_PIECE", 7)
    for size in (0, 6, 7, 8, 21, 23):
        content = np.random.default_rng(size).bytes(size)
        assert processes.bytes_from_first(content, size) == content


@pytest.mark.parametrize("name", ["records", "captions", "whole"])
def test_all_rows_are_read_meanwhile(name, monkeypatch):
    make = streams()["records" if name == "whole" else name]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    whole, part = make(), make()
    if name == "whole":
        part = shared._OwnRows(part, range(2, 4))
    part.keep_rows(range(2, 4))
    first = {key: leaf[2:4] for key, leaf in next(whole).items()}
    assert_equal(next(part), first)
    with shared.whole_batches(part):
        assert_equal(next(part), next(whole))
    assert_equal(next(part), {key: leaf[2:4] for key, leaf in next(whole).items()})

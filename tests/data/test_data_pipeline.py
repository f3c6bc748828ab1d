"""Order, resumption, padding and counts of the batches."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from lnjax.data import pipeline


class Numbers:
    """Records 1 .. n, so that a row of padding (0) is no record."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"value": index + 1}


def collate(examples):
    values = np.array([example["value"] for example in examples])
    return {"value": values, "mask": np.ones((len(values), 2), bool)}


def train(length=10, *, seed=0, batch_size=4, **kwargs):
    return pipeline.train_batches(
        Numbers(length), seed=seed, batch_size=batch_size, collate=collate, **kwargs
    )


def take(batches, number):
    return [batch["value"].tolist() for batch in itertools.islice(batches, number)]


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])
def test_every_record_once_an_epoch(batch_size):
    num_epochs = 6
    num_batches = num_epochs * 10 // batch_size + 1
    stream = list(itertools.chain(*take(train(batch_size=batch_size), num_batches)))
    epochs = [tuple(stream[10 * e : 10 * e + 10]) for e in range(num_epochs)]
    assert all(sorted(epoch) == list(range(1, 11)) for epoch in epochs)
    assert len(set(epochs)) > 1  # shuffled anew
    assert all(len(batch) == batch_size for batch in take(train(batch_size=batch_size), 5))


def test_order_depends_on_the_seed_and_on_nothing_else():
    first = take(train(seed=3), 20)
    assert first == take(train(seed=3), 20)
    for num_threads in (0, 7):
        assert first == take(train(seed=3, num_threads=num_threads), 20)
    assert first != take(train(seed=4), 20)
    as_one_stream = list(itertools.chain(*first))
    by_other_batches = list(itertools.chain(*take(train(seed=3, batch_size=5), 16)))
    assert as_one_stream == by_other_batches


def test_next_epoch_is_not_the_next_seed():
    stream = list(itertools.chain(*take(train(seed=0, batch_size=10), 2)))
    assert stream[10:] != take(train(seed=1, batch_size=10), 1)[0]


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 2, 3, 5, 9])  # epoch borders at 2.5 and 5 batches
def test_resume_is_exact(taken, num_threads):
    batches = train(num_threads=num_threads)
    expected = take(train(), 20)[taken:]
    take(batches, taken)
    state = json.loads(json.dumps(batches.get_state()))
    fresh = train(num_threads=num_threads)
    fresh.set_state(state)
    assert take(fresh, 20 - taken) == expected
    take(batches, 4)  # back from a later position, with batches already read ahead
    batches.set_state(state)
    assert take(batches, 20 - taken) == expected


@pytest.mark.parametrize("state", [{}, {"next_index": -1}, {"next_index": "3"}, {"index": 3}])
def test_unusable_state_is_refused(state):
    with pytest.raises(ValueError, match="next_index"):
        train().set_state(state)


@pytest.mark.parametrize(
    ("length", "batch_size", "num_batches"), [(10, 4, 3), (8, 4, 2), (3, 5, 1)]
)
def test_evaluation_sees_every_record_once_in_order(length, batch_size, num_batches):
    batches = pipeline.eval_batches(Numbers(length), batch_size=batch_size, collate=collate)
    assert len(batches) == num_batches
    for _ in range(2):  # can be iterated again
        seen = list(batches)
        assert len(seen) == num_batches
        assert all(len(batch["value"]) == len(batch["mask"]) == batch_size for batch in seen)
        values = np.concatenate([batch["value"] for batch in seen])
        mask = np.concatenate([batch["mask"] for batch in seen])
        assert values[:length].tolist() == list(range(1, length + 1))
        assert not values[length:].any()
        assert mask[:length].all() and not mask[length:].any()
        assert mask.dtype == bool


def test_bad_arguments_are_refused():
    for make in (
        lambda: train(0),
        lambda: train(batch_size=0),
        lambda: pipeline.eval_batches(Numbers(0), batch_size=2, collate=collate),
    ):
        with pytest.raises(ValueError, match="at least"):
            make()


def test_an_error_of_collate_arrives():
    def broken(examples):
        raise KeyError("strokes")

    with pytest.raises(KeyError, match="strokes"):
        next(pipeline.train_batches(Numbers(4), seed=0, batch_size=2, collate=broken))


def test_fingerprint_tells_what_determines_the_order(embedded):
    one = pipeline.fingerprint(embedded, seed=1, batch_size=8)
    assert one == json.loads(json.dumps(one))
    assert one["digest"] == embedded.digest and one["config"] == "embedded"
    assert one != pipeline.fingerprint(embedded, seed=2, batch_size=8)
    assert one != pipeline.fingerprint(embedded, seed=1, batch_size=9)


SCRIPT = """
import numpy as np
from absl import app
from lnjax.data import pipeline

def collate(examples):
    return {"value": np.array(examples)}

def main(argv):
    batches = pipeline.train_batches(list(range(9)), seed=0, batch_size=3, collate=collate)
    print(sorted(int(v) for _ in range(3) for v in next(batches)["value"]))

main(None)    # a plain script: no flags were parsed
app.run(main)
"""


def test_plain_script_and_absl_app():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, "--grain_py_debug_mode=false"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(list(range(9)))] * 2

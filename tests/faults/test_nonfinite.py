"""One record with a NaN: the run stops or skips, says which records, and no checkpoint has it."""

import json

import numpy as np
import pytest

from tests.faults import toy
from tests.faults.processes import arrays, crashed
from tests.faults.processes import zygote as zygote
from tests.runs import caches as caches
from tests.runs import rows, steps

BROKEN = 5
CHANGES = (f"broken_record={BROKEN}", "checkpoint_steps=5", "num_steps=40")


def batches_of(number, steps, batch_size=4, seed=0):
    """Records by step, from the definition: each epoch is a permutation of (seed, epoch)."""
    order = [
        row
        for epoch in range(steps * batch_size // toy.NUM_RECORDS + 1)
        for row in np.random.default_rng([seed, epoch]).permutation(toy.NUM_RECORDS).tolist()
    ]
    batches = [order[i * batch_size :][:batch_size] for i in range(steps)]
    return {step: batch for step, batch in enumerate(batches, start=1) if number in batch}


def written(folder):
    return [json.loads(line) for line in (folder / "nonfinite.jsonl").read_text().splitlines()]


def assert_all_finite(folder):
    for step in steps(folder):
        for path, leaf in arrays(folder, step).items():
            assert np.isfinite(leaf).all(), (step, path)


def test_stop(zygote, tmp_path):
    step, batch = next(iter(batches_of(BROKEN, 40).items()))
    line = {
        "step": step,
        "position": {"next_index": step - 1},
        "records": [batch],
        "holding": [BROKEN],
    }
    for _ in range(2):  # the same command again comes to the same end, and tells it once
        code, told = zygote.run(tmp_path, *CHANGES)
        assert code == 3 and not crashed(told), told
        (found,) = [line for line in told.splitlines() if line.startswith("not finite: ")]
        shown = ", ".join(map(str, batch))
        assert f"step {step}, records {shown} (NaN or infinity in {BROKEN})" in found
        assert "error: loss, gradient or parameters not finite" in told
        assert written(tmp_path) == [line]
        assert (steps(tmp_path) or [0])[-1] == (step - 1) // 5 * 5
        assert_all_finite(tmp_path)


@pytest.mark.parametrize("norm", ["none", pytest.param("batch", marks=pytest.mark.slow)])
def test_skip(zygote, tmp_path, norm):
    """The run goes on; also the means of the log and running statistics are without the batch."""
    expected = batches_of(BROKEN, 40)
    changes = (*CHANGES, "nonfinite=skip", f"norm={norm}")
    code, told = zygote.run(tmp_path / "run", *changes)
    assert code == 0, told
    lines = written(tmp_path / "run")
    assert {line["step"]: line["records"][0] for line in lines} == expected and len(expected) > 3
    assert all(line["holding"] == [BROKEN] for line in lines)
    assert told.count("not finite: ") == len(expected)
    assert_all_finite(tmp_path / "run")
    found = rows(tmp_path / "run")
    assert all(value is not None for row in found for value in row.values())
    # The order's mean is exact, and known: that of the batches that were good.
    whole = batches_of_all(40)
    for row in [row for row in found if "train/order" in row]:
        first = (row["step"] - 1) // 7 * 7 + 1
        good = [whole[s] for s in range(first, row["step"] + 1) if s not in expected]
        sums = [sum((i + 1) * record for i, record in enumerate(batch)) for batch in good]
        assert row["train/order"] == pytest.approx(np.mean(sums), rel=1e-6)


def batches_of_all(number):
    found = {}
    for record in range(toy.NUM_RECORDS):
        found |= batches_of(record, number)
    return found


@pytest.mark.slow
def test_skip_by_several_steps_a_call_and_resumed(zygote, tmp_path):
    """A call of 4 steps is left out as one; a run that was killed writes no line twice."""
    expected = batches_of(BROKEN, 40)
    changes = (*CHANGES, "nonfinite=skip", "steps_per_call=4", "log_steps=8", "eval_steps=40")
    changes += ("checkpoint_steps=8", "norm=batch")
    folder = tmp_path / "run"
    code, told = zygote.run(folder, *changes, signalled="SIGTERM 21")
    assert code == 75, told
    code, told = zygote.run(folder, *changes)
    assert code == 0 and "going on from" in told, told
    lines = written(folder)
    found = {
        line["position"]["next_index"] + 1 + i: batch
        for line in lines
        for i, batch in enumerate(line["records"])
        if BROKEN in batch
    }
    assert found == expected
    assert [line["step"] for line in lines] == sorted({-(-step // 4) * 4 for step in expected})
    assert_all_finite(folder)
    assert zygote.run(tmp_path / "whole", *changes)[0] == 0
    assert lines == written(tmp_path / "whole") and rows(folder) == rows(tmp_path / "whole")


@pytest.mark.slow
def test_skip_where_nothing_is_left(zygote, tmp_path):
    """One batch of all records, again and again: null in the log; the 21st in a row ends it."""
    changes = ("nonfinite=skip", f"broken_record={BROKEN}", "batch_size=37", "log_steps=1")
    code, told = zygote.run(tmp_path, *changes, "num_steps=30", "checkpoint_steps=1")
    assert code == 3 and not crashed(told), told
    lines = [row for row in rows(tmp_path) if "train/loss" in row]
    assert [row["train/loss"] for row in lines] == [None] * 20
    assert steps(tmp_path)[-1] == 20 and len(written(tmp_path)) == 21
    assert_all_finite(tmp_path)


HUGE = f"huge_record={BROKEN}"


def test_skip_where_only_the_loss_overflows(zygote, tmp_path):
    """Its gradient is finite, 1e22: applied, it would leave infinite moments for ever."""
    changes = (HUGE, "nonfinite=skip", "norm=none", "clip_norm=0.0", "num_steps=200")
    code, told = zygote.run(tmp_path / "run", *changes)
    assert code == 0, told
    assert {line["step"] for line in written(tmp_path / "run")} == set(batches_of(BROKEN, 200))
    assert_all_finite(tmp_path / "run")
    assert rows(tmp_path / "run")[-1]["eval/loss"] < 0.5  # of the other records it learns


def test_skip_where_every_loss_overflows(zygote, tmp_path):
    changes = (HUGE, "nonfinite=skip", "batch_size=37", "eval_batch_size=37", "num_steps=60")
    code, told = zygote.run(tmp_path / "run", *changes)
    assert code == 3 and not crashed(told), told
    assert_all_finite(tmp_path / "run")

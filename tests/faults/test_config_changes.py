"""A run that goes on with another config: accepted, accepted with a note, or refused.

Which is which stands in docs/faults.md, and that is compared with what the code does.
"""

import json
import re

import numpy as np
import pytest

from configs import common
from lnjax.training import workdir
from tests import runs
from tests.faults.processes import arrays
from tests.faults.processes import zygote as zygote
from tests.runs import caches as caches

# Another value for each key, of another run or of the same.
OTHER = {
    "task": "other",
    "seed": 1,
    "num_steps": 2000,
    "batch_size": 64,
    "eval_batch_size": 50,
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "adam": "authors",
    "clip_norm": 1.0,
    "clip": "per_tensor",
    "norm": "none",
    "dtype": "bfloat16",
    "log_steps": 10,
    "eval_steps": 100,
    "checkpoint_steps": 100,
    "steps_per_call": 2,
    "mesh": {"data": 2},
    "data": "real",
    "data_dir": "elsewhere",
    "nonfinite": "skip",
    "accumulate": 2,
}


def told_table():
    """Key -> what docs/faults.md says of it."""
    text = (runs.ROOT / "docs" / "faults.md").read_text()
    (table,) = re.findall(r"\| key \| on resume \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    found = {}
    for line in table.splitlines():
        keys, verdict, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        for key in re.findall(r"`(\w+)`", keys):
            assert key not in found
            found[key] = verdict
    return found


@pytest.fixture
def folder(tmp_path):
    """Of a run with the common config."""
    (tmp_path / "config.json").write_text(json.dumps(common.get_config().to_dict()))
    return tmp_path


def verdict(folder, key, *, strict=False):
    config = common.get_config().to_dict() | {key: OTHER[key]}
    assert config != common.get_config().to_dict()
    try:
        workdir.refuse_changed_config(folder, config, strict=strict)
    except ValueError as error:
        assert f"{key} was" in str(error)
        return "refused"
    return "accepted with a note" if key in workdir.MAY_CHANGE_WITH_A_NOTE else "accepted"


def test_the_table_is_what_the_code_does(folder):
    found = {key: verdict(folder, key) for key in common.get_config()}
    assert found == told_table()
    assert set(found.values()) == {"accepted", "accepted with a note", "refused"}


def test_a_key_of_a_task_is_refused(folder):
    config = common.get_config().to_dict() | {"dropout": 0.5}
    with pytest.raises(ValueError, match=r"dropout was None and is 0\.5"):
        workdir.refuse_changed_config(folder, config)


def test_what_is_compared_may_not_change(folder):
    """A table of rates must not hold a run that had two."""
    for key in workdir.MAY_CHANGE_WITH_A_NOTE:
        assert verdict(folder, key, strict=True) == "refused"


@pytest.mark.parametrize("values", [(1.0, 0.0), (0.0, 1.0)])
def test_clipping_may_not_begin_or_end(tmp_path, values):
    """It is a link of the optimizer, whose state would have another form."""
    before, after = (common.get_config().to_dict() | {"clip_norm": value} for value in values)
    (tmp_path / "config.json").write_text(json.dumps(before))
    with pytest.raises(ValueError, match="clip_norm was"):
        workdir.refuse_changed_config(tmp_path, after)


def test_a_changed_rate_is_taken_and_noted(zygote, tmp_path):
    folder = tmp_path / "run"
    assert zygote.run(folder, "num_steps=20")[0] == 0
    before = runs.contents(folder)
    # The run is at its end: a rate that nothing would come of is refused, and nothing is touched.
    code, told = zygote.run(folder, "num_steps=20", "learning_rate=0.0")
    assert code == 2 and "learning_rate was 0.01 and is 0.0, which would change nothing" in told
    assert runs.contents(folder) == before
    code, told = zygote.run(folder, "num_steps=40", "learning_rate=0.0", "clip_norm=0.5")
    (note,) = [line for line in told.splitlines() if line.startswith("note: from step 20 on: ")]
    assert code == 0 and "clip_norm was 10.0 and is 0.5" in note
    assert "learning_rate was 0.01 and is 0.0" in note
    manifest = json.loads((folder / "manifest-from-20.json").read_text())
    assert manifest["changed"] == {"clip_norm": [10.0, 0.5], "learning_rate": [0.01, 0.0]}
    assert json.loads((folder / "config.json").read_text())["learning_rate"] == 0.0
    # It is taken: nothing has moved since.
    then, now = arrays(folder, 20), arrays(folder, 40)
    for path in then:
        if "params" in path:
            np.testing.assert_array_equal(now[path], then[path])
    assert any("params" in path for path in then)


@pytest.mark.slow
def test_a_change_is_noted_once(zygote, tmp_path):
    for number in (20, 40, 60):
        code, told = zygote.run(
            tmp_path, f"num_steps={number}", f"clip_norm={10 / min(number, 40)}"
        )
        assert code == 0 and ("note: " in told) == (number == 40), told

"""Runs that were made before a config had all the keys that it has now."""

import importlib
import json

import pytest

from configs import common
from lnjax.training import workdir
from lnjax.training.checkpoint import CheckpointError
from lnjax.training.task import TaskData


@pytest.fixture
def old_run(tmp_path):
    """A folder of a run whose config has none of the keys that were added since."""
    config = common.get_config().to_dict()
    old = {key: value for key, value in config.items() if key not in workdir.ADDED}
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "data.json").write_text(json.dumps({"spec": {}, "batch": {}}))
    return tmp_path


def test_added_keys_are_keys():
    assert workdir.ADDED.keys() <= set(common.get_config())


def test_added_keys_of_a_task_are_its_keys(tmp_path):
    for task, added in workdir.ADDED_TO.items():
        config = importlib.import_module(f"configs.{task}").get_config().to_dict()
        assert added.keys() <= config.keys() - common.get_config().keys()
        folder = tmp_path / task
        folder.mkdir()
        old = {key: value for key, value in config.items() if key not in added}
        (folder / "config.json").write_text(json.dumps(old))
        (folder / "data.json").write_text(json.dumps({"spec": {}, "batch": {}}))
        workdir.refuse_changed_config(folder, config)
        assert workdir.read(folder).config == config
    with pytest.raises(ValueError, match="another config: bptt was 0 and is 50"):
        workdir.refuse_changed_config(tmp_path / "handwriting", config | {"bptt": 50})


def test_an_old_run_goes_on(old_run):
    config = common.get_config()
    assert set(workdir.ADDED) <= set(config)
    config.update(workdir.ADDED)
    workdir.refuse_changed_config(old_run, config.to_dict())
    assert workdir.read(old_run).config == config.to_dict()  # sample.py makes its optimizer of it


@pytest.mark.parametrize(("key", "value"), [("adam", "authors"), ("clip", "per_tensor")])
def test_an_old_run_does_not_go_on_in_another_way(old_run, key, value):
    config = common.get_config().to_dict() | {key: value}
    was = workdir.ADDED[key]
    with pytest.raises(ValueError, match=f"another config: {key} was '{was}' and is '{value}'"):
        workdir.refuse_changed_config(old_run, config)


def test_what_the_run_says_counts(old_run):
    """ADDED is only for what the folder is silent about."""
    config = common.get_config().to_dict() | {"adam": "authors"}
    (old_run / "config.json").write_text(json.dumps(config))
    workdir.refuse_changed_config(old_run, config)
    assert workdir.read(old_run).config["adam"] == "authors"
    with pytest.raises(ValueError, match="adam was 'authors' and is 'corrected'"):
        workdir.refuse_changed_config(old_run, common.get_config().to_dict())


@pytest.mark.parametrize(
    "data",
    [
        {"batch": {}},
        {"spec": [], "batch": {}},
        {"spec": {}, "batch": None},
        {"spec": {}, "batch": {"x": 3}},
        {"spec": {}, "batch": {"x": [[-1], "int8"]}},
        {"spec": {}, "batch": {"x": [[1e9], "int8"]}},
        {"spec": {}, "batch": {"x": [[10**12], "int8"]}},
        {"spec": {}, "batch": {"x": [[2], "O"]}},
        {"spec": {}, "batch": {"x": [[2], ["int8"]]}},
    ],
)
def test_a_description_of_another_form(old_run, data):
    (old_run / "data.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"data\.json is damaged"):
        workdir.read(old_run)


@pytest.mark.parametrize("config", [{}, {"task": ["a"]}, {"task": None}])
def test_a_config_without_a_task(old_run, config):
    (old_run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json is damaged \(it names no task\)"):
        workdir.read(old_run)


DATA = TaskData(train=None, evals={}, fingerprint={"name": "toy"}, spec={})


def describe(folder, step, **changes):
    config = common.get_config().to_dict() | {"num_steps": 100} | changes
    workdir.describe(folder, step, config, DATA, {})
    name = f"manifest-from-{step}.json" if step else "manifest.json"
    return json.loads((folder / name).read_text()).get("changed")


def test_a_changed_rate_is_noted_until_there_is_a_checkpoint_of_it(tmp_path, capsys):
    """The second of two processes that begin at 40 finds the rate of the first in config.json."""
    assert describe(tmp_path, 0, learning_rate=0.01) is None
    assert describe(tmp_path, 20, learning_rate=0.01) is None
    assert "note" not in capsys.readouterr().err
    for _ in range(2):
        assert describe(tmp_path, 40, learning_rate=0.001) == {"learning_rate": [0.01, 0.001]}
        assert "note: from step 40 on: learning_rate was 0.01" in capsys.readouterr().err
    assert describe(tmp_path, 40, learning_rate=0.002) == {"learning_rate": [0.01, 0.002]}
    assert describe(tmp_path, 60, learning_rate=0.002) is None
    assert describe(tmp_path, 40, learning_rate=0.01) is None  # taken back


def test_a_manifest_that_is_damaged_holds_no_run_up(tmp_path):
    describe(tmp_path, 0)
    (tmp_path / "manifest-from-40.json").write_text("{")
    assert describe(tmp_path, 40, clip_norm=3.0) == {"clip_norm": [10.0, 3.0]}


def test_what_another_process_has_trained_meanwhile_is_seen(tmp_path):
    """It was not there yet when this process looked first."""
    describe(tmp_path, 0, seed=1)
    before = (tmp_path / "config.json").read_text()
    for step in (0, 30):
        with pytest.raises(CheckpointError, match="another config: seed was 1 and is 0"):
            describe(tmp_path, step, seed=0)
    assert (tmp_path / "config.json").read_text() == before


def test_a_folder_that_is_moved_is_seen(tmp_path):
    folder = tmp_path / "run"
    with workdir.lock(folder) as check:
        check()
        folder.rename(tmp_path / "moved")
        with pytest.raises(CheckpointError, match="was moved or deleted"):
            check()
        folder.mkdir()  # by another run
        with pytest.raises(CheckpointError, match="was moved or deleted"):
            check()

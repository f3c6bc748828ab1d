"""Runs that were made before a config had all the keys that it has now."""

import importlib
import json

import pytest

from configs import common
from lnjax.training import workdir


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

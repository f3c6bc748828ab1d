"""Runs that were made before a config had all the keys that it has now."""

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

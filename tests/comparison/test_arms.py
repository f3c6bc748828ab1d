"""Arms from the command line, and what they change in a config."""

import pytest
from ml_collections import ConfigDict

from lnjax.comparison import arms


@pytest.fixture
def config():
    made = ConfigDict({"norm": "layer", "batch_size": 32, "rate": 1e-3, "bias": True})
    made.mesh = ConfigDict({"data": 1})
    return made.lock()


def test_several_keys_are_a_product():
    made = arms.parse(["norm:layer,none", "batch_size:128,4"])
    assert [arm.changes for arm in made] == [
        {"norm": norm, "batch_size": size} for norm in ("layer", "none") for size in ("128", "4")
    ]
    assert len({arm.name for arm in made}) == 4


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["norm"], "--arms=norm: expected key:value"),
        (["norm:"], "--arms=norm:: expected key:value"),
        ([":layer"], "--arms=:layer: expected key:value"),
        (["norm:layer,,none"], "expected key:value"),
        (["norm:layer,layer"], "--arms=norm: the value layer stands there twice"),
        (["norm:layer", "norm:none"], "the key norm stands there twice"),
        (["data_dir:/a,/b"], "no /"),
    ],
)
def test_what_is_no_list_of_arms_is_refused(texts, told):
    with pytest.raises(ValueError) as error:
        arms.parse(texts)
    assert told in str(error.value)


def test_changes_have_the_type_of_what_they_replace(config):
    changes = {"norm": "none", "batch_size": "4", "rate": "2", "bias": "False", "mesh.data": "2"}
    made = arms.apply(config, changes)
    expected = {"norm": "none", "batch_size": 4, "rate": 2.0, "bias": False, "mesh.data": 2}
    assert arms.flat(made) == expected
    assert {key: type(value) for key, value in arms.flat(made).items()} == {
        key: type(value) for key, value in expected.items()
    }
    assert arms.changed(made, config) == expected
    assert config.norm == "layer" and config.mesh.data == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nrom": "layer"}, "no key 'nrom'; did you mean 'norm'?"),
        ({"mesh.date": "1"}, "no key 'mesh.date'; did you mean 'mesh.data'?"),
        ({"batch_size": "many"}, "batch_size=many: expected a int, as 32 is"),
        ({"batch_size": "1.5"}, "batch_size=1.5: expected a int"),
        ({"bias": "yes"}, "bias=yes: expected a bool, as True is"),
    ],
)
def test_what_the_config_does_not_have_is_refused(config, changes, told):
    with pytest.raises(ValueError) as error:
        arms.apply(config, changes)
    assert told in str(error.value)

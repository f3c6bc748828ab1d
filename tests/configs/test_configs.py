"""Every config file and every variant: the common keys, plain values, numbers that fit."""

import importlib
import json
from pathlib import Path

import pytest

import tasks
from configs import common
from lnjax.training import workdir
from lnjax.training.optimizer import make_optimizer

FILES = sorted(
    path.stem
    for path in Path(common.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "common")
)
MODULES = {name: importlib.import_module(f"configs.{name}") for name in FILES}
ALL = [(name, variant) for name, module in MODULES.items() for variant in ("", *module.VARIANTS)]
every_config = pytest.mark.parametrize(("name", "variant"), ALL)


def leaves(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    else:
        yield value


def test_there_are_configs():
    assert "handwriting" in FILES


@every_config
def test_keys_and_values(name, variant):
    config = MODULES[name].get_config(variant) if variant else MODULES[name].get_config()
    common_keys = common.get_config()
    assert set(common_keys) <= set(config)
    for key, value in common_keys.items():
        assert type(config[key]) is type(value), key
    plain = config.to_dict()
    assert all(type(value) in (bool, int, float, str) for value in leaves(plain))
    assert json.loads(json.dumps(plain)) == plain  # a resumed run compares it with config.json
    assert MODULES[name].get_config(variant).to_dict() == plain


@every_config
def test_a_misspelt_key_is_refused(name, variant):
    config = MODULES[name].get_config(variant)
    config.lock()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.learning_rat = 1.0
    with pytest.raises(AttributeError, match="batch_size"):
        _ = config.batch_sise


@every_config
def test_the_loop_takes_it(name, variant):
    config = MODULES[name].get_config(variant)
    workdir.check_steps(config)
    make_optimizer(config)
    assert config.task == name and tasks.load(config.task)
    for key in ("features", "num_layers", "batch_size", "eval_batch_size"):
        assert config.get(key, 1) >= 1
    # A resumed run loses less than it keeps, and something is seen of every run.
    assert config.checkpoint_steps <= config.num_steps and config.log_steps <= config.num_steps
    assert config.data in ("embedded", "real") and config.data_dir == ""
    if variant in ("", "smoke"):  # what is run as it is needs no files
        assert config.data == "embedded"
    if variant.startswith("paper"):
        assert config.data == "real"


@pytest.mark.parametrize("name", FILES)
def test_variants(name):
    module = MODULES[name]
    assert "smoke" in module.VARIANTS
    assert "real" in [module.get_config(variant).data for variant in module.VARIANTS]
    assert module.__doc__ and f"--config=configs/{name}.py" in module.__doc__
    with pytest.raises(ValueError, match=rf"configs/{name}\.py.*'smoky'.*smoke"):
        module.get_config("smoky")


def test_keys_that_every_config_has():
    assert set(
        "seed num_steps batch_size learning_rate adam clip_norm clip norm dtype log_steps"
        " eval_steps checkpoint_steps steps_per_call mesh data_dir nonfinite".split()
    ) <= set(common.get_config())


def test_handwriting_has_the_papers_numbers():
    config = MODULES["handwriting"].get_config("paper")
    paper = {  # the paper's Section 6.5 and Graves' sizes
        "num_layers": 3,
        "features": 400,
        "mixture_components": 20,
        "window_components": 10,
        "batch_size": 8,
        "max_points": 500,
        "norm": "layer",
        "num_steps": 200_000,
        "clip_norm": 10.0,
        "points_per_letter": 25.0,
        "sigma_floor": 0.0,
        "schedule": "constant",
    }
    assert {key: config[key] for key in paper} == paper

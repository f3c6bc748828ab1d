"""The ConvNet: the network and its loss from the equations, sizes, data sets, configs."""

import jax
import jax.numpy as jnp
import pytest

from configs import convnet as config_file
from lnjax.data import DataError
from tasks import convnet
from tests.tasks.classifiers import NORMS, check_against_oracle, convnet_task

TASKS = [convnet_task(norm) for norm in NORMS] + [convnet_task("batch", unbiased=True)]
IDS = [*map(str, NORMS), "batch, unbiased"]


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_training_is_what_the_equations_say(task, rng):
    check_against_oracle(task, rng, train=True)


@pytest.mark.parametrize("task", TASKS[:5], ids=IDS[:5])
def test_evaluation_is_what_the_equations_say(task, rng):
    check_against_oracle(task, rng, train=False)


# ---- sizes, data sets and configs ------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("norm", NORMS)
def test_layers(variant, norm):
    config = config_file.get_config(variant)
    config.norm = str(norm).lower()
    task = convnet.make_task(config, {"num_classes": 10})
    side, channels = (32, 3) if variant == "cifar10" else (28, 1)
    batch = {
        "image": jnp.zeros((2, side, side, channels), jnp.uint8),
        "mask": jnp.ones(2, bool),
    }
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    names = [f"conv_{i}" for i in range(config.num_layers)]
    params = variables.pop("params")
    assert list(params) == [*names, "logits"] and "scale" not in params["logits"]
    for i, name in enumerate(names):
        features = config.features * 2**i
        shape = (config.kernel_size, config.kernel_size, channels, features)
        assert params[name]["kernel"].shape == shape
        assert ("scale" in params[name]) == (norm is not None)
        channels, side = features, -(-side // 2)
    assert params["logits"]["kernel"].shape == (side * side * channels, 10)
    assert variables == {} or (norm == "batch" and list(variables["batch_stats"]) == names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "svhn"}, "dataset='svhn' is not known; there are digits, fashion_mnist, cif"),
        ({"dataset": "cifar10"}, "cifar10 has no config 'embedded'.*'real'"),
        ({"dataset": "fashion_mnist"}, "fashion_mnist has no config 'embedded'.*'real'"),
    ],
)
def test_data_sets_that_are_not_there(changes, message):
    config = config_file.get_config()
    config.update(changes)
    with pytest.raises((ValueError, DataError), match=message):
        convnet.make_data(config)


@pytest.mark.parametrize(
    ("variant", "dataset", "num_images"),
    [
        ("", "digits", 4_000),
        ("mnist", "digits", 55_000),
        ("fashion_mnist", "fashion_mnist", 55_000),
        ("cifar10", "cifar10", 45_000),
    ],
)
def test_configs(variant, dataset, num_images):
    config = config_file.get_config(variant)
    assert config.dataset == dataset and config.data == ("real" if variant else "embedded")
    assert abs(config.log_steps * config.batch_size - num_images) <= config.batch_size / 2
    assert config.eval_steps == config.log_steps and config.num_steps % config.log_steps == 0
    assert config.clip_norm == 0 and config.schedule == "constant"

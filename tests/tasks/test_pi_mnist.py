"""Permutation-invariant MNIST: the network and its loss from the equations, sizes, configs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pi_mnist as config_file
from tasks import pi_mnist
from tests.tasks.classifiers import (
    NORMS,
    check_against_oracle,
    loss_and_gradients,
    make_batch,
    pi_mnist_task,
    random_variables,
)

TASKS = [pi_mnist_task(norm) for norm in NORMS] + [
    pi_mnist_task("batch", unbiased=True),
    pi_mnist_task("batch", norm_logits=False),
    pi_mnist_task("weight", norm_logits=False),
]
IDS = [*map(str, NORMS), "batch, unbiased", "batch, hidden", "weight, hidden"]


@pytest.mark.parametrize("task", TASKS, ids=IDS)
@pytest.mark.some(3)
def test_training_is_what_the_equations_say(task, rng):
    check_against_oracle(task, rng, train=True)


@pytest.mark.parametrize("task", TASKS[:5], ids=IDS[:5])
def test_evaluation_is_what_the_equations_say(task, rng):
    check_against_oracle(task, rng, train=False)


def test_pixels_have_no_places(rng):
    """Another order of the pixels, with the kernel's rows in it, is the same network."""
    task = TASKS[0]
    params, state = random_variables(task, rng)
    batch = make_batch(task, rng)
    order = rng.permutation(6)
    shuffled = batch["image"].reshape(-1, 6)[:, order].reshape(batch["image"].shape)
    assert not np.array_equal(shuffled, batch["image"])
    first = {**params["hidden_0"], "kernel": params["hidden_0"]["kernel"][order]}
    got, _ = loss_and_gradients(
        task, {**params, "hidden_0": first}, state, {**batch, "image": shuffled}, True
    )
    want, _ = loss_and_gradients(task, params, state, batch, True)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


# ---- sizes and configs -----------------------------------------------------------------------

BATCH = {"image": jnp.zeros((2, 28, 28, 1), jnp.uint8), "mask": jnp.ones(2, bool)}


def task_of(variant="", **changes):
    config = config_file.get_config(variant)
    config.update(changes)
    return pi_mnist.make_task(config, {"num_classes": 10})


@pytest.mark.parametrize(
    ("norm", "extra"),
    # a gain for each unit that is normalized; the bias of each is there without a norm
    [("none", 0), ("layer", 2_000), ("rms", 2_000), ("batch", 2_010), ("weight", 2_010)],
)
def test_number_of_parameters_is_the_papers(norm, extra):
    task = task_of("paper", norm=norm)
    variables = jax.eval_shape(task.init, jax.random.key(0), BATCH)
    params = variables.pop("params")
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
    assert 784 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 10 + 10 == 1_796_010
    assert sum(sizes) == 1_796_010 + extra
    assert list(params) == ["hidden_0", "hidden_1", "logits"]
    with_gain = [name for name, layer in params.items() if "scale" in layer]
    hidden, logits = ["hidden_0", "hidden_1"], ["logits"]
    assert with_gain == {2_010: hidden + logits, 2_000: hidden, 0: []}[extra]
    if norm == "batch":
        assert list(variables["batch_stats"]) == hidden + logits
    else:
        assert variables == {}


def test_batch_norm_may_leave_the_logits_alone():
    variables = jax.eval_shape(
        task_of(norm="batch", norm_logits=False).init, jax.random.key(0), BATCH
    )
    assert list(variables["batch_stats"]) == ["hidden_0", "hidden_1"]
    assert "scale" not in variables["params"]["logits"]


def test_parameters_at_the_start():
    params = jax.jit(task_of().init)(jax.random.key(0), BATCH)["params"]
    for layer, inputs in zip(params.values(), (784, 1000, 1000), strict=True):
        assert not np.any(layer["bias"]) and np.all(layer.get("scale", 1) == 1)
        # He et al. (2015)
        assert np.std(layer["kernel"]) == pytest.approx(math.sqrt(2 / inputs), rel=0.02)


@pytest.mark.parametrize("variant", ["", *config_file.VARIANTS])
def test_configs_are_the_papers(variant):
    config = config_file.get_config(variant)
    assert (config.learning_rate, config.schedule, config.clip_norm) == (1e-3, "constant", 0)
    small = "small" in variant
    if variant != "smoke":
        assert (config.features, config.num_layers) == (1000, 2)
        assert config.batch_size == (4 if small else 128)
        assert config.unbiased == small and config.norm_logits
        num_images = 55_000 if "paper" in variant else 4_000
        # An epoch, to the nearest step, between two lines of the log.
        assert abs(config.log_steps * config.batch_size - num_images) <= config.batch_size / 2
        assert config.eval_steps == config.log_steps
        assert config.num_steps % config.log_steps == 0
    if "paper" in variant:
        assert config.num_steps == 60 * config.log_steps


def test_a_smoke_config_makes_a_task():
    task = task_of("smoke")
    assert task == task_of("smoke") and hash(task) == hash(task_of("smoke"))
    assert task.name == "pi_mnist" and task.norm == "layer"

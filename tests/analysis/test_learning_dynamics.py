"""Gradient descent with a record, against loops in NumPy and the laws of a normalized layer."""

import jax.numpy as jnp
import numpy as np
import pytest

import lnjax
from lnjax.analysis import compare_dynamics, descend, train_student
from tests.analysis import glm_oracle


@pytest.fixture(autouse=True)
def _in_float64(x64):
    yield


def loss_of(norm):
    """A sum with random cotangents of a normalized layer; no other parameter but a bias."""
    normalize = {"layer": lnjax.layer_norm, "batch": lnjax.batch_norm}

    def loss(params, batch):
        x, cotangents = batch
        summed = x @ params["layer"]["kernel"]
        if norm:
            summed = normalize[norm](summed, epsilon=0.0)
        return jnp.vdot(cotangents, jnp.tanh(summed + params["bias"][None])) / len(x)

    return loss


@pytest.fixture
def run(rng):
    params = {
        "layer": {"kernel": jnp.array(rng.normal(size=(3, 4)))},
        "bias": jnp.array(rng.normal(size=4)),
    }
    return params, (jnp.array(rng.normal(size=(6, 5, 3))), jnp.array(rng.normal(size=(6, 5, 4))))


@pytest.mark.parametrize("decay", (0.0, 0.2))
def test_the_record_is_that_of_a_loop(decay, run):
    params, (xs, cotangents) = run
    rate = 0.7
    last, record = descend(
        loss_of("layer"),
        params,
        (xs, cotangents),
        ["layer", "kernel"],
        learning_rate=rate,
        weight_decay=decay,
    )
    kernel, bias = np.asarray(params["layer"]["kernel"]), np.asarray(params["bias"])
    first = kernel

    def angle(v, w):
        cosine = np.vdot(v, w) / np.linalg.norm(v) / np.linalg.norm(w)
        return np.arccos(np.clip(cosine, -1, 1))

    for t, (x, cotangent) in enumerate(zip(np.asarray(xs), np.asarray(cotangents), strict=True)):

        def loss(kernel, bias, x=x, cotangent=cotangent):
            a = x @ kernel
            a = (a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True)
            return np.vdot(cotangent, np.tanh(a + bias)) / len(x)

        of_kernel = glm_oracle.differences(lambda w, bias=bias: loss(w, bias), kernel)
        of_bias = glm_oracle.differences(lambda b, kernel=kernel: loss(kernel, b), bias)
        of_kernel = of_kernel.reshape(kernel.shape)
        moved = kernel - rate * (of_kernel + decay * kernel)
        size = np.linalg.norm(kernel)
        expected = {
            "loss": loss(kernel, bias),
            "norm": size,
            "gradient_norm": np.linalg.norm(of_kernel),
            "radial": 0.0,
            "angle": angle(kernel, moved),
            "travelled": angle(first, kernel),
            "effective_rate": rate / size**2,
        }
        for field, value in expected.items():
            actual = getattr(record, field)[t]
            np.testing.assert_allclose(actual, value, rtol=1e-6, atol=1e-7, err_msg=field)
        kernel, bias = moved, bias - rate * of_bias
    np.testing.assert_allclose(last["layer"]["kernel"], kernel, atol=1e-7)
    np.testing.assert_allclose(last["bias"], bias, atol=1e-7)
    np.testing.assert_allclose(record.norm[-1], np.linalg.norm(kernel), atol=1e-7)
    np.testing.assert_allclose(record.travelled[-1], angle(first, kernel), atol=1e-7)


@pytest.mark.parametrize("norm", ("layer", "batch", None))
def test_the_law_of_growth(norm, run):
    params, batches = run
    rate = 1.3
    _, record = descend(loss_of(norm), params, batches, ["layer", "kernel"], learning_rate=rate)
    grown = record.norm[1:] ** 2
    law = record.norm[:-1] ** 2 + (rate * record.gradient_norm) ** 2
    turned = rate * record.gradient_norm / record.norm[:-1]
    holds = [np.allclose(grown, law, rtol=1e-12), np.allclose(np.tan(record.angle), turned)]
    assert holds == [norm is not None] * 2


def test_k_times_the_weights_at_k_squared_times_the_rate_turn_alike(run):
    params, batches = run
    alone = {"kernel": params["layer"]["kernel"]}

    def loss(params, batch):
        return loss_of("layer")({"layer": params, "bias": jnp.zeros(4)}, batch)

    _, one = descend(loss, alone, batches, ["kernel"], learning_rate=0.5)
    larger = {"kernel": 4 * alone["kernel"]}
    _, alike = descend(loss, larger, batches, ["kernel"], learning_rate=8.0)
    np.testing.assert_allclose(alike.travelled, one.travelled, rtol=1e-6)
    np.testing.assert_allclose(alike.effective_rate, one.effective_rate, rtol=1e-12)
    _, slower = descend(loss, larger, batches, ["kernel"], learning_rate=0.5)
    np.testing.assert_allclose(np.tan(one.angle[0]) / np.tan(slower.angle[0]), 16.0)
    assert slower.travelled[-1] < one.travelled[-1] / 4


def test_weights_that_are_not_there_are_named(run):
    params, batches = run
    with pytest.raises(KeyError, match=r"watch=\['layer', 'weight'\]: the parameters have no"):
        descend(loss_of(None), params, batches, ["layer", "weight"], learning_rate=0.1)


def test_decay_and_growth_balance():
    """At the end a step turns the weights by sqrt(2 rate decay), wherever they started."""
    rate, decay = 1.0, 0.02
    for scale in (0.5, 2.0):
        record = train_student(
            learning_rate=rate, weight_scale=scale, weight_decay=decay, steps=600, features=16
        )
        typical = np.sqrt(np.mean(np.square(record.angle[-300:])))
        np.testing.assert_allclose(typical, (2 * rate * decay) ** 0.5, rtol=0.1)


def test_a_comparison_starts_alike_and_differs_in_one_thing():
    result = compare_dynamics(0.5, scales=(1.0, 4.0), decays=(0.0, 0.1), steps=20)
    starts = [run.loss[0] for runs in (result.scales, result.decays) for run in runs.values()]
    np.testing.assert_allclose(starts, starts[0])
    assert [*result.norms] == ["layer", "batch", "weight", None]
    plain = result.norms["layer"]
    for norm, run in result.norms.items():
        law = np.sqrt(run.norm[0] ** 2 + np.sum((0.5 * np.asarray(run.gradient_norm)) ** 2))
        assert np.isclose(run.norm[-1], law, rtol=1e-10) == (norm is not None)
        np.testing.assert_allclose(run.norm[0], plain.norm[0])
    np.testing.assert_allclose(plain.effective_rate[0] / result.scales[4.0].effective_rate[0], 16)
    assert result.decays[0.1].norm[-1] < plain.norm[0] < plain.norm[-1]
    assert (np.asarray(plain.travelled)[1:] > 0).all() and plain.travelled[0] == 0
    other = train_student(learning_rate=0.5, steps=20, seed=1)
    assert other.loss[0] != plain.loss[0]

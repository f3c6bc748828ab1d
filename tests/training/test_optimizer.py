"""The optimizer against Adam written out in NumPy, and what it does with gradients that are NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from lnjax.training.optimizer import MAX_SKIPPED_IN_A_ROW, learning_rate, make_optimizer


def make_config(**changes) -> ConfigDict:
    config = common.get_config()
    config.update(dict(num_steps=100, learning_rate=0.5, schedule="constant", clip_norm=0.0))
    config.update(changes)
    return config


def updates(config, gradients):
    """What each gradient (n,) in its turn does to the parameters, from zeros."""
    tx = make_optimizer(config)
    params = jnp.zeros(len(gradients[0]))
    state, each = tx.init(params), []
    update = jax.jit(tx.update)
    for gradient in gradients:
        change, state = update(jnp.asarray(gradient, jnp.float32), state, params)
        each.append(np.asarray(change))
    return each


def adam(rates, gradients, clip_norm=0.0):
    """Kingma & Ba (2015), Algorithm 1, after a clip of the gradient's norm."""
    m = v = np.zeros(len(gradients[0]))
    each = []
    for t, (rate, g) in enumerate(zip(rates, gradients, strict=True), start=1):
        g = np.asarray(g, np.float64)
        norm = np.sqrt(g @ g)
        if clip_norm and norm > clip_norm:
            g = g * clip_norm / norm
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        each.append(-rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return each


def test_schedules():
    constant = learning_rate(make_config())
    assert [float(constant(step)) for step in (0, 7, 10_000)] == [0.5] * 3
    cosine = learning_rate(make_config(schedule="cosine"))
    assert float(cosine(0)) == 0.5
    assert float(cosine(100)) == float(cosine(10_000)) == pytest.approx(0.05, rel=1e-6)
    for step in (1, 25, 50, 99):
        want = 0.5 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / 100)))
        assert float(cosine(step)) == pytest.approx(want, rel=1e-5)


GRADIENTS = [[30.0, -40.0], [0.3, 0.4], [-3.0, 4.0], [0.0, 1e-3]]  # norms 50, 0.5, 5, 0.001


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 10.0])
def test_updates_are_adams(clip_norm, schedule, nonfinite):
    config = make_config(clip_norm=clip_norm, schedule=schedule, num_steps=4, nonfinite=nonfinite)
    rates = [0.5] * 4
    if schedule == "cosine":
        rates = [0.5 * (0.1 + 0.45 * (1 + np.cos(np.pi * t / 4))) for t in range(4)]
    want = adam(rates, GRADIENTS, clip_norm)
    np.testing.assert_allclose(updates(config, GRADIENTS), want, rtol=1e-4)
    if clip_norm == 1.0:  # the clip is seen in the updates
        assert not np.allclose(want, adam(rates, GRADIENTS), rtol=0.1)


def test_the_clip_is_of_the_norm_over_all_parameters():
    config = make_config(clip_norm=1.0)
    tx = make_optimizer(config)
    params = {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}
    state = tx.init(params)
    for x, y in GRADIENTS:
        change, state = tx.update({"a": jnp.full(1, x), "b": jnp.full((1, 1), y)}, state, params)
    want = adam([0.5] * 4, GRADIENTS, 1.0)[-1]
    np.testing.assert_allclose([change["a"][0], change["b"][0, 0]], want, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_skip_leaves_a_broken_update_out(bad):
    config = make_config(nonfinite="skip", clip_norm=10.0)
    good = [[1.0, 2.0], [-2.0, 1.0], [0.5, 0.5]]
    got = updates(config, [good[0], [1.0, bad], good[1], [bad, bad], [bad, 0.0], good[2]])
    for i in (1, 3, 4):
        np.testing.assert_array_equal(got[i], [0.0, 0.0])
    # As if the broken ones had not been: neither moments nor the count of steps moved.
    kept = [got[0], got[2], got[5]]
    np.testing.assert_array_equal(kept, updates(make_config(clip_norm=10.0), good))


def test_a_run_whose_every_update_is_broken_is_seen_to_be_broken():
    config = make_config(nonfinite="skip")
    bad, good = [np.nan, 1.0], [1.0, 1.0]
    one_less = updates(config, [bad] * MAX_SKIPPED_IN_A_ROW + [good] + [bad] * 3)
    assert np.isfinite(one_less).all()
    (*skipped, last) = updates(config, [bad] * (MAX_SKIPPED_IN_A_ROW + 1))
    assert not np.any(skipped) and np.isnan(last).any()


def test_stop_hides_nothing():
    assert np.isnan(updates(make_config(), [[np.nan, 1.0]])[0]).any()


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [("schedule", "linear", ("constant", "cosine")), ("nonfinite", "ignore", ("stop", "skip"))],
)
def test_unknown_values_are_refused(key, value, known):
    with pytest.raises(ValueError, match=f"{key}='{value}' is not known") as caught:
        make_optimizer(make_config(**{key: value}))
    assert all(repr(name) in str(caught.value) for name in known)


def test_a_negative_clip_is_refused():
    """It would turn every gradient around: the loss rises."""
    with pytest.raises(ValueError, match="clip_norm"):
        make_optimizer(make_config(clip_norm=-1.0))

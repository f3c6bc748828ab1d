"""The optimizer against Adam written out in NumPy, and what it does with gradients that are NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import common
from lnjax.training.links import clip_by_root_of_global_norm, clip_by_tensor_norm
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


def clipped(g, rule, bound):
    """The gradient g (n,), as one array, after a clip."""
    norm = np.sqrt(g @ g)
    if rule == "reader":
        return g * bound / np.sqrt(norm) if norm > bound**2 else g
    return g * bound / norm if norm > bound else g


def adam(rates, gradients, clip_norm=0.0, *, rule="global", form="corrected"):
    """Kingma & Ba (2015), Algorithm 1, or what the authors made of it, after a clip."""
    m = v = np.zeros(len(gradients[0]))
    each = []
    for t, (rate, g) in enumerate(zip(rates, gradients, strict=True), start=1):
        g = np.asarray(g, np.float64)
        g = clipped(g, rule, clip_norm) if clip_norm else g
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if form == "corrected":
            each.append(-rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
        else:
            rate_t = rate * np.sqrt(1 - 0.001**t) / (1 - 0.1**t)
            each.append(-rate_t * m / (np.sqrt(v) + 1e-8))
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


# ---- the paper's own rules -------------------------------------------------------------------


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
@pytest.mark.parametrize(
    ("form", "rule", "clip_norm"),
    [
        ("authors", "global", 0.0),
        ("authors", "global", 5.0),
        ("authors", "per_tensor", 2.0),
        ("corrected", "per_tensor", 2.0),
        ("corrected", "reader", 2.0),  # from a norm of 4 on: 50 and 5, not 0.5
        ("corrected", "reader", 10.0),  # from 100 on: none of these
    ],
)
def test_updates_under_the_papers_rules(form, rule, clip_norm, nonfinite):
    config = make_config(adam=form, clip=rule, clip_norm=clip_norm, nonfinite=nonfinite)
    want = adam([0.5] * 4, GRADIENTS, clip_norm, rule=rule, form=form)
    np.testing.assert_allclose(updates(config, GRADIENTS), want, rtol=1e-4)
    plain = adam([0.5] * 4, GRADIENTS)
    assert np.allclose(want, plain, rtol=0.1) == (form == "corrected" and clip_norm == 10.0)


def test_each_rule_of_clipping_on_two_arrays():
    """Norms 5 (and 5 sqrt(1200)), 0.5 and 0, by hand."""
    rows = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[0.3], [0.4]]), "c": jnp.zeros(3)}

    def run(clip, gradients):
        return jax.jit(clip.update)(gradients, clip.init(gradients))[0]

    got = run(clip_by_tensor_norm(2.0), rows)
    np.testing.assert_allclose(got["a"], [1.2, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(got["b"], rows["b"])
    np.testing.assert_array_equal(got["c"], rows["c"])
    # The L2 norm, not the root of the mean square: that of this matrix is 0.5.
    got = run(clip_by_tensor_norm(2.0), {"a": jnp.full((30, 40), 0.5)})
    np.testing.assert_allclose(jnp.linalg.norm(got["a"]), 2.0, rtol=1e-5)

    rule = clip_by_root_of_global_norm(10.0)
    for norm, left in ((99.0, 99.0), (101.0, 10 * np.sqrt(101.0)), (1e4, 1000.0)):
        gradients = {"a": jnp.full(2, norm * 0.6 / np.sqrt(2.0)), "b": jnp.full((1, 1), norm * 0.8)}
        got = run(rule, gradients)
        np.testing.assert_allclose(optax.tree.norm(got), left, rtol=1e-5)
        np.testing.assert_allclose(got["b"][0, 0] / got["a"][0], 0.8 / 0.6 * np.sqrt(2), rtol=1e-5)
    zeros = {"a": jnp.zeros(2)}
    np.testing.assert_array_equal(run(rule, zeros)["a"], [0.0, 0.0])


@pytest.mark.parametrize("clip", ["per_tensor", "reader"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_clip_hides_nothing(clip, bad):
    got = updates(make_config(clip=clip, clip_norm=1.0), [[bad, 1.0]])[0]
    assert not np.isfinite(got).all()


def test_the_authors_adam_on_a_constant_gradient():
    """Its step in units of the learning rate, as computed for its code, whatever the gradient."""
    table = {1: 3.51, 2: 4.29, 5: 5.80, 10: 6.53, 12: 6.57, 30: 5.57, 100: 3.24}
    table |= {300: 1.96, 1000: 1.26, 3000: 1.03}
    tx = make_optimizer(make_config(adam="authors"))
    gradients = jnp.array([1.0, -20.0, 1e-3])

    def step(state, _):
        change, state = tx.update(gradients, state, gradients)
        return state, change

    steps = np.asarray(jax.lax.scan(step, tx.init(gradients), None, length=3000)[1]) / 0.5
    for t, want in table.items():
        np.testing.assert_allclose(steps[t - 1], [-want, want, -want], atol=0.006)
    assert np.abs(steps[:, 0]).argmax() == 12 - 1
    # The corrected one takes the rate, always.
    np.testing.assert_allclose(updates(make_config(), [gradients])[0], [-0.5, 0.5, -0.5], rtol=1e-4)


def test_epsilon_stands_beside_the_uncorrected_root():
    """g = 1e-6 at t = 1: sqrt(v) is 3.16e-8, so 1e-8 beside it takes a quarter away."""
    (got,) = updates(make_config(adam="authors"), [[1e-6, 0.0]])
    want = 0.5 * np.sqrt(0.999) / 0.9 * 1e-7 / (np.sqrt(0.001 * 1e-12) + 1e-8)
    np.testing.assert_allclose(got, [-want, 0.0], rtol=1e-4)
    assert want / 0.5 == pytest.approx(2.67, abs=0.01)


@pytest.mark.parametrize("adam_form", ["corrected", "authors"])
def test_moments_and_updates_keep_the_dtype_of_their_parameters(adam_form):
    tx = make_optimizer(make_config(adam=adam_form, clip="per_tensor", clip_norm=1.0))
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    state = tx.init(params)
    change, after = tx.update(params, state, params)
    for got, like in ((change, params), (after, state)):
        assert jax.tree.map(lambda a, b: a.dtype == b.dtype, got, like) == jax.tree.map(
            lambda _: True, like
        )


# ---- updates that are not finite ---------------------------------------------------------------


@pytest.mark.parametrize("form", ["corrected", "authors"])
@pytest.mark.parametrize("clip", ["global", "per_tensor", "reader"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.some(6)
def test_skip_leaves_a_broken_update_out(bad, clip, form):
    changes = dict(clip=clip, adam=form, clip_norm=1.0)
    config = make_config(nonfinite="skip", **changes)
    good = [[1.0, 2.0], [-2.0, 1.0], [0.5, 0.5]]
    got = updates(config, [good[0], [1.0, bad], good[1], [bad, bad], [bad, 0.0], good[2]])
    for i in (1, 3, 4):
        np.testing.assert_array_equal(got[i], [0.0, 0.0])
    # As if the broken ones had not been: neither moments nor the count of steps moved.
    kept = [got[0], got[2], got[5]]
    np.testing.assert_array_equal(kept, updates(make_config(**changes), good))


def test_skip_leaves_a_gradient_out_whose_norm_overflows():
    """Each number is finite, its square is not: Adam's moment would be infinite for ever."""
    huge = [1.0, 1e22]
    got = updates(make_config(nonfinite="skip"), [[1.0, 2.0], huge, [-2.0, 1.0]])
    np.testing.assert_array_equal(got[1], [0.0, 0.0])
    kept = updates(make_config(), [[1.0, 2.0], [-2.0, 1.0]])
    np.testing.assert_array_equal([got[0], got[2]], kept)
    (*skipped, last) = updates(make_config(nonfinite="skip"), [huge] * (MAX_SKIPPED_IN_A_ROW + 1))
    assert not np.any(skipped) and np.isnan(last).all()


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
    [
        ("schedule", "linear", ("constant", "cosine")),
        ("nonfinite", "ignore", ("stop", "skip")),
        ("adam", "plain", ("corrected", "authors")),
        ("clip", "value", ("global", "per_tensor", "reader")),
    ],
)
def test_unknown_values_are_refused(key, value, known):
    with pytest.raises(ValueError, match=f"{key}='{value}' is not known") as caught:
        make_optimizer(make_config(**{key: value}))
    assert all(repr(name) in str(caught.value) for name in known)


def test_a_negative_clip_is_refused():
    """It would turn every gradient around: the loss rises."""
    with pytest.raises(ValueError, match="clip_norm"):
        make_optimizer(make_config(clip_norm=-1.0))


# ---- several batches an update -----------------------------------------------------------------


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_accumulated_updates_are_adams_of_the_mean_gradients(nonfinite):
    """Two batches an update: the mean is clipped, not each; schedule and moments count updates."""
    config = make_config(
        accumulate=2, clip_norm=1.0, schedule="cosine", num_steps=4, nonfinite=nonfinite
    )
    got = updates(config, GRADIENTS)
    rates = [0.5, 0.5 * (0.1 + 0.45 * (1 + np.cos(np.pi / 2)))]
    means = np.reshape(GRADIENTS, (2, 2, 2)).mean(axis=1)
    np.testing.assert_array_equal([got[0], got[2]], np.zeros((2, 2)))
    np.testing.assert_allclose([got[1], got[3]], adam(rates, means, 1.0), rtol=1e-4)
    # Had each been clipped, the second update would be another one.
    each = [clipped(np.array(g), "global", 1.0) for g in GRADIENTS]
    assert not np.allclose(got[3], adam(rates, np.reshape(each, (2, 2, 2)).mean(axis=1))[1], 0.05)


def test_a_broken_batch_is_left_out_of_an_accumulated_update():
    config = make_config(accumulate=2, nonfinite="skip")
    good = GRADIENTS[:4]
    got = updates(config, [good[0], [np.nan, 1.0], good[1], [np.inf, 0.0], *good[2:]])
    kept = [got[0], got[2], got[4], got[5]]
    np.testing.assert_array_equal(kept, updates(make_config(accumulate=2), good))
    np.testing.assert_array_equal([got[1], got[3]], np.zeros((2, 2)))


def test_one_batch_an_update_has_the_state_of_old_runs():
    params = {"a": jnp.zeros(2)}
    one = jax.tree.structure(make_optimizer(make_config(accumulate=1)).init(params))
    assert "MultiSteps" not in str(one)
    two = jax.tree.structure(make_optimizer(make_config(accumulate=2)).init(params))
    assert "MultiSteps" in str(two)


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "2", None])
def test_accumulate_must_be_a_number_of_batches(value):
    config = make_config()
    config = ConfigDict({**config.to_dict(), "accumulate": value})
    with pytest.raises(ValueError, match=r"^accumulate=.* must be an integer, 1 or larger"):
        make_optimizer(config)


def test_no_batch_is_accumulated_in_vain():
    with pytest.raises(ValueError, match="num_steps=100 must be a multiple of accumulate=3"):
        make_optimizer(make_config(accumulate=3))

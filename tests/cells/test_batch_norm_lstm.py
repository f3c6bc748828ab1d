"""The LSTM with recurrent batch norm: its equations, its statistics, and what they do not see."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax import BatchNormLSTMCell
from tests.oracles import sigmoid
from tests.trees import assert_close, assert_equal

T, B, D, H, S = 5, 4, 2, 3, 6
EPSILON = 1e-5
# Equal lengths, a shorter row, a row with gaps, an empty row.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool).T


def random_case(rng, **attributes):
    """A cell, its variables (nothing at 0 or 1), inputs (T, B, D) and a carry."""
    cell = BatchNormLSTMCell(features=H, max_steps=S, **attributes)
    carry = cell.initialize_carry(jax.random.key(0), (B, D))
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, np.ones((B, D)))

    def noise(path, leaf):
        name = path[-1].key
        if name == "count":
            return np.full(leaf.shape, 3.0, np.float32)
        values = rng.normal(0.2, 0.7, leaf.shape)
        return np.abs(values) + 0.3 if name.startswith("var") else values

    variables = jax.tree_util.tree_map_with_path(noise, shapes)
    carry = (rng.normal(size=(B, H)), rng.normal(size=(B, H)), carry[2])
    return cell, variables, rng.normal(size=(T, B, D)), carry


def layer(cell, **attributes):
    return lnjax.RNN(cell, time_major=True, return_carry=True, keep_order=True, **attributes)


def in_layer(variables):
    return {collection: {"cell": values} for collection, values in variables.items()}


@cache
def compiled(module):
    return jax.jit(module.apply, static_argnames="mutable")


def apply(cell, variables, xs, carry, mask=None, *, mutable=False, **attributes):
    return compiled(layer(cell, **attributes))(
        in_layer(variables),
        xs,
        initial_carry=carry,
        mask=None if mask is None else jnp.asarray(mask),
        mutable="batch_stats" if mutable else False,
    )


@np.errstate(over="ignore")  # where rows are not real
def by_hand(params, xs, c, h, rows, statistics=None):
    """The module's equations for T steps at which `rows` (T, B) are real, in NumPy float64.

    `statistics`: of the population, for rows that all start at step 0; None: of the batch.
    """
    seen = []

    def standardize(a, site, t, real, scale):
        if statistics is None:
            mean = a[real].sum(0) / len(a[real])
            variance = ((a[real] - mean) ** 2).sum(0) / len(a[real])
            seen.append((site, mean, variance))
        else:
            mean, variance = statistics[f"mean_{site}"][t], statistics[f"var_{site}"][t]
        return (a - mean) / np.sqrt(variance + EPSILON) * scale

    ys = np.zeros((len(xs), B, H))
    for t, (x, real) in enumerate(zip(xs, rows, strict=True)):
        if not real.any():
            break
        summed = standardize(h @ params["recurrent_kernel"], "h", t, real, params["scale_h"])
        summed = summed + standardize(x @ params["kernel"], "x", t, real, params["scale_x"])
        i, f, g, o = np.split(summed + params["bias"], 4, axis=1)
        new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        cell = standardize(new_c, "c", t, real, params["scale_c"]) + params["bias_c"]
        new_h = sigmoid(o) * np.tanh(cell)
        c, h = np.where(real[:, None], new_c, c), np.where(real[:, None], new_h, h)
        ys[t] = np.where(real[:, None], new_h, 0)
    return (c, h), ys, seen


def test_training_standardizes_each_unit_over_the_real_rows_of_its_step(rng, x64):
    cell, variables, xs, (c, h, t) = random_case(rng)
    rows = np.arange(T)[:, None] < np.array([5, 2, 4, 0])
    xs_with_nan = np.where(rows[:, :, None], xs, np.nan)
    ((new_c, new_h, new_t), ys), _ = apply(
        cell, variables, xs_with_nan, (c, h, t), rows, mutable=True
    )
    expected_carry, expected_ys, _ = by_hand(variables["params"], xs, c, h, rows)
    assert_close(((new_c, new_h), ys), (expected_carry, expected_ys), 1e-10)
    np.testing.assert_array_equal(new_t, rows.sum(0))


def test_evaluation_takes_the_population_statistics_of_each_step(rng, x64):
    cell, variables, xs, (c, h, t) = random_case(rng, use_running_average=True)
    (carry, ys), _ = apply(cell, variables, xs, (c, h, t), mutable=True)
    expected_carry, expected_ys, _ = by_hand(
        variables["params"], xs, c, h, np.ones((T, B), bool), variables["batch_stats"]
    )
    assert_close((carry[:2], ys), (expected_carry, expected_ys), 1e-10)


def test_the_population_is_the_mean_of_the_batches_then_a_moving_average(rng, x64):
    cell, variables, xs, (c, h, t) = random_case(rng, momentum=0.75)
    shapes = jax.tree.map(np.zeros_like, variables["batch_stats"])
    variables = {"params": variables["params"], "batch_stats": shapes}
    rows, batches = np.arange(T)[:, None] < np.array([3, 2, 3, 0]), []
    for number in range(7):
        xs = rng.normal(size=(T, B, D))
        _, state = apply(cell, variables, xs, (c, h, t), rows, mutable=True)
        variables["batch_stats"] = jax.tree.map(np.asarray, state["batch_stats"]["cell"])
        _, _, seen = by_hand(variables["params"], xs, c, h, rows)
        batches.append({site: [] for site in "xhc"})
        for site, mean, variance in seen:
            batches[-1][site].append((mean, variance))
        for site in "xhc":
            history = np.array([batch[site] for batch in batches])  # (batches, 3, 2, N)
            expected = history[0]
            for index, values in enumerate(history[1:], start=2):
                expected = expected + max(1 / index, 0.25) * (values - expected)
            got = variables["batch_stats"]
            assert_close(got[f"mean_{site}"][:3], expected[:, 0], 1e-10)
            assert_close(got[f"var_{site}"][:3], expected[:, 1], 1e-10)
            # No row was as long as that.
            np.testing.assert_array_equal(got[f"mean_{site}"][3:], 0)
        np.testing.assert_array_equal(got["count"], [number + 1] * 3 + [0] * 3)


def test_evaluation_beyond_the_longest_trained_step_takes_the_statistics_of_that_step(rng):
    cell, variables, xs, carry = random_case(rng, use_running_average=True)
    statistics = variables["batch_stats"]
    statistics["count"] = np.array([5, 5, 1, 0, 0, 0], np.float32)
    repeated = {name: values[[0, 1, 2, 2, 2, 2]] for name, values in statistics.items()}
    everywhere = {"params": variables["params"], "batch_stats": repeated}
    assert_equal(apply(cell, variables, xs, carry), apply(cell, everywhere, xs, carry))
    # and so for more steps than have statistics
    long = np.concatenate([xs, xs])
    longer = {name: values[[0, 1, 2] + [2] * 9] for name, values in statistics.items()}
    assert_equal(
        apply(cell, variables, long, carry),
        apply(cell.clone(max_steps=12), {**everywhere, "batch_stats": longer}, long, carry),
    )


def test_training_steps_beyond_max_steps_leave_no_statistics(rng):
    cell, variables, xs, carry = random_case(rng)
    short = {name: values[:2] for name, values in variables["batch_stats"].items()}
    short = {"params": variables["params"], "batch_stats": short}
    out, state = apply(cell.clone(max_steps=2), short, xs, carry, mutable=True)
    expected, all_of_them = apply(cell, variables, xs, carry, mutable=True)
    assert_equal(out, expected)
    first = jax.tree.map(lambda leaf: leaf[:2], all_of_them)
    assert_close(state, first, 1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_gaps_and_reverse_compare_rows_at_the_same_count_of_steps(rng, reverse):
    cell, variables, xs, carry = random_case(rng)
    (carry_out, ys), state = apply(cell, variables, xs, carry, MASK, mutable=True, reverse=reverse)
    lengths, packed = MASK.sum(0), np.zeros_like(xs)
    times = [np.flatnonzero(MASK[:, b])[:: -1 if reverse else 1] for b in range(B)]
    for b in range(B):
        packed[: lengths[b], b] = xs[times[b], b]
    front = np.arange(T)[:, None] < lengths
    (expected_carry, expected_ys), expected_state = apply(
        cell, variables, packed, carry, front, mutable=True
    )
    assert_close((carry_out, state), (expected_carry, expected_state), 1e-5)
    for b in range(B):
        assert_close(ys[times[b], b], expected_ys[: lengths[b], b], 1e-5)
    np.testing.assert_array_equal(np.asarray(ys)[~MASK], 0)


def test_padding_changes_no_gradient_in_training(rng, x64):
    cell, variables, xs, carry = random_case(rng)
    cotangents = rng.normal(size=(T, B, H)), rng.normal(size=(B, H)), rng.normal(size=(B, H))

    def objective(params, xs, mask):
        ((c, h, _), ys), _ = layer(cell).apply(
            in_layer({**variables, "params": params}),
            xs,
            initial_carry=carry,
            mask=mask,
            mutable="batch_stats",
        )
        return sum(jnp.vdot(a, b) for a, b in zip((ys, c, h), cotangents, strict=True))

    value, gradient = jax.jit(objective), jax.jit(jax.grad(objective, argnums=(0, 1)))
    dirty = np.where(MASK[:, :, None], xs, np.nan)
    clean = np.where(MASK[:, :, None], xs, 7.0)
    got, expected = (gradient(variables["params"], xs, MASK) for xs in (dirty, clean))
    assert_equal(got, expected)
    direction = rng.normal(size=variables["params"]["recurrent_kernel"].shape)
    step = 1e-6 * direction

    def moved(sign):
        params = dict(variables["params"])
        params["recurrent_kernel"] = params["recurrent_kernel"] + sign * step
        return value(params, clean, jnp.asarray(MASK))

    slope = np.vdot(got[0]["recurrent_kernel"], direction)
    np.testing.assert_allclose((moved(1) - moved(-1)) / 2e-6, slope, rtol=1e-6)


def test_works_under_the_rnn_of_flax_with_the_same_variables(rng):
    cell, variables, xs, carry = random_case(rng)
    theirs = nn.RNN(cell, time_major=True, return_carry=True, variable_carry="batch_stats")
    expected = apply(cell, variables, xs, carry, mutable=True)
    got = compiled(theirs)(in_layer(variables), xs, initial_carry=carry, mutable="batch_stats")
    assert_close(got, expected, 1e-5)


def test_initializing_sees_no_batch_and_gains_start_small(rng):
    cell, _, xs, _ = random_case(rng)
    variables = jax.jit(layer(cell).init)(jax.random.key(0), xs)
    statistics, params = variables["batch_stats"]["cell"], variables["params"]["cell"]
    np.testing.assert_array_equal(statistics["count"], 0)
    for site in "xhc":
        np.testing.assert_array_equal(statistics[f"mean_{site}"], 0)
        np.testing.assert_array_equal(statistics[f"var_{site}"], 1)
        np.testing.assert_array_equal(params[f"scale_{site}"], np.float32(0.1))


def test_training_without_a_mutable_collection_is_refused_as_by_flax(rng):
    cell, variables, xs, carry = random_case(rng)
    with pytest.raises(Exception, match="batch_stats"):
        apply(cell, variables, xs, carry)


def test_wrappers_keep_the_statistics(rng):
    cell, _, xs, _ = random_case(rng)
    wrapped = layer(lnjax.Zoneout(lnjax.RecurrentDropout(cell, rate=0.5), c=0.5, h=0.5))
    rngs = {name: jax.random.key(i) for i, name in enumerate(("params", "dropout", "zoneout"))}
    variables = jax.jit(wrapped.init)(rngs, xs)
    _, state = compiled(wrapped)(variables, xs, rngs=rngs, mutable="batch_stats")
    np.testing.assert_array_equal(
        state["batch_stats"]["cell"]["cell"]["cell"]["count"], [1] * T + [0] * (S - T)
    )


def test_statistics_belong_to_their_step_where_training_did_not_start_at_the_first(rng):
    cell, variables, xs, (c, h, t) = random_case(rng)
    fresh = {**variables, "batch_stats": jax.tree.map(np.zeros_like, variables["batch_stats"])}
    late = (c, h, t + 3)
    ((carry, ys), state) = apply(cell, fresh, xs[:2], late, mutable=True)
    trained = {"params": variables["params"], "batch_stats": state["batch_stats"]["cell"]}
    np.testing.assert_array_equal(trained["batch_stats"]["count"], [0, 0, 0, 1, 1, 0])
    evaluated = apply(cell.clone(use_running_average=True), trained, xs[:2], late)
    assert_close(evaluated, (carry, ys), 1e-5)


def test_the_count_of_steps_does_not_stop_in_half_precision(rng):
    cell, variables, xs, carry = random_case(rng, use_running_average=True)
    late = (*carry[:2], jnp.full(B, 256, jnp.bfloat16))
    (_, _, t), _ = apply(cell, variables, xs, late)
    np.testing.assert_array_equal(t, 256 + T)


def test_the_mask_reaches_the_statistics_also_with_the_lifting_that_flax_needs(rng):
    cell, variables, xs, carry = random_case(rng)
    expected = apply(cell, variables, xs, carry, MASK, mutable=True)
    lifted = apply(cell, variables, xs, carry, MASK, mutable=True, variable_carry="batch_stats")
    assert_equal(lifted, expected)


def test_what_has_no_statistics_is_refused(rng):
    cell, variables, xs, _ = random_case(rng)
    with pytest.raises(ValueError, match="no batch axis"):
        layer(cell).apply(in_layer(variables), xs[:, 0], mutable="batch_stats")
    with pytest.raises(ValueError, match="max_steps=0"):
        layer(cell.clone(max_steps=0)).init(jax.random.key(0), xs)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given

import lnjax
from lnjax.nn import Bidirectional
from tests.nn.sequences import (
    LENGTHS,
    B,
    D,
    H,
    T,
    apply,
    assert_a_mask_is_truncation,
    few_examples,
    from_lengths,
    masks,
    random_variables,
)
from tests.trees import assert_close, assert_equal


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


def simple(**attributes):
    return lnjax.RNN(lnjax.SimpleCell(H), **attributes)


def flax_simple(rnn=lnjax.RNN, **attributes):
    return rnn(nn.SimpleCell(H), **attributes)


@pytest.mark.parametrize(
    "layer",
    [
        Bidirectional(simple(), lnjax.RNN(lnjax.SimpleCell(2, norm=None))),
        Bidirectional(flax_simple(), flax_simple(), merge_fn=jnp.subtract),
    ],
    ids=["lnjax", "cells of flax, subtracted"],
)
@few_examples
@given(mask=masks())
def test_a_mask_is_truncation_for_outputs_and_all_gradients(layer, x64, mask):
    assert_a_mask_is_truncation(layer, mask)


def test_is_the_two_directions_side_by_side(xs):
    layer = Bidirectional(simple(), lnjax.RNN(lnjax.GRUCell(2)), return_carry=True)
    variables = random_variables(layer, xs)
    (forward, backward), ys = apply(layer, variables, xs, seq_lengths=LENGTHS)
    halves = [{"params": variables["params"][name]} for name in ("forward_rnn", "backward_rnn")]
    expected_forward = apply(simple(return_carry=True), halves[0], xs, seq_lengths=LENGTHS)
    expected_backward = apply(
        lnjax.RNN(lnjax.GRUCell(2), return_carry=True, reverse=True, keep_order=True),
        halves[1],
        xs,
        seq_lengths=LENGTHS,
    )
    assert_close((forward, ys[..., :H]), expected_forward)
    assert_close((backward, ys[..., H:]), expected_backward)


@pytest.mark.parametrize("rnn", [lnjax.RNN, nn.RNN], ids=["lnjax.RNN", "flax.linen.RNN"])
def test_is_the_bidirectional_of_flax_where_steps_are_real(xs, rnn):
    def layers():
        return flax_simple(rnn), flax_simple(rnn)

    ours = Bidirectional(*layers(), return_carry=True)
    theirs = nn.Bidirectional(*layers(), return_carry=True)
    variables = random_variables(theirs, xs)
    assert jax.eval_shape(ours.init, jax.random.key(0), xs) == jax.eval_shape(
        theirs.init, jax.random.key(0), xs
    )
    carry = tuple(np.random.default_rng(i).normal(size=(B, H)).astype(np.float32) for i in (0, 1))
    arrays = {"initial_carry": carry, "seq_lengths": LENGTHS}
    (got, ys), (expected, expected_ys) = (
        apply(layer, variables, xs, **arrays) for layer in (ours, theirs)
    )
    real = from_lengths(LENGTHS)
    assert_close((got, ys[real]), (expected, expected_ys[real]))


def test_flax_errs_and_lnjax_is_right_on_rows_of_length_0(xs):
    lengths = np.array([5, 0, 3, 0])
    carry = tuple(np.full((B, H), value, np.float32) for value in (0.5, -0.5))
    arrays = {"initial_carry": carry, "seq_lengths": lengths, "return_carry": True}
    ours = Bidirectional(flax_simple(), flax_simple())
    theirs = nn.Bidirectional(flax_simple(nn.RNN), flax_simple(nn.RNN))
    variables = random_variables(ours, xs)
    (got, ys), (flax_got, _) = (layer.apply(variables, xs, **arrays) for layer in (ours, theirs))
    empty = lengths == 0
    for ours_end, flax_end, start in zip(got, flax_got, carry, strict=True):
        assert_equal(ours_end[empty], start[empty])
        assert_close(ours_end[~empty], flax_end[~empty])
        # If this fails, Flax has mended it.
        assert not np.allclose(flax_end[empty], start[empty])
    assert not np.asarray(ys)[empty].any()


def test_time_major_goes_before_what_the_layers_say(xs):
    layer = Bidirectional(simple(time_major=True), simple(), return_carry=True)
    variables = random_variables(layer, xs)
    carry, ys = apply(layer, variables, xs, seq_lengths=LENGTHS)
    expected = apply(
        layer.clone(time_major=True), variables, xs.swapaxes(0, 1), seq_lengths=LENGTHS
    )
    assert_equal((carry, np.swapaxes(ys, 0, 1)), expected)
    by_call = layer.apply(
        variables, xs.swapaxes(0, 1), seq_lengths=LENGTHS, time_major=True, return_carry=False
    )
    assert_close(by_call, expected[1])


def test_each_direction_has_its_half_of_the_key():
    cell = nn.SimpleCell(H, carry_init=nn.initializers.uniform())
    layer = Bidirectional(lnjax.RNN(cell), lnjax.RNN(cell.clone()), return_carry=True)
    xs = np.ones((B, 1, D), np.float32)
    variables = random_variables(layer, xs)
    nothing = {"seq_lengths": np.zeros(B, int), "init_key": jax.random.key(7)}
    (forward, backward), _ = layer.apply(variables, xs, **nothing)
    assert not np.allclose(forward, backward)
    theirs = nn.Bidirectional(lnjax.RNN(cell), lnjax.RNN(cell.clone()), return_carry=True)
    assert_equal((forward, backward), theirs.apply(variables, xs, **nothing)[0])


def test_one_object_twice_is_one_set_of_parameters(xs):
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, xs):
            rnn = simple()
            return Bidirectional(rnn, rnn)(xs)

    variables = random_variables(Tied(), xs)
    assert len(variables["params"]) == 1
    tree = jax.tree.leaves(variables)
    assert len(tree) == len(jax.tree.leaves(random_variables(simple(), xs)))
    ys = Tied().apply(variables, xs)
    flipped = Tied().apply(variables, xs[:, ::-1])
    assert_close(ys[..., :H], flipped[:, ::-1, H:])


def test_refuses_what_it_cannot_do(xs):
    layer = Bidirectional(simple(), simple())
    variables = random_variables(layer, xs)
    with pytest.raises(ValueError, match="no reverse: it runs both ways"):
        layer.apply(variables, xs, reverse=True)
    layer.apply(variables, xs, reverse=False, keep_order=True)
    for wrong in (np.zeros((B, H)), (np.zeros((B, H)),) * 3):
        with pytest.raises(ValueError, match=r"pair \(forward, backward\), got PyTreeDef"):
            layer.apply(variables, xs, initial_carry=wrong)
    of_flax = Bidirectional(flax_simple(nn.RNN), flax_simple(nn.RNN))
    with pytest.raises(TypeError, match="mask"):
        of_flax.init(jax.random.key(0), xs, mask=np.ones((B, T), bool))

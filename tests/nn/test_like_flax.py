"""What Flax promises of its recurrent layers, asked of lnjax's; Flax's is the oracle where right.

Flax's cells and lnjax's run under both; where steps are padding, Flax's outputs are not compared.
"""

import dataclasses
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax.nn import Bidirectional
from lnjax.nn.rnn import run_layer
from tests.nn.sequences import (
    LENGTHS,
    B,
    D,
    H,
    T,
    apply,
    from_lengths,
    random_carry,
    random_variables,
)
from tests.trees import assert_close, assert_equal

FLAX_CELLS = [nn.LSTMCell(H), nn.OptimizedLSTMCell(H), nn.GRUCell(H), nn.MGUCell(H)]
CELLS = [*FLAX_CELLS, nn.SimpleCell(H), lnjax.LSTMCell(H), lnjax.GRUCell(H), lnjax.SimpleCell(H)]


def name(cell):
    return f"{type(cell).__module__.partition('.')[0]}.{type(cell).__name__}"


every_cell = pytest.mark.parametrize("cell", CELLS, ids=name)
both_kinds = pytest.mark.parametrize("cell", [lnjax.SimpleCell(H), nn.SimpleCell(H)], ids=name)


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


def by_hand(cell, variables, carry, xs):
    """One call of the cell after the other."""
    inner = {"params": variables["params"]["cell"]}
    step, ys = jax.jit(cell.apply), []
    for t in range(xs.shape[1]):
        carry, y = step(inner, carry, xs[:, t])
        ys.append(y)
    return carry, np.stack(ys, axis=1)


# The arguments of the call and of the constructor.


@pytest.mark.parametrize(
    "ours, theirs",
    [(lnjax.RNN, nn.RNN), (Bidirectional, nn.Bidirectional)],
    ids=["RNN", "Bidirectional"],
)
def test_takes_all_arguments_of_flax_with_their_defaults(ours, theirs):
    for function in (lambda layer: layer.__init__, lambda layer: layer.__call__):
        parameters, expected = (
            inspect.signature(function(layer)).parameters for layer in (ours, theirs)
        )
        of_constructor = [name for name in parameters if name in expected]
        assert of_constructor == list(expected)
        for name, parameter in expected.items():
            assert parameters[name].kind == parameter.kind
            if name != "merge_fn":
                assert parameters[name].default == parameter.default
    fields = [field.name for field in dataclasses.fields(theirs)]
    ours_first = [field.name for field in dataclasses.fields(ours)][: len(fields) - 2]
    assert ours_first == fields[:-2]  # all but parent and name: positions are the same


# RNN.


@every_cell
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.some(5)
def test_every_cell_gives_what_it_gives_under_flax(xs, cell, order):
    attributes = {"return_carry": True, "reverse": order == "reverse"}
    ours, theirs = lnjax.RNN(cell, **attributes), nn.RNN(cell, **attributes)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), xs)
    assert jax.eval_shape(ours.init, jax.random.key(0), xs) == shapes
    assert list(shapes["params"]) == ["cell"]
    variables = random_variables(theirs, xs)
    arrays = {"initial_carry": random_carry(cell), "seq_lengths": LENGTHS}
    carry, ys = apply(ours, variables, xs, **arrays)
    expected_carry, expected_ys = apply(theirs, variables, xs, **arrays)
    assert_close(carry, expected_carry)
    real = from_lengths(LENGTHS)
    assert_close(ys[real], expected_ys[real])
    assert not np.asarray(ys)[~real].any()


@every_cell
@pytest.mark.some(3)
def test_is_the_cell_called_step_by_step(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True)
    variables = random_variables(rnn, xs)
    start = cell.initialize_carry(jax.random.key(0), (B, D))
    carry, ys = apply(rnn, variables, xs)
    assert_close((carry, ys), by_hand(cell, variables, start, xs))
    assert ys.shape == (B, T, H)
    for leaf in jax.tree.leaves(carry):
        assert leaf.shape == (B, H) and np.abs(leaf).min() > 0


@both_kinds
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"unroll": 2},
        {"reverse": True, "keep_order": True},
        {"keep_order": True},  # says something in reverse only
    ],
    ids=lambda attributes: " ".join(attributes) or "none",
)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["no lengths", "lengths"])
@pytest.mark.some(5)
def test_attributes_do_what_they_do_in_flax(xs, cell, attributes, lengths):
    ours, theirs = (rnn(cell, return_carry=True, **attributes) for rnn in (lnjax.RNN, nn.RNN))
    variables = random_variables(theirs, xs)
    carry, ys = apply(ours, variables, xs, seq_lengths=lengths)
    expected_carry, expected_ys = apply(theirs, variables, xs, seq_lengths=lengths)
    real = np.ones((B, T), bool) if lengths is None else from_lengths(lengths)
    assert_close((carry, ys[real]), (expected_carry, expected_ys[real]))


@both_kinds
def test_reverse_is_each_row_from_its_end_by_hand(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True, reverse=True)
    variables = random_variables(rnn, xs)
    start = random_carry(cell)
    carry, ys = apply(rnn, variables, xs, initial_carry=start, seq_lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        row = xs[b : b + 1, :length][:, ::-1]
        end, made = by_hand(cell, variables, start[b : b + 1], row)
        assert_close((carry[b : b + 1], ys[b : b + 1, :length]), (end, made))


@both_kinds
def test_a_row_alone_is_the_row_in_its_batch(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True)
    variables = random_variables(rnn, xs)
    carry, ys = apply(rnn, variables, xs)
    for b in range(B):
        alone = apply(rnn, variables, xs[b : b + 1])
        assert_close(alone, (carry[b : b + 1], ys[b : b + 1]))


@both_kinds
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["no batch axis", "two batch axes"])
@pytest.mark.some(2)
def test_batch_axes_are_all_that_are_not_time_or_features(rng, cell, batch):
    xs = rng.normal(size=(*batch, T, D)).astype(np.float32)
    variables = random_variables(nn.RNN(cell), xs)
    assert_close(apply(lnjax.RNN(cell), variables, xs), apply(nn.RNN(cell), variables, xs))
    lengths = rng.integers(1, T + 1, size=batch)
    time_major = lnjax.RNN(cell, time_major=True, return_carry=True)
    expected = nn.RNN(cell, time_major=True, return_carry=True)
    xs = np.moveaxis(xs, -2, 0)
    assert_close(apply(time_major, variables, xs), apply(expected, variables, xs))
    carry, ys = apply(time_major, variables, xs, seq_lengths=lengths)
    real = np.arange(T).reshape(T, *(1,) * len(batch)) < lengths
    assert not np.asarray(ys)[~real].any()
    # This cell's final carry is its last real output; Flax selects it with one batch axis only.
    last = np.take_along_axis(np.asarray(ys), (lengths - 1)[None, ..., None], axis=0)[0]
    assert_close(carry, last)


def test_cells_with_spatial_axes(rng):
    cell = nn.ConvLSTMCell(2, (3, 3))
    xs = rng.normal(size=(B, T, 4, 4, 1)).astype(np.float32)
    theirs, ours = nn.RNN(cell, return_carry=True), lnjax.RNN(cell, return_carry=True)
    variables = random_variables(theirs, xs)
    carry, ys = apply(ours, variables, xs, seq_lengths=LENGTHS)
    expected_carry, expected_ys = apply(theirs, variables, xs, seq_lengths=LENGTHS)
    real = from_lengths(LENGTHS)
    assert_close((carry, ys[real]), (expected_carry, expected_ys[real]))
    assert ys.shape == (B, T, 4, 4, 2) and carry[0].shape == (B, 4, 4, 2)


@both_kinds
def test_is_the_loop_that_one_writes_with_flax_scan_or_jax_scan(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True)
    variables = random_variables(rnn, xs)
    inner = {"params": variables["params"]["cell"]}
    start = random_carry(cell)
    got = apply(rnn, variables, xs, initial_carry=start)
    lifted = nn.scan(
        type(cell),
        in_axes=1,
        out_axes=1,
        variable_broadcast="params",
        split_rngs={"params": False},
    )(H)
    assert_close(jax.jit(lifted.apply)(inner, start, xs), got)
    carry, ys = jax.lax.scan(partial(cell.apply, inner), start, xs.swapaxes(0, 1))
    assert_close((carry, ys.swapaxes(0, 1)), got)


def test_a_carry_may_be_any_tree(xs):
    class Nested(nn.RNNCellBase):
        @nn.compact
        def __call__(self, carry, x):
            h, y = nn.SimpleCell(H)(carry["deep"][0], x)
            return {"deep": [h, {"sum": carry["deep"][1]["sum"] + y}]}, {"y": y, "x": x}

        @nn.nowrap
        def initialize_carry(self, rng, input_shape):
            zeros = jnp.zeros((*input_shape[:-1], H))
            return {"deep": [zeros, {"sum": zeros}]}

        @property
        def num_feature_axes(self):
            return 1

    ours, theirs = (rnn(Nested(), return_carry=True) for rnn in (lnjax.RNN, nn.RNN))
    variables = random_variables(theirs, xs)
    arrays = {"initial_carry": random_carry(Nested()), "seq_lengths": LENGTHS}
    carry, ys = apply(ours, variables, xs, **arrays)
    expected_carry, expected_ys = apply(theirs, variables, xs, **arrays)
    assert_close(carry, expected_carry)
    real = from_lengths(LENGTHS)
    assert_close({k: v[real] for k, v in ys.items()}, {k: v[real] for k, v in expected_ys.items()})


def test_a_key_for_the_initial_carry(xs):
    cell = nn.SimpleCell(H, carry_init=nn.initializers.normal())
    ours, theirs = lnjax.RNN(cell), nn.RNN(cell)
    variables = random_variables(theirs, xs)
    for key in (None, jax.random.key(0), jax.random.key(1)):
        assert_close(
            apply(ours, variables, xs, init_key=key), apply(theirs, variables, xs, init_key=key)
        )


@both_kinds
def test_declares_and_draws_the_parameters_of_flax(xs, cell):
    class Model(nn.Module):
        rnn: type

        @nn.compact
        def __call__(self, xs):
            return self.rnn(cell.clone(parent=None), name="encoder")(xs)

    ours, theirs = Model(lnjax.RNN), Model(nn.RNN)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), xs)
    assert shapes == jax.eval_shape(theirs.init, jax.random.key(0), xs)
    assert list(shapes["params"]) == ["encoder"]
    if isinstance(cell, nn.SimpleCell):  # the cheapest: orthogonal matrices compile slowly
        drawn = [jax.jit(model.init)(jax.random.key(0), xs) for model in (ours, theirs)]
        assert_equal(*drawn)


# The order of steps, without a cell.


@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
@pytest.mark.parametrize("features", [(), (3,), (2, 3)], ids=str)
@pytest.mark.some(2)
def test_the_flip_keeps_the_padding_at_the_end(time_major, features):
    xs = np.arange(1, 1 + 2 * 5 * max(1, int(np.prod(features)))).reshape(2, 5, *features)
    arguments = {
        "num_feature_axes": len(features),
        "initialize_carry": lambda shape: None,
        "seq_lengths": np.array([4, 2]),
        "time_major": time_major,
        "reverse": True,
    }

    def nothing(carry, xs, mask, reverse):
        assert reverse and xs.shape[0] == 5  # time is in front
        return carry, lnjax.ops.zero_padding(xs, mask)

    inputs = xs.swapaxes(0, 1) if time_major else xs
    _, flipped = run_layer(nothing, inputs, **arguments)
    _, kept = run_layer(nothing, inputs, **arguments, keep_order=True)
    if time_major:
        flipped, kept = np.swapaxes(flipped, 0, 1), np.swapaxes(kept, 0, 1)
    for b, length in enumerate((4, 2)):
        assert_equal(flipped[b, :length], xs[b, :length][::-1])
        assert_equal(kept[b, :length], xs[b, :length])
        assert not np.asarray(flipped)[b, length:].any()


# Bidirectional.


@pytest.mark.parametrize("kind", [lnjax.GRUCell, nn.GRUCell], ids=["lnjax", "flax"])
@pytest.mark.some(1)
def test_bidirectional_layers(xs, kind):
    def layers(rnn):
        return rnn(kind(H)), rnn(kind(H))

    ours = Bidirectional(*layers(lnjax.RNN))
    theirs = nn.Bidirectional(*layers(nn.RNN))
    variables = random_variables(theirs, xs)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), xs)
    assert jax.eval_shape(ours.init, jax.random.key(0), xs) == shapes
    ys = apply(ours, variables, xs)
    assert ys.shape == (B, T, 2 * H)
    assert_close(ys, apply(theirs, variables, xs))
    # lnjax.RNN may stand in Flax's, and Flax's in lnjax's.
    assert_close(apply(nn.Bidirectional(*layers(lnjax.RNN)), variables, xs), ys)
    assert_close(apply(Bidirectional(*layers(nn.RNN)), variables, xs), ys)


def test_bidirectional_return_carry_and_merge(xs):
    def layers(rnn):
        return rnn(lnjax.LSTMCell(H)), rnn(lnjax.LSTMCell(H))

    merged = {"merge_fn": jnp.add, "return_carry": True}
    ours = Bidirectional(*layers(lnjax.RNN), **merged)
    theirs = nn.Bidirectional(*layers(nn.RNN), **merged)
    variables = random_variables(theirs, xs)
    (forward, backward), ys = apply(ours, variables, xs, seq_lengths=LENGTHS)
    assert jax.tree.map(jnp.shape, (forward, backward)) == (((B, H),) * 2,) * 2
    assert ys.shape == (B, T, H)
    real = from_lengths(LENGTHS)
    expected, expected_ys = apply(theirs, variables, xs, seq_lengths=LENGTHS)
    assert_close(((forward, backward), ys[real]), (expected, expected_ys[real]))
    assert_close(ours.apply(variables, xs, return_carry=False), apply(ours, variables, xs)[1])


@both_kinds
def test_bidirectional_layers_may_share_a_cell(xs, cell):
    ours = Bidirectional(lnjax.RNN(cell), lnjax.RNN(cell))
    theirs = nn.Bidirectional(nn.RNN(cell), nn.RNN(cell))
    variables = random_variables(theirs, xs)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), xs)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    assert_close(apply(ours, variables, xs), apply(theirs, variables, xs))


# Where Flax errs.


def test_flax_errs_and_lnjax_is_right_on_rows_of_length_0(xs):
    cell, lengths = nn.GRUCell(H), np.array([5, 0, 3, 0])
    variables = random_variables(nn.RNN(cell), xs)
    arrays = {"initial_carry": random_carry(cell), "seq_lengths": lengths}
    flax_carry, _ = apply(nn.RNN(cell, return_carry=True), variables, xs, **arrays)
    carry, ys = apply(lnjax.RNN(cell, return_carry=True), variables, xs, **arrays)
    empty = lengths == 0
    assert_equal(carry[empty], arrays["initial_carry"][empty])
    assert_close(carry[~empty], flax_carry[~empty])
    assert not np.asarray(ys)[empty].any()
    # If this fails, Flax has mended it, and the comparisons above can include length 0.
    assert not np.allclose(flax_carry[empty], arrays["initial_carry"][empty])


def test_nan_in_the_padding_takes_the_gradients_of_flax_and_not_of_lnjax(xs):
    real = from_lengths(LENGTHS)[..., None]
    cell = nn.SimpleCell(H)
    variables = random_variables(nn.RNN(cell), xs)

    def gradient(rnn):
        def loss(variables):
            ys = rnn.apply(variables, np.where(real, xs, np.nan), seq_lengths=LENGTHS)
            return jnp.where(real, ys, 0).sum()

        return jax.jit(jax.grad(loss))(variables)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(lnjax.RNN(cell))))
    # If this fails, Flax has mended it.
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(gradient(nn.RNN(cell))))


def test_a_call_in_reverse_is_refused_by_the_bidirectional_layer_not_ignored(xs):
    cell = nn.SimpleCell(H)
    ours, theirs = (
        layer(rnn(cell), rnn(cell.clone()))
        for layer, rnn in ((Bidirectional, lnjax.RNN), (nn.Bidirectional, nn.RNN))
    )
    variables = random_variables(theirs, xs)
    assert_equal(theirs.apply(variables, xs, reverse=True), theirs.apply(variables, xs))
    with pytest.raises(ValueError, match="no reverse"):
        ours.apply(variables, xs, reverse=True)

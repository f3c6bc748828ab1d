from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from tests.jaxprs import equations
from tests.trees import assert_close, assert_equal

B, T, D, H = 4, 5, 3, 4
LENGTHS = np.array([5, 1, 3, 2])  # none is 0: there Flax differs, see the tests of its defects
FLAX_CELLS = [nn.LSTMCell(H), nn.GRUCell(H), nn.SimpleCell(H)]
flax_cells = pytest.mark.parametrize("cell", FLAX_CELLS, ids=lambda cell: type(cell).__name__)
both_kinds = pytest.mark.parametrize(
    "cell", [lnjax.LSTMCell(H, norm=None), nn.SimpleCell(H)], ids=lambda cell: type(cell).__name__
)


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


def random_variables(rnn, xs, seed=0):
    """Parameters that hide nothing by being zero or one."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(rnn.init, jax.random.key(0), xs)
    return jax.tree.map(lambda a: rng.normal(0.1, 0.5, a.shape).astype(np.float32), shapes)


def random_carry(cell, seed=1):
    rng = np.random.default_rng(seed)
    carry = cell.initialize_carry(jax.random.key(0), (B, D))
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), carry)


@cache
def compiled(rnn):
    """One compiled `apply` for each layer, so that equal calls compile once for all tests."""
    return jax.jit(rnn.apply)


def apply(rnn, variables, xs, **arrays):
    return compiled(rnn)(variables, xs, **arrays)


def from_lengths(lengths):
    return np.arange(T) < np.asarray(lengths)[:, None]


# Against flax.linen.RNN.


@pytest.mark.parametrize(
    "cell, order, lengths",
    [
        (nn.SimpleCell(H), order, lengths)
        for order in ("forward", "reverse", "reverse, keep_order")
        for lengths in (LENGTHS, None)
    ]
    + [
        (cell, order, LENGTHS)
        for cell in (nn.LSTMCell(H), nn.GRUCell(H))
        for order in ("forward", "reverse")
    ],
)
def test_is_the_rnn_of_flax_where_steps_are_real(xs, cell, order, lengths):
    attributes = {
        "return_carry": True,
        "reverse": order != "forward",
        "keep_order": order == "reverse, keep_order",
    }
    theirs, ours = nn.RNN(cell, **attributes), lnjax.RNN(cell, **attributes)
    variables = random_variables(theirs, xs)
    arrays = {"initial_carry": random_carry(cell), "seq_lengths": lengths}
    carry, ys = apply(ours, variables, xs, **arrays)
    expected_carry, expected_ys = apply(theirs, variables, xs, **arrays)
    assert_close(carry, expected_carry)
    real = np.ones((B, T), bool) if lengths is None else from_lengths(lengths)
    assert_close(np.asarray(ys)[real], np.asarray(expected_ys)[real])
    assert not np.asarray(ys)[~real].any()


@flax_cells
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


def test_stands_in_the_bidirectional_of_flax(xs):
    def bidirectional(rnn):
        return nn.Bidirectional(rnn(lnjax.LSTMCell(H)), rnn(lnjax.LSTMCell(H)), return_carry=True)

    variables = random_variables(bidirectional(nn.RNN), xs)
    carries, ys = apply(bidirectional(lnjax.RNN), variables, xs, seq_lengths=LENGTHS)
    expected = apply(bidirectional(nn.RNN), variables, xs, seq_lengths=LENGTHS)
    real = from_lengths(LENGTHS)
    assert_close((carries, ys[real]), (expected[0], expected[1][real]))


def test_cells_with_spatial_axes(rng):
    cell = nn.ConvLSTMCell(2, (3, 3))
    xs = rng.normal(size=(B, T, 4, 4, 1)).astype(np.float32)
    theirs, ours = nn.RNN(cell, return_carry=True), lnjax.RNN(cell, return_carry=True)
    variables = random_variables(theirs, xs)
    carry, ys = apply(ours, variables, xs, seq_lengths=LENGTHS)
    expected_carry, expected_ys = apply(theirs, variables, xs, seq_lengths=LENGTHS)
    real = from_lengths(LENGTHS)
    assert_close((carry, ys[real]), (expected_carry, expected_ys[real]))


@both_kinds
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["no batch axis", "two batch axes"])
def test_batch_axes_are_all_that_precede_time_as_in_flax(rng, cell, batch):
    xs = rng.normal(size=(*batch, T, D)).astype(np.float32)
    variables = random_variables(nn.RNN(cell), xs)
    expected = apply(nn.RNN(cell), variables, xs)
    assert_close(apply(lnjax.RNN(cell), variables, xs), expected)


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


@both_kinds
def test_nan_in_the_padding_reaches_neither_outputs_nor_gradients(xs, rng, cell):
    real = from_lengths(LENGTHS)[:, :, None]
    cotangent = rng.normal(size=(B, T, H)).astype(np.float32)

    def value_and_gradients(rnn):
        def value(variables, xs):
            ys = rnn.apply(variables, xs, seq_lengths=jnp.asarray(LENGTHS))
            return jnp.where(real, cotangent * ys, 0).sum()

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))

    ours = value_and_gradients(lnjax.RNN(cell))
    variables = random_variables(lnjax.RNN(cell), xs)
    clean = ours(variables, np.where(real, xs, 0))
    poured = ours(variables, np.where(real, xs, np.nan))
    assert_equal(poured, clean)
    assert not np.where(real, 0, poured[1][1]).any()
    # Flax's loss is the same, but its gradients are lost.
    theirs = value_and_gradients(nn.RNN(cell))
    value, (to_variables, _) = theirs(variables, np.where(real, xs, np.nan))
    np.testing.assert_allclose(value, clean[0], rtol=1e-4)
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(to_variables))


# Shapes, orders, overrides.


@both_kinds
def test_time_major_is_a_transposition(xs, cell):
    batch_major = lnjax.RNN(cell, return_carry=True)
    time_major = lnjax.RNN(cell, return_carry=True, time_major=True)
    variables = random_variables(batch_major, xs)
    mask = np.random.default_rng(3).random((B, T)) < 0.6
    carry, ys = apply(batch_major, variables, xs, mask=mask, seq_lengths=LENGTHS)
    expected = apply(
        time_major, variables, xs.swapaxes(0, 1), mask=mask.swapaxes(0, 1), seq_lengths=LENGTHS
    )
    assert_equal((carry, np.swapaxes(ys, 0, 1)), expected)


@pytest.mark.parametrize(
    "override",
    [{"return_carry": True}, {"time_major": True}, {"reverse": True, "keep_order": True}],
    ids=lambda override: " ".join(override),
)
def test_a_call_overrides_the_attributes(xs, override):
    cell = nn.SimpleCell(H)
    plain = lnjax.RNN(cell)
    told = lnjax.RNN(cell, **override)
    variables = random_variables(plain, xs)
    assert_equal(
        jax.jit(partial(plain.apply, **override))(variables, xs), apply(told, variables, xs)
    )
    undone = {name: False for name in override}
    assert_equal(jax.jit(partial(told.apply, **undone))(variables, xs), apply(plain, variables, xs))


@both_kinds
def test_reverse_outputs_stand_in_the_order_in_which_they_were_made(xs, cell):
    rnn = lnjax.RNN(cell, reverse=True)
    variables = random_variables(rnn, xs)
    made = apply(rnn, variables, xs, seq_lengths=LENGTHS)
    kept = apply(rnn.clone(keep_order=True), variables, xs, seq_lengths=LENGTHS)
    expected = np.zeros((B, T, H), np.float32)
    for b, length in enumerate(LENGTHS):
        expected[b, :length] = kept[b, :length][::-1]
    assert_equal(made, expected)


@pytest.mark.parametrize("keep_order", [False, True])
def test_no_steps_at_all(keep_order):
    rnn = lnjax.RNN(lnjax.LSTMCell(H), reverse=True, keep_order=keep_order)
    variables = random_variables(rnn, np.zeros((B, T, D), np.float32))
    empty = np.zeros((B, 0, D), np.float32)
    assert apply(rnn, variables, empty, seq_lengths=np.zeros(B, int)).shape == (B, 0, H)


@both_kinds
def test_an_empty_sequence_still_declares_the_parameters(cell):
    def shapes(num_steps):
        xs = jnp.zeros((B, num_steps, D))
        return jax.eval_shape(lnjax.RNN(cell).init, jax.random.key(0), xs)

    assert shapes(0) == shapes(T)


# Masks.


@both_kinds
@pytest.mark.parametrize("reverse", [False, True])
def test_a_mask_with_gaps_is_the_sequence_without_them(xs, cell, reverse):
    rnn = lnjax.RNN(cell, return_carry=True, reverse=reverse, keep_order=True)
    variables = random_variables(rnn, xs)
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1], [1, 1, 0, 1, 0], [0, 0, 1, 1, 1]], bool)
    arrays = {"initial_carry": random_carry(cell)}
    carry, ys = apply(rnn, variables, xs, mask=mask, **arrays)
    packed = xs[mask].reshape(B, 3, D)  # three real steps in each row
    expected_carry, expected_ys = apply(rnn, variables, packed, **arrays)
    assert_close((carry, np.asarray(ys)[mask].reshape(B, 3, H)), (expected_carry, expected_ys))
    assert not np.asarray(ys)[~mask].any()


@both_kinds
def test_a_step_is_real_by_both_lengths_and_mask(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True)
    variables = random_variables(rnn, xs)
    mask = np.random.default_rng(3).random((B, T)) < 0.6
    both = apply(rnn, variables, xs, mask=mask, seq_lengths=LENGTHS)
    assert_equal(both, apply(rnn, variables, xs, mask=mask & from_lengths(LENGTHS)))


@both_kinds
def test_lengths_are_a_mask(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True)
    variables = random_variables(rnn, xs)
    lengths = np.array([0, 2, 5, 9])  # 9 is more than there is: the row is full
    by_lengths = apply(rnn, variables, xs, seq_lengths=lengths)
    assert_equal(by_lengths, apply(rnn, variables, xs, mask=from_lengths(lengths)))


@pytest.mark.parametrize("time_major", [False, True])
def test_masks_may_be_lists(time_major):
    rnn = lnjax.RNN(nn.SimpleCell(H), time_major=time_major)
    xs = np.ones((2, 2, D), np.float32)
    variables = random_variables(rnn, xs)
    mask = [[True, False], [True, True]]
    assert_equal(rnn.apply(variables, xs, mask=mask), rnn.apply(variables, xs, mask=np.array(mask)))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"mask": np.ones((T, B), bool)}, r"mask has shape \(.*inputs"),
        ({"mask": np.ones((B, T, 1), bool)}, "mask has shape"),
        ({"mask": np.ones(B, bool)}, "mask has shape"),
        ({"mask": np.ones((B, T), np.float32)}, r"mask must be bool.*float32"),
        ({"mask": np.ones((B, T), np.int32)}, r"mask must be bool.*int32"),
        ({"seq_lengths": np.ones(T, int)}, r"integers of shape \(4,\), got int32 \(5,\)"),
        ({"seq_lengths": np.ones((B, 1), int)}, r"got int32 \(4, 1\)"),
        ({"seq_lengths": np.full(B, 1.5)}, r"must be integers.*got float32 \(4,\)"),
    ],
)
def test_refuses_masks_and_lengths_that_do_not_fit(xs, arrays, message):
    rnn = lnjax.RNN(lnjax.LSTMCell(H))
    variables = random_variables(rnn, xs)
    with pytest.raises(ValueError, match=message):
        rnn.apply(variables, xs, **arrays)


# The initial carry.


def test_where_the_initial_carry_comes_from():
    cell = nn.SimpleCell(H, carry_init=nn.initializers.uniform())
    rnn = lnjax.RNN(cell, return_carry=True)
    xs, key, other = np.ones((B, 1, D), np.float32), jax.random.key(7), jax.random.key(8)
    variables = random_variables(rnn, xs)

    def start(rngs=None, **arguments):
        """The final carry of rows of length 0 is the initial one."""
        return rnn.apply(variables, xs, seq_lengths=np.zeros(B, int), rngs=rngs, **arguments)[0]

    default = start()
    assert_equal(default, cell.initialize_carry(jax.random.key(0), (B, D)))  # as in Flax
    by_key = start(init_key=key)
    assert_equal(by_key, cell.initialize_carry(key, (B, D)))
    by_stream = start({"carry": key})
    assert_equal(by_stream, start({"carry": key}))
    assert not np.array_equal(by_stream, start({"carry": other}))
    assert not np.array_equal(by_stream, default)
    # A carry goes before a key, and a key before the stream.
    assert_equal(start({"carry": other}, init_key=key), by_key)
    given = np.full((B, H), 0.5, np.float32)
    assert_equal(start({"carry": other}, init_key=key, initial_carry=given), given)


@both_kinds
def test_gradients_reach_a_given_initial_carry_and_only_its_row(xs, rng, cell):
    rnn = lnjax.RNN(cell)
    variables = random_variables(rnn, xs)
    cotangent = rng.normal(size=H).astype(np.float32)

    @jax.jit
    def gradient(carry):
        return jax.grad(
            lambda carry: rnn.apply(variables, xs, initial_carry=carry)[0, -1] @ cotangent
        )(carry)

    for leaf in jax.tree.leaves(gradient(random_carry(cell))):
        assert np.abs(leaf[0]).min() > 0
        np.testing.assert_array_equal(leaf[1:], 0)


# What is compiled.


def loops(jaxpr):
    return [e for e in equations(jaxpr) if e.primitive.name in ("scan", "while")]


def products(jaxpr):
    found = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    return [tuple(v.aval.shape for v in e.invars) for e in found]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm", ["layer", None])
def test_one_loop_and_the_product_of_inputs_stands_before_it(norm, masked):
    num_steps, batch, in_features, features = 6, 2, 7, 5  # no two products have equal shapes
    rnn = lnjax.RNN(lnjax.LSTMCell(features, norm=norm), implementation="scan")
    xs = np.zeros((batch, num_steps, in_features), np.float32)
    variables = random_variables(rnn, xs)
    lengths = np.array([6, 3]) if masked else None
    jaxpr = jax.make_jaxpr(partial(rnn.apply, seq_lengths=lengths))(variables, xs).jaxpr
    (loop,) = loops(jaxpr)
    assert loop.primitive.name == "scan"
    assert loop.params["length"] == num_steps
    of_state = ((batch, features), (features, 4 * features))
    of_inputs = ((num_steps, batch, in_features), (in_features, 4 * features))
    assert products(loop.params["jaxpr"].jaxpr) == [of_state]
    assert sorted(products(jaxpr)) == sorted([of_state, of_inputs])


@both_kinds
def test_other_lengths_compile_nothing_anew(xs, cell):
    rnn = lnjax.RNN(cell, return_carry=True)
    variables = random_variables(rnn, xs)

    traces = []

    @jax.jit
    def run(variables, xs, lengths):
        traces.append(lengths)
        return rnn.apply(variables, xs, seq_lengths=lengths)

    seen = [run(variables, xs, np.full(B, length))[1] for length in (0, 1, 3, T)]
    assert [int((np.asarray(ys) != 0).any((0, 2)).sum()) for ys in seen] == [0, 1, 3, T]
    assert len(traces) == run._cache_size() == 1


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["no lengths", "lengths"])
@pytest.mark.parametrize("unroll", [1, 3])
@both_kinds
def test_unroll_reaches_the_loop(xs, cell, unroll, lengths):
    rnn = lnjax.RNN(cell, unroll=unroll)
    variables = random_variables(rnn, xs)
    (loop,) = loops(jax.make_jaxpr(partial(rnn.apply, seq_lengths=lengths))(variables, xs).jaxpr)
    assert loop.params["unroll"] == unroll


@both_kinds
def test_an_unknown_implementation_is_refused_with_the_choices(xs, cell):
    rnn = lnjax.RNN(cell)
    variables = random_variables(rnn, xs)
    with pytest.raises(ValueError, match=r"implementation='cuda'.*'auto'.*'scan'"):
        rnn.clone(implementation="cuda").apply(variables, xs)


def test_a_cell_that_needs_a_random_stream_in_the_loop_fails_loudly(xs):
    class Noisy(nn.RNNCellBase):
        num_feature_axes = 1

        @nn.compact
        def __call__(self, carry, x):
            y = nn.Dropout(0.5, deterministic=False)(x)
            return carry, y

        @nn.nowrap
        def initialize_carry(self, rng, input_shape):
            return jnp.zeros(input_shape)

    with pytest.raises(Exception, match="dropout"):
        lnjax.RNN(Noisy()).apply({}, xs, rngs={"dropout": jax.random.key(0)})


@both_kinds
def test_two_layers_may_share_a_cell(xs, cell):
    class Twice(nn.Module):
        rnn: type

        @nn.compact
        def __call__(self, xs):
            shared = cell.clone(parent=self, name="shared")
            forward = self.rnn(shared)(xs)
            return forward + self.rnn(shared, reverse=True, keep_order=True)(xs)

    variables = random_variables(Twice(nn.RNN), xs)
    assert list(variables["params"]) == ["shared"]
    assert_close(apply(Twice(lnjax.RNN), variables, xs), apply(Twice(nn.RNN), variables, xs))


@both_kinds
def test_lifted_transformations(xs, cell):
    def ensemble(rnn):
        lifted = nn.vmap(
            rnn, in_axes=None, axis_size=2, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        return nn.remat(lifted)(cell)

    variables = random_variables(ensemble(nn.RNN), xs)
    ys = apply(ensemble(lnjax.RNN), variables, xs)
    assert ys.shape == (2, B, T, H)
    assert_close(ys, apply(ensemble(nn.RNN), variables, xs))


def test_refuses_a_cell_that_has_more_than_parameters(xs):
    class Counting(nn.SimpleCell):
        @nn.compact
        def __call__(self, carry, inputs):
            self.variable("state", "steps", lambda: jnp.zeros(()))
            return super().__call__(carry, inputs)

    with pytest.raises(ValueError, match="Counting has the collections state"):
        lnjax.RNN(Counting(H)).init(jax.random.key(0), xs)

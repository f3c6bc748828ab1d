from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given

import lnjax
from tests.jaxprs import equations
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
    random_carry,
    random_variables,
)
from tests.trees import assert_close, assert_equal

both_kinds = pytest.mark.parametrize(
    "cell", [lnjax.LSTMCell(H, norm=None), nn.SimpleCell(H)], ids=lambda cell: type(cell).__name__
)


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


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
    rnn = lnjax.RNN(cell, unroll=unroll, implementation="scan")
    variables = random_variables(rnn, xs)
    (loop,) = loops(jax.make_jaxpr(partial(rnn.apply, seq_lengths=lengths))(variables, xs).jaxpr)
    assert loop.params["unroll"] == unroll


@both_kinds
def test_an_unknown_implementation_is_refused_with_the_choices(xs, cell):
    rnn = lnjax.RNN(cell)
    variables = random_variables(rnn, xs)
    with pytest.raises(ValueError, match=r"implementation='cuda'.*'auto'.*'scan'"):
        rnn.clone(implementation="cuda").apply(variables, xs)


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


# Cells with more than parameters, and other lifting.


class Stateful(nn.RNNCellBase):
    """A cell with batch statistics, or dropout, in the loop."""

    batch_norm: bool = False
    dropout: float = 0.0
    train: bool = True

    @nn.compact
    def __call__(self, carry, x):
        h = nn.Dense(H, name="of_x")(x) + nn.Dense(H, use_bias=False, name="of_h")(carry["h"])
        if self.batch_norm:
            h = nn.BatchNorm(use_running_average=not self.train, momentum=0.5)(h)
        h = nn.Dropout(self.dropout, deterministic=not self.train)(jnp.tanh(h))
        return {"h": h, "steps": carry["steps"] + 1}, {"h": h, "twice": 2 * h}

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        batch = input_shape[:-1]
        return {"h": jnp.zeros((*batch, H)), "steps": jnp.zeros(batch, jnp.int32)}

    @property
    def num_feature_axes(self):
        return 1


STATISTICS_PER_STEP = {"variable_axes": {"batch_stats": 0}}
PARAMETERS_PER_STEP = {
    "variable_axes": {"params": 0},
    "variable_broadcast": False,
    "split_rngs": {"params": True},
}
CARRIED_STATISTICS = {"variable_carry": "batch_stats"}
DROPOUT_PER_STEP = {"split_rngs": {"params": False, "dropout": True}}
DROPOUT_ONCE = {"split_rngs": {"params": False, "dropout": False}}


RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def run_lifted(rnn, variables, xs, **arrays):
    run = partial(rnn.apply, mutable=["batch_stats"], rngs=RNGS)
    return jax.jit(run)(variables, xs, **arrays)


@pytest.mark.parametrize(
    "cell, lifting",
    [
        (Stateful(batch_norm=True), STATISTICS_PER_STEP),
        (Stateful(), PARAMETERS_PER_STEP),
        (Stateful(dropout=0.5), DROPOUT_PER_STEP),
        (Stateful(dropout=0.5), DROPOUT_ONCE),
        (lnjax.SimpleCell(H), PARAMETERS_PER_STEP),
    ],
    ids=["statistics per step", "parameters", "dropout", "dropout once", "cell of lnjax"],
)
@pytest.mark.some(2)
def test_lifts_variables_and_random_streams_as_flax_does(xs, cell, lifting):
    ours, theirs = lnjax.RNN(cell, **lifting), nn.RNN(cell, **lifting)
    variables = jax.jit(theirs.init)(RNGS, xs)
    assert_close(jax.jit(ours.init)(RNGS, xs), variables)
    assert_close(run_lifted(ours, variables, xs), run_lifted(theirs, variables, xs))


@pytest.mark.parametrize("lifting", [PARAMETERS_PER_STEP, DROPOUT_PER_STEP], ids=["params", "rngs"])
def test_what_is_lifted_counts_the_steps_taken_from_the_true_end(xs, lifting):
    # In reverse the first parameters, and the first noise, belong to the last real step.
    cell = Stateful(dropout=0.5 if lifting is DROPOUT_PER_STEP else 0.0)
    attributes = lifting | {"return_carry": True, "reverse": True, "keep_order": True}
    ours, theirs = lnjax.RNN(cell, **attributes), nn.RNN(cell, **attributes)
    variables = jax.jit(theirs.init)(RNGS, xs)
    (carry, ys), (expected_carry, expected_ys) = (
        run_lifted(rnn, variables, xs, seq_lengths=LENGTHS)[0] for rnn in (ours, theirs)
    )
    real = from_lengths(LENGTHS)
    assert_close(carry, expected_carry)
    assert_close(ys["twice"][real], expected_ys["twice"][real])


def test_a_state_is_handed_on_from_step_to_step(xs):
    cell = Stateful(batch_norm=True)
    theirs = nn.RNN(cell, **CARRIED_STATISTICS)
    ours = lnjax.RNN(cell, **CARRIED_STATISTICS)
    variables = jax.jit(ours.init)(RNGS, xs)
    ys, state = run_lifted(ours, variables, xs)
    assert_close((ys, state), run_lifted(theirs, variables, xs))
    moved = state["batch_stats"]["cell"]["BatchNorm_0"]
    assert not np.allclose(moved["mean"], 0)
    # Evaluation reads it, and need not be able to change it.
    trained, evaluation = variables | state, cell.clone(train=False)
    evaluated = lnjax.RNN(evaluation, **CARRIED_STATISTICS).apply(trained, xs)
    # Flax runs it only as one state for all steps.
    both = {"variable_broadcast": ("params", "batch_stats")}
    assert_close(evaluated, nn.RNN(evaluation, **both).apply(trained, xs))
    # If these fail, Flax has mended them.
    with pytest.raises(TypeError, match="carry input and carry output"):
        nn.RNN(evaluation, **CARRIED_STATISTICS).apply(trained, xs)
    with pytest.raises(TypeError, match="carry input and carry output"):
        theirs.init(jax.random.key(0), xs)


def test_an_error_about_what_is_not_lifted_says_what_is(xs):
    with pytest.raises(Exception, match="batch_stats") as caught:
        lnjax.RNN(Stateful(batch_norm=True)).init(jax.random.key(0), xs)
    assert any("RNN lifts over time variable_axes={}" in note for note in caught.value.__notes__)
    rnn = lnjax.RNN(Stateful(dropout=0.5))
    variables = rnn.init(jax.random.key(0), xs)
    with pytest.raises(Exception, match="dropout") as caught:
        rnn.apply(variables, xs, rngs={"dropout": jax.random.key(0)})
    assert any("split_rngs={'params': False}" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("implementation, stored", [("scan", True), ("auto", False)])
def test_the_implementation_reaches_the_loop_of_a_cell_of_flax(xs, implementation, stored):
    rnn = lnjax.RNN(nn.SimpleCell(H), implementation=implementation)
    variables = random_variables(rnn, xs)
    jaxpr = jax.make_jaxpr(rnn.apply)(variables, xs).jaxpr
    (loop,) = loops(jaxpr)
    inside = [e.primitive.name for e in equations(loop.params["jaxpr"].jaxpr)]
    assert any("remat" in name or "checkpoint" in name for name in inside) != stored


# The carry of any cell.


class Odd(nn.RNNCellBase):
    """Returns whatever carry it is told to."""

    returns: object = None

    def __call__(self, carry, x):
        return self.returns(carry), x

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape)

    @property
    def num_feature_axes(self):
        return 1


@pytest.mark.parametrize(
    "returns, arguments, message",
    [
        (
            lambda c: c.astype(jnp.bfloat16),
            {},
            r"Odd was given carry as float32 \(4, 3\).*bfloat16",
        ),
        (lambda c: c[:, :1], {}, r"given carry as float32 \(4, 3\) and returns float32 \(4, 1\)"),
        (
            lambda c: (c, c),
            {},
            r"given the carry PyTreeDef\(\*\) and returns PyTreeDef\(\(\*, \*\)\)",
        ),
        (
            lambda c: c,
            {"initial_carry": {"n": np.zeros(())}, "seq_lengths": LENGTHS},
            r"carry\['n'\] of shape \(\); under a mask.*batch axes \(4,\)",
        ),
    ],
    ids=["dtype", "shape", "structure", "no batch axis"],
)
def test_a_carry_that_does_not_fit_is_named(xs, returns, arguments, message):
    with pytest.raises(ValueError, match=message):
        lnjax.RNN(Odd(returns)).apply({}, xs, **arguments)


def test_a_carry_without_batch_axes_is_fine_without_a_mask(xs):
    rnn = lnjax.RNN(Odd(lambda c: {"n": c["n"] + 1}), return_carry=True)
    carry, _ = rnn.apply({}, xs, initial_carry={"n": jnp.zeros(())})
    assert carry["n"] == T


def test_too_few_axes_are_refused(xs):
    with pytest.raises(ValueError, match=r"inputs have shape \(3,\).*time axis and 1 feature axes"):
        lnjax.RNN(nn.SimpleCell(H)).init(jax.random.key(0), xs[0, 0])


@pytest.mark.parametrize(
    "rnn",
    [
        lnjax.RNN(nn.GRUCell(H)),
        lnjax.RNN(lnjax.SimpleCell(H, norm=None), reverse=True, keep_order=True),
        lnjax.RNN(lnjax.SimpleCell(H, norm=None), variable_broadcast=("params",)),
    ],
    ids=["cell of flax", "reverse", "lifted"],
)
@few_examples
@given(mask=masks())
@pytest.mark.some(2)
def test_a_mask_is_truncation_for_outputs_and_all_gradients(rnn, x64, mask):
    assert_a_mask_is_truncation(rnn, mask)

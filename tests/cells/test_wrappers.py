"""Learned initial carry, recurrent dropout, zoneout, and the offset of the forget gate."""

from functools import cache

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax import GRUCell, LearnedCarry, LSTMCell, RecurrentDropout, SimpleCell, Zoneout
from tests.trees import assert_close, assert_equal

T, B, D, H = 6, 3, 2, 5
CELLS = [LSTMCell(H), GRUCell(H), SimpleCell(H)]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
RNGS = {name: jax.random.key(i) for i, name in enumerate(("params", "dropout", "zoneout"))}


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


def random_variables(layer, xs):
    """Drawn in NumPy: compiling `init` would take longer than compiling what is tested."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(layer.init, RNGS, xs)
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(np.float32), shapes)


@cache
def compiled(cell):
    """The layer and one compiled `apply` for each cell."""
    rnn = lnjax.RNN(cell, return_carry=True)
    return rnn, jax.jit(rnn.apply)


@cache
def compiled_step(cell):
    return jax.jit(cell.step)


def run(cell, xs, *, variables=None, rngs=RNGS, **arguments):
    """Final carry and outputs under `lnjax.RNN`, compiled, and the variables."""
    rnn, apply = compiled(cell)
    if variables is None:
        variables = random_variables(rnn, xs)
    carry, ys = apply(variables, xs, rngs=rngs, **arguments)
    return carry, ys, variables


def inner(variables, depth):
    """The variables for the cell `depth` wrappers down."""
    params = variables["params"]
    for _ in range(depth):
        params = {"cell": params["cell"]["cell"]}
    return {"params": params}


@every_cell
def test_wrappers_that_do_nothing_change_nothing(cell, xs):
    idle = Zoneout(RecurrentDropout(cell, rate=0.0))
    carry, ys, variables = run(idle, xs, rngs={})
    assert_equal((carry, ys), run(cell, xs, variables=inner(variables, 2), rngs={})[:2])
    evaluated = RecurrentDropout(cell, rate=0.7, deterministic=True)
    variables = {"params": {"cell": {"cell": inner(variables, 2)["params"]["cell"]}}}
    assert_equal(run(evaluated, xs, variables=variables, rngs={})[:2], (carry, ys))


def pure_parameters(cell, variables):
    """The parameters of the `cell` inside one wrapper inside of an RNN."""
    return cell.apply({"params": variables["params"]["cell"]["cell"]}, D, method="parameters")


@every_cell
def test_dropout_draws_once_for_a_sequence_and_anew_for_each_call(cell, xs):
    dropped = RecurrentDropout(cell, rate=0.5)
    _, ys, variables = run(dropped, xs)
    assert_equal(run(dropped, xs, variables=variables)[1], ys)
    other = run(dropped, xs, variables=variables, rngs={"dropout": jax.random.key(9)})[1]
    assert (np.asarray(other) != np.asarray(ys)).any()

    class Listening(RecurrentDropout):
        def noise(self, num_steps, batch):
            noise = super().noise(num_steps, batch)
            heard.append(noise.dropout_h)
            return noise

    heard = []
    lnjax.RNN(Listening(cell, rate=0.5)).apply(variables, xs, rngs=RNGS)
    (drawn,) = heard
    assert drawn.shape == (B, H)
    assert set(np.unique(drawn)) == {0.0, 2.0}
    # The one draw explains every step.
    params, carry = pure_parameters(cell, variables), cell.initialize_carry(RNGS["params"], (B, D))
    step = compiled_step(cell)
    for t in range(T):
        carry, y = step(params, carry, xs[:, t], lnjax.Noise(dropout_h=drawn))
        assert_close(y, ys[:, t], 1e-5)


def test_dropout_keeps_the_expectation():
    mask = lnjax.cells.wrappers.dropout_mask(jax.random.key(0), 0.3, (200, 200))
    assert set(np.unique(mask)) == {0.0, np.float32(1 / np.float32(0.7))}
    np.testing.assert_allclose(np.mean(mask), 1, atol=0.02)
    np.testing.assert_array_equal(lnjax.cells.wrappers.dropout_mask(None, 1, (2, 3)), 0)


def test_zoneout_in_training_keeps_or_takes_each_unit_of_each_step(xs):
    cell = LSTMCell(H)
    zoned = Zoneout(cell, c=0.6, h=0.3)
    (_, h), ys, _ = run(zoned, xs)
    assert_equal(h, ys[:, -1])
    held = np.asarray(ys[:, 1:] == ys[:, :-1])
    assert 0.1 < held.mean() < 0.5
    assert not (held == held[:, :1]).all()  # other units at other steps


@every_cell
def test_zoneout_in_evaluation_takes_the_expectation(cell, xs):
    rates = {"h": 0.3} | ({"c": 0.6} if "c" in cell.carry_names else {})
    zoned = Zoneout(cell, **rates, deterministic=True)
    carry, ys, variables = run(zoned, xs, rngs={})
    params = pure_parameters(cell, variables)
    old, step = cell.initialize_carry(jax.random.key(0), (B, D)), compiled_step(cell)
    for t in range(T):
        new, _ = step(params, old, xs[:, t])
        old = jax.tree.unflatten(
            jax.tree.structure(old),
            [
                rates[name] * before + (1 - rates[name]) * after
                for name, before, after in zip(
                    cell.carry_names, jax.tree.leaves(old), jax.tree.leaves(new), strict=True
                )
            ],
        )
        assert_close(ys[:, t], jax.tree.leaves(old)[-1], 1e-5)
    assert_close(carry, old, 1e-5)


def test_zoneout_of_rate_one_never_moves(xs):
    start = (np.full((B, H), 0.25, np.float32), np.full((B, H), -0.5, np.float32))
    carry, ys, _ = run(Zoneout(LSTMCell(H), c=1.0, h=1.0), xs, initial_carry=start)
    assert_equal(carry, start)
    np.testing.assert_array_equal(ys, -0.5)


@every_cell
@pytest.mark.parametrize("layer", [lnjax.RNN, nn.RNN], ids=["lnjax", "flax"])
@pytest.mark.some(2)
def test_a_learned_carry_starts_every_row_and_gets_its_gradient(cell, xs, layer):
    learned = LearnedCarry(cell, carry_init=nn.initializers.normal(1.0))
    rnn = layer(learned, return_carry=True)
    variables = random_variables(rnn, xs)
    starts = [variables["params"]["cell"][name] for name in cell.carry_names]
    assert all(np.abs(start).min() > 0 for start in starts)
    rows = jax.tree.unflatten(
        jax.tree.structure(cell.initialize_carry(RNGS["params"], (B, D))),
        [jnp.broadcast_to(start, (B, H)) for start in starts],
    )
    expected = run(cell, xs, variables=inner(variables, 1), rngs={}, initial_carry=rows)
    weights = np.random.default_rng(0).normal(size=(B, T, H)).astype(np.float32)

    def loss(variables):
        carry, ys = rnn.apply(variables, xs)
        return jnp.vdot(ys, weights), (carry, ys)

    (_, results), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    assert_close(results, expected[:2], 1e-6)
    for name in cell.carry_names:
        assert np.abs(gradient["params"]["cell"][name]).max() > 1e-4


def test_the_leaves_that_are_not_learned_start_as_ever(xs):
    learned = LearnedCarry(LSTMCell(H), learned=("h",), carry_init=nn.initializers.ones_init())
    variables = jax.jit(lnjax.RNN(learned).init)(RNGS, xs)
    assert sorted(variables["params"]["cell"]) == ["cell", "h"]
    cell = learned.bind({"params": variables["params"]["cell"]})
    c, h = cell.initialize_carry(jax.random.key(0), (B, D))
    np.testing.assert_array_equal(c, 0)
    np.testing.assert_array_equal(h, 1)


def test_a_learned_carry_is_declared_also_where_another_one_is_given(xs):
    rnn, start = lnjax.RNN(LearnedCarry(GRUCell(H))), np.ones((B, H), np.float32)
    variables = jax.jit(rnn.init)(RNGS, xs, initial_carry=start)
    assert variables["params"]["cell"]["h"].shape == (H,)
    assert rnn.apply(variables, xs).shape == (B, T, H)


def test_wrappers_stand_in_one_another_in_any_order(xs):
    orders = [
        Zoneout(RecurrentDropout(LearnedCarry(LSTMCell(H)), rate=0.5), c=0.5, h=0.5),
        LearnedCarry(Zoneout(RecurrentDropout(LSTMCell(H), rate=0.5), c=0.5, h=0.5)),
    ]
    for cell in orders:
        _, ys, _ = run(cell, xs)
        assert ys.shape == (B, T, H)
        theirs = nn.RNN(cell, split_rngs={"params": False, "dropout": False, "zoneout": True})
        ours = lnjax.RNN(cell)
        assert jax.eval_shape(theirs.init, RNGS, xs) == jax.eval_shape(ours.init, RNGS, xs)


def test_masked_steps_are_held_whatever_is_drawn(xs):
    mask = np.array([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 1, 1], [0] * 6], bool)
    cell = Zoneout(RecurrentDropout(LSTMCell(H), rate=0.5), c=0.5, h=0.5)
    dirty = np.where(mask[:, :, None], xs, np.nan)
    (c, h), ys, variables = run(cell, xs, mask=jnp.asarray(mask))
    assert_equal(run(cell, dirty, variables=variables, mask=jnp.asarray(mask))[:2], ((c, h), ys))
    np.testing.assert_array_equal(np.asarray(ys)[~mask], 0)
    np.testing.assert_array_equal(c[2], 0)
    assert_equal(h[0], ys[0, 1])


def test_the_forget_gate_bias_is_on_the_forget_gate_only():
    cell = LSTMCell(H, bias_init=lnjax.forget_gate_bias(1.5))
    params = cell.init(jax.random.key(0), D, method="parameters")["params"]
    np.testing.assert_array_equal(np.split(params["bias"], 4)[1], 1.5)
    np.testing.assert_array_equal(np.delete(np.split(params["bias"], 4), 1, axis=0), 0)
    np.testing.assert_array_equal(params["bias_c"], 0)
    with pytest.raises(ValueError, match="4H, not 15"):
        GRUCell(H, bias_init=lnjax.forget_gate_bias(1.0)).init(
            jax.random.key(0), D, method="parameters"
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Zoneout(nn.LSTMCell(H)), TypeError, "takes a cell of lnjax, got LSTMCell"),
        (lambda: Zoneout(GRUCell(H), c=0.5), ValueError, r"c=0.5, but the carry .*'h'"),
        (lambda: Zoneout(GRUCell(H), h=1.5), ValueError, "h=1.5 must lie between 0 and 1"),
        (lambda: RecurrentDropout(GRUCell(H), rate=-1.0), ValueError, "rate=-1.0 must lie"),
        (lambda: Zoneout(Zoneout(GRUCell(H), h=0.5), h=0.5), ValueError, "keep one"),
        (lambda: RecurrentDropout(RecurrentDropout(GRUCell(H))), ValueError, "keep one"),
        (lambda: LearnedCarry(GRUCell(H), learned=("c",)), ValueError, r"learned names \['c'\]"),
    ],
)
def test_what_makes_no_sense_is_refused(xs, make, error, message):
    with pytest.raises(error, match=message):
        lnjax.RNN(make()).init(RNGS, xs)


def test_a_learned_carry_outside_of_a_module_is_refused():
    with pytest.raises(ValueError, match="is a parameter"):
        LearnedCarry(GRUCell(H)).initialize_carry(jax.random.key(0), (B, D))


def test_a_missing_random_stream_is_refused(xs):
    cell = Zoneout(GRUCell(H), h=0.5)
    _, _, variables = run(cell, xs)
    with pytest.raises(flax.errors.InvalidRngError, match="zoneout"):
        lnjax.RNN(cell).apply(variables, xs)

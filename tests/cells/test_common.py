"""The laws of every lnjax cell, with and without a norm. A new cell in ALL_CELLS is tested here."""

import importlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lnjax
from lnjax.cells import ALL_CELLS
from tests.trees import assert_close, assert_equal

T, B, D, H = 5, 3, 2, 4  # all different
MIXED = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool).T  # (T, B)

every_cell = pytest.mark.parametrize(
    "cell",
    [cell(features=H, norm=norm) for cell in ALL_CELLS for norm in ("layer", "rms", None)],
    ids=lambda cell: f"{type(cell).__name__}-{cell.norm}",
)
few_examples = settings(
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Case:
    """Random parameters, inputs, initial carry, and cotangents of the final carry and outputs.

    Nothing has a value (a gain of 1, a bias or a state of 0) that could hide its absence.
    """

    def __init__(self, cell, dtype=np.float32, seed=0):
        rng = np.random.default_rng(seed)

        def noise(leaf):
            return rng.normal(0.2, 0.7, leaf.shape).astype(dtype)

        carry = jax.eval_shape(lambda: cell.initialize_carry(jax.random.key(0), (B, D)))
        self.cell = cell
        self.xs = rng.normal(size=(T, B, D)).astype(dtype)
        self.carry = jax.tree.map(noise, carry)
        shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, self.xs[0])
        self.variables = jax.tree.map(noise, shapes)
        self.params = cell.apply(self.variables, D, method="parameters")
        self.cotangents = jax.tree.map(noise, self.carry), noise(np.empty((T, B, H)))

    def run(self, **changes):
        arguments = {"params": self.params, "carry": self.carry, "xs": self.xs, "mask": None}
        arguments |= changes
        arguments["mask"] = jnp.asarray(arguments["mask"]) if "mask" in changes else None
        return compiled(self.cell)(**arguments)


@cache
def compiled(cell):
    """One compiled `run` for each cell, so that equal shapes compile once for all tests."""
    return jax.jit(cell.run, static_argnames=("reverse", "unroll", "implementation"))


@cache
def compiled_pullback(cell):
    def pullback(params, carry, xs, mask, cotangents):
        primals, vjp = jax.vjp(lambda *args: cell.run(*args, mask), params, carry, xs)
        return primals, vjp(cotangents)

    return jax.jit(pullback)


@cache
def compiled_step_pullback(cell):
    def pullback(params, carry, x, cotangents):
        primals, vjp = jax.vjp(cell.step, params, carry, x)
        return primals, vjp(cotangents)

    return jax.jit(pullback)


def pure_function(cell):
    """`lnjax.lstm` for `LSTMCell`: it has the name of the module that the cell is defined in."""
    return getattr(lnjax, type(cell).__module__.rpartition(".")[2])


def inner_product(one, other):
    return sum(map(np.vdot, jax.tree.leaves(one), jax.tree.leaves(other)))


@every_cell
def test_the_linen_cell_step_and_run_are_one_function(cell):
    case = Case(cell)
    linen = jax.jit(cell.apply)
    step = jax.jit(cell.step)
    by_call, by_step, calls, steps = case.carry, case.carry, [], []
    for x in case.xs:
        by_call, y = linen(case.variables, by_call, x)
        calls.append(y)
        by_step, y = step(case.params, by_step, x)
        steps.append(y)
    carry, ys = case.run()
    assert_close((by_call, np.stack(calls)), (carry, ys), 1e-5)
    assert_close((by_step, np.stack(steps)), (carry, ys), 1e-5)


@every_cell
def test_run_is_the_pure_function(cell):
    case, mask = Case(cell), jnp.asarray(MIXED)
    function = jax.jit(partial(pure_function(cell), norm=cell.norm, reverse=True))
    assert_close(
        function(case.params, case.xs, case.carry, mask=mask),
        case.run(mask=mask, reverse=True),
        1e-6,
    )


@every_cell
def test_the_pure_function_starts_where_the_cell_does(cell):
    case = Case(cell)
    start = cell.initialize_carry(jax.random.key(0), (B, D))
    function = jax.jit(partial(pure_function(cell), norm=cell.norm))
    assert_close(function(case.params, case.xs), case.run(carry=start), 1e-6)


@every_cell
def test_the_fields_of_the_parameters_are_the_names_in_flax(cell):
    case = Case(cell)
    rebuilt = type(case.params)(**case.variables["params"])
    assert rebuilt._fields == case.params._fields
    assert_equal(rebuilt, case.params)
    module = importlib.import_module(type(cell).__module__)
    assert getattr(module, type(case.params).__name__) is type(case.params)


@every_cell
def test_unrolling_changes_nothing(cell):
    case = Case(cell)
    assert_close(case.run(unroll=3), case.run(), 1e-5)


@every_cell
def test_reverse_is_the_run_over_flipped_time(cell):
    case = Case(cell)
    carry, ys = case.run(xs=case.xs[::-1], mask=MIXED[::-1])
    assert_close(case.run(mask=MIXED, reverse=True), (carry, ys[::-1]), 1e-6)


def masks(rows):
    """(T, B) masks; rows of a front and rows with gaps, empty and full ones among them."""
    front = st.integers(0, T).map(lambda n: [True] * n + [False] * (T - n))
    gaps = st.lists(st.booleans(), min_size=T, max_size=T)
    columns = st.lists(st.one_of(front, gaps), min_size=rows, max_size=rows)
    return columns.map(lambda columns: np.array(columns, bool).T)


@every_cell
@few_examples
@given(mask=masks(B))
def test_a_mask_is_truncation_for_outputs_and_all_gradients(cell, x64, mask):
    case = Case(cell, np.float64)
    xs = np.where(mask[:, :, None], case.xs, np.nan)
    (carry, ys), (to_params, to_carry, to_xs) = compiled_pullback(cell)(
        case.params, case.carry, xs, jnp.asarray(mask), case.cotangents
    )
    expected_to_params = jax.tree.map(np.zeros_like, case.params)
    for b in range(B):
        (row_carry, row_ys), (row_to_params, row_to_carry, row_to_xs) = by_hand(
            case, b, np.flatnonzero(mask[:, b])
        )
        this_row = partial(jax.tree.map, lambda leaf, b=b: leaf[b : b + 1])
        assert_close(this_row((carry, to_carry)), (row_carry, row_to_carry), 1e-9)
        assert_close((ys[:, b : b + 1], to_xs[:, b : b + 1]), (row_ys, row_to_xs), 1e-9)
        expected_to_params = jax.tree.map(np.add, expected_to_params, row_to_params)
    assert_close(to_params, expected_to_params, 1e-9)
    padding = ~mask
    np.testing.assert_array_equal(np.asarray(ys)[padding], 0)
    np.testing.assert_array_equal(np.asarray(to_xs)[padding], 0)


def by_hand(case, b, real_steps):
    """Runs and differentiates row b over `real_steps` alone, one compiled step at a time."""
    this_row = partial(jax.tree.map, lambda leaf: leaf[b : b + 1])
    pullback = compiled_step_pullback(case.cell)
    ys, to_xs = np.zeros((T, 1, H)), np.zeros((T, 1, D))
    carries, carry = {}, this_row(case.carry)
    to_carry, to_ys = this_row(case.cotangents[0]), case.cotangents[1][:, b : b + 1]
    for t in real_steps:
        carries[t] = carry
        inputs = case.xs[t, b : b + 1]
        (carry, ys[t]), _ = pullback(case.params, carry, inputs, (to_carry, to_ys[t]))
    to_params = jax.tree.map(np.zeros_like, case.params)
    for t in real_steps[::-1]:
        inputs = case.xs[t, b : b + 1]
        _, gradients = pullback(case.params, carries[t], inputs, (to_carry, to_ys[t]))
        to_params = jax.tree.map(np.add, to_params, gradients[0])
        _, to_carry, to_xs[t] = gradients
    return (carry, ys), (to_params, to_carry, to_xs)


@every_cell
def test_a_row_of_length_0_returns_its_carry_and_moves_nothing(cell, x64):
    case = Case(cell, np.float64)
    (carry, ys), (to_params, to_carry, to_xs) = compiled_pullback(cell)(
        case.params,
        case.carry,
        np.full_like(case.xs, np.nan),
        jnp.zeros((T, B), bool),
        case.cotangents,
    )
    assert_equal(carry, case.carry)
    assert_equal(to_carry, case.cotangents[0])
    for leaf in (ys, to_xs, *jax.tree.leaves(to_params)):
        np.testing.assert_array_equal(leaf, 0)


@every_cell
@pytest.mark.parametrize("sizes", [(2, 3), (1, 1, 1, 1, 1)], ids=["pieces", "steps"])
def test_a_stream_in_pieces_is_the_whole(cell, sizes):
    # To rounding: products over another number of rows may add in another order.
    case = Case(cell)
    whole = case.run(mask=MIXED)
    carry, pieces, start = case.carry, [], 0
    for size in sizes:
        now = slice(start, start + size)
        carry, ys = case.run(carry=carry, xs=case.xs[now], mask=MIXED[now])
        pieces.append(ys)
        start += size
    assert_close((carry, np.concatenate(pieces)), whole, 1e-5)


@every_cell
def test_a_sequence_without_steps_returns_the_carry(cell):
    case = Case(cell)
    carry, ys = case.run(xs=case.xs[:0])
    assert_equal(carry, case.carry)
    assert ys.shape == (0, B, H)


@every_cell
def test_rows_do_not_see_each_other(cell):
    case = Case(cell)
    carry, ys = case.run()
    for b in range(B):
        one_row = partial(jax.tree.map, lambda leaf, b=b: leaf[b : b + 1])
        alone = case.run(carry=one_row(case.carry), xs=case.xs[:, b : b + 1])
        assert_close(alone, (one_row(carry), ys[:, b : b + 1]), 1e-5)


@every_cell
def test_outputs_do_not_depend_on_later_inputs(cell):
    case = Case(cell)
    later = case.xs.copy()
    later[3:] += 1
    _, ys = case.run()
    _, others = case.run(xs=later)
    np.testing.assert_array_equal(ys[:3], others[:3])
    assert (ys[3:] != others[3:]).any(axis=(1, 2)).all()


@every_cell
def test_jit_changes_nothing(cell):
    case = Case(cell)
    assert_close(cell.run(case.params, case.carry, case.xs), case.run(), 1e-5)


@every_cell
@pytest.mark.parametrize("call", ["cell", "pure function"])
def test_numpy_float64_is_float32_without_a_warning(cell, call):
    # Unless x64 is on, as everywhere in JAX and Flax; a warning would fail this test.
    case, same = Case(cell), Case(cell)
    case.xs, case.carry, case.params, case.variables = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64),
        (case.xs, case.carry, case.params, case.variables),
    )
    function = {
        "cell": lambda case: cell.apply(case.variables, case.carry, case.xs[0]),
        "pure function": lambda case: pure_function(cell)(
            case.params, case.xs, case.carry, norm=cell.norm
        ),
    }[call]
    got = function(case)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    assert_close(got, function(same), 1e-5)


@every_cell
def test_vmap_over_members_of_an_ensemble(cell):
    cases = [Case(cell, seed=seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(case.params for case in cases))
    xs, carry = cases[0].xs, cases[0].carry
    ensemble = jax.jit(jax.vmap(cell.run, in_axes=(0, None, None)))(stacked, carry, xs)
    for member, case in enumerate(cases):
        expected = case.run(xs=xs, carry=carry)
        assert_close(jax.tree.map(lambda leaf, m=member: leaf[m], ensemble), expected, 1e-5)


@every_cell
def test_forward_mode_is_the_transpose_of_reverse_mode(cell, x64):
    case, tangents = Case(cell, np.float64), Case(cell, np.float64, seed=1)
    mask = jnp.asarray(MIXED)

    @jax.jit
    def push(primals, tangents):
        return jax.jvp(lambda *args: cell.run(*args, mask), primals, tangents)[1]

    primals = case.params, case.carry, case.xs
    directions = tangents.params, tangents.carry, tangents.xs
    forward = inner_product(case.cotangents, push(primals, directions))
    _, pulled = compiled_pullback(cell)(*primals, mask, case.cotangents)
    np.testing.assert_allclose(forward, inner_product(pulled, directions), rtol=1e-10)


@every_cell
def test_a_zero_state_has_finite_gradients(cell, x64):
    # The recurrent layer norm meets a row of variance 0 at the first step.
    case = Case(cell, np.float64)
    start, mask = jax.tree.map(jnp.zeros_like, case.carry), jnp.ones((T, B), bool)
    _, gradients = compiled_pullback(cell)(case.params, start, case.xs, mask, case.cotangents)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()


@every_cell
def test_works_under_the_rnn_of_flax_with_the_same_parameters(cell):
    case = Case(cell)
    theirs = nn.RNN(cell, time_major=True, return_carry=True)
    ours = lnjax.RNN(cell, time_major=True, return_carry=True)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), case.xs)
    assert shapes == jax.eval_shape(ours.init, jax.random.key(0), case.xs)
    variables = {"params": {"cell": case.variables["params"]}}
    got = jax.jit(theirs.apply)(variables, case.xs, initial_carry=case.carry)
    assert_close(got, case.run(), 1e-5)


@every_cell
def test_a_cell_can_be_rebuilt_and_compared(cell):
    # Cells are static arguments of jit: equal cells must hash alike.
    assert cell.clone() == cell
    assert hash(cell.clone()) == hash(cell)
    assert cell.num_feature_axes == 1


@every_cell
def test_unknown_choices_are_refused(cell):
    case = Case(cell)
    with pytest.raises(ValueError, match="implementation='typo'"):
        cell.run(case.params, case.carry, case.xs, implementation="typo")
    with pytest.raises(ValueError, match="norm='typo'"):
        cell.clone(norm="typo").run(case.params, case.carry, case.xs)

"""The laws of every lnjax cell, with and without a norm. A new cell in ALL_CELLS is tested here.

Recurrent batch norm obeys them in evaluation; what it does in training has tests of its own.
"""

import importlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lnjax
import lnjax.nnx
from lnjax.cells import ALL_CELLS, BatchNormLSTMCell, LSTMCell, SimpleCell
from tests.cells.cases import GAPS, B, Case, D, H, T, inner_product, name_of
from tests.trees import assert_close, assert_equal

STREAM = 4 * 2**-23  # four units in the last place of float32 numbers from 1 to 2


def variants(cell):
    """The cells of one class that the laws run over."""
    if cell is BatchNormLSTMCell:
        return [cell(features=H, max_steps=4, use_running_average=True)]
    return [cell(features=H, norm=norm) for norm in ("layer", "rms", None)]


CELLS = [variant for cell in ALL_CELLS for variant in variants(cell)]
CELLS += [
    LSTMCell(features=H, sites=("recurrent", "input", "carried_cell")),
    SimpleCell(features=H, sites=("recurrent", "input")),
]


every_cell = pytest.mark.parametrize("cell", CELLS, ids=name_of)
few_examples = settings(
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


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


@cache
def compiled_apply(cell):
    return jax.jit(cell.apply)


def pure_function(cell):
    """`lnjax.lstm` for `LSTMCell`: it has the name of the module that the cell is defined in."""
    function = getattr(lnjax, type(cell).__module__.rpartition(".")[2])
    if isinstance(cell, BatchNormLSTMCell):
        return lambda *args, **kwargs: function(*args, use_running_average=True, **kwargs)[:2]
    choices = {
        choice: getattr(cell, choice) for choice in ("norm", "sites") if hasattr(cell, choice)
    }
    return partial(function, **choices)


@every_cell
def test_the_linen_cell_step_and_run_are_one_function(cell):
    case = Case(cell, np.float32)
    linen = compiled_apply(cell)
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
@pytest.mark.some(5)
def test_run_is_the_pure_function(cell):
    case, mask = Case(cell, np.float32), jnp.asarray(GAPS)
    function = jax.jit(partial(pure_function(cell), reverse=True))
    assert_close(
        function(case.params, case.xs, case.carry, mask=mask),
        case.run(mask=mask, reverse=True),
        1e-6,
    )


@every_cell
def test_the_pure_function_starts_where_the_cell_does(cell):
    case = Case(cell, np.float32)
    start = cell.initialize_carry(jax.random.key(0), (B, D))
    function = jax.jit(pure_function(cell))
    assert_close(function(case.params, case.xs), case.run(carry=start), 1e-6)


@every_cell
def test_the_fields_of_the_parameters_are_the_names_in_flax(cell):
    case = Case(cell, np.float32)
    fields = dict(case.variables["params"])
    if statistics := case.variables.get("batch_stats"):
        fields["statistics"] = type(case.params.statistics)(**statistics)
    rebuilt = type(case.params)(**fields)
    assert rebuilt._fields == case.params._fields
    assert_equal(rebuilt, case.params)
    module = importlib.import_module(type(cell).__module__)
    assert getattr(module, type(case.params).__name__) is type(case.params)


@every_cell
def test_unrolling_changes_nothing(cell):
    case = Case(cell, np.float32)
    assert_close(case.run(unroll=3), case.run(), 1e-5)


@every_cell
def test_reverse_is_the_run_over_flipped_time(cell):
    case = Case(cell, np.float32)
    carry, ys = case.run(xs=case.xs[::-1], mask=GAPS[::-1])
    assert_close(case.run(mask=GAPS, reverse=True), (carry, ys[::-1]), 1e-6)


def masks(rows):
    """(T, B) masks; rows of a front and rows with gaps, empty and full ones among them."""
    front = st.integers(0, T).map(lambda n: [True] * n + [False] * (T - n))
    gaps = st.lists(st.booleans(), min_size=T, max_size=T)
    columns = st.lists(st.one_of(front, gaps), min_size=rows, max_size=rows)
    return columns.map(lambda columns: np.array(columns, bool).T)


@every_cell
@few_examples
@given(mask=masks(B))
@pytest.mark.some(5)
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
@pytest.mark.some(8)
def test_a_stream_in_pieces_is_the_whole(cell, sizes):
    # To STREAM: the operations are the same, but products over another number of rows may add in
    # another order.
    case = Case(cell, np.float32)
    whole = case.run(mask=GAPS)
    carry, pieces, start = case.carry, [], 0
    for size in sizes:
        now = slice(start, start + size)
        carry, ys = case.run(carry=carry, xs=case.xs[now], mask=GAPS[now])
        pieces.append(ys)
        start += size
    assert_close((carry, np.concatenate(pieces)), whole, STREAM)


@every_cell
def test_a_sequence_without_steps_returns_the_carry(cell):
    case = Case(cell, np.float32)
    carry, ys = case.run(xs=case.xs[:0])
    assert_equal(carry, case.carry)
    assert ys.shape == (0, B, H)


@every_cell
def test_rows_do_not_see_each_other(cell):
    case = Case(cell, np.float32)
    carry, ys = case.run()
    for b in range(B):
        one_row = partial(jax.tree.map, lambda leaf, b=b: leaf[b : b + 1])
        alone = case.run(carry=one_row(case.carry), xs=case.xs[:, b : b + 1])
        assert_close(alone, (one_row(carry), ys[:, b : b + 1]), 1e-5)


@every_cell
def test_outputs_do_not_depend_on_later_inputs(cell):
    case = Case(cell, np.float32)
    later = case.xs.copy()
    later[3:] += 1
    _, ys = case.run()
    _, others = case.run(xs=later)
    np.testing.assert_array_equal(ys[:3], others[:3])
    assert (ys[3:] != others[3:]).any(axis=(1, 2)).all()


@every_cell
def test_jit_changes_nothing(cell):
    case = Case(cell, np.float32)
    assert_close(cell.run(case.params, case.carry, case.xs), case.run(), 1e-5)


@every_cell
@pytest.mark.parametrize("call", ["cell", "pure function"])
@pytest.mark.some(8)
def test_numpy_float64_is_float32_without_a_warning(cell, call):
    # Unless x64 is on, as everywhere in JAX and Flax; a warning would fail this test.
    case, same = Case(cell, np.float32), Case(cell, np.float32)
    case.xs, case.carry, case.params, case.variables = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64),
        (case.xs, case.carry, case.params, case.variables),
    )
    function = {
        "cell": lambda case: cell.apply(case.variables, case.carry, case.xs[0]),
        "pure function": lambda case: pure_function(cell)(case.params, case.xs, case.carry),
    }[call]
    got = function(case)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    assert_close(got, function(same), 1e-5)


@every_cell
def test_vmap_over_members_of_an_ensemble(cell):
    cases = [Case(cell, np.float32, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(case.params for case in cases))
    xs, carry = cases[0].xs, cases[0].carry
    ensemble = jax.jit(jax.vmap(cell.run, in_axes=(0, None, None)))(stacked, carry, xs)
    for member, case in enumerate(cases):
        expected = case.run(xs=xs, carry=carry)
        assert_close(jax.tree.map(lambda leaf, m=member: leaf[m], ensemble), expected, 1e-5)


@every_cell
def test_forward_mode_is_the_transpose_of_reverse_mode(cell, x64):
    case, tangents = Case(cell, np.float64), Case(cell, np.float64, seed=1)
    mask = jnp.asarray(GAPS)

    @jax.jit
    def push(primals, tangents):
        run = partial(cell.run, implementation="scan")  # the chunked path has reverse mode alone
        return jax.jvp(lambda *args: run(*args, mask), primals, tangents)[1]

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
    case = Case(cell, np.float32)
    every = ("params", "batch_stats")
    theirs = nn.RNN(cell, time_major=True, return_carry=True, variable_broadcast=every)
    ours = lnjax.RNN(cell, time_major=True, return_carry=True)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), case.xs)
    assert shapes == jax.eval_shape(ours.init, jax.random.key(0), case.xs)
    variables = {kind: {"cell": values} for kind, values in case.variables.items()}
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
    case = Case(cell, np.float32)
    with pytest.raises(ValueError, match="implementation='typo'"):
        cell.run(case.params, case.carry, case.xs, implementation="typo")
    if hasattr(cell, "norm"):
        with pytest.raises(ValueError, match="norm='typo'"):
            cell.clone(norm="typo").run(case.params, case.carry, case.xs)


@every_cell
def test_half_precision_outputs_come_with_float32_statistics_and_carry(cell):
    # A row with mean 300 has a deviation that bfloat16 (8 bits) cannot even hold.
    case = Case(cell, np.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jax.tree.map(lambda leaf, d=dtype: jnp.asarray(leaf, d), case.xs)
        rounded = np.asarray(half, np.float32)
        carry, ys = case.run(xs=half)
        assert ys.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
        # Weights are float32, so that products are too: nothing but the output is rounded.
        _, expected = case.run(xs=rounded)
        assert_close(np.asarray(ys, np.float32), expected, float(jnp.finfo(dtype).eps))


@every_cell
@pytest.mark.some(4)
def test_exports_with_symbolic_batch_and_time(cell):
    case = Case(cell, np.float32)
    time, batch = jax.export.symbolic_shape("t, b")

    def symbolic(leaf, *axes):
        return jax.ShapeDtypeStruct((*axes, *leaf.shape[len(axes) :]), leaf.dtype)

    def run(params, carry, xs, mask):
        return cell.run(params, carry, xs, mask, reverse=True)

    exported = jax.export.export(jax.jit(run))(
        jax.tree.map(symbolic, case.params),
        jax.tree.map(lambda leaf: symbolic(leaf, batch), case.carry),
        symbolic(case.xs, time, batch),
        symbolic(GAPS, time, batch),
    )
    for steps, rows in ((T, B), (2, 1)):
        carry = jax.tree.map(lambda leaf, rows=rows: leaf[:rows], case.carry)
        xs, mask = case.xs[:steps, :rows], GAPS[:steps, :rows]
        got = exported.call(case.params, carry, xs, mask)
        assert_close(got, case.run(carry=carry, xs=xs, mask=mask, reverse=True), 1e-5)


def in_nnx(cell, case):
    """The cell of `lnjax.nnx` with the attributes of `cell` and the variables of `case`."""
    attributes = {
        field: getattr(cell, field)
        for field in ("norm", "sites", "max_steps", "use_running_average")
        if hasattr(cell, field)
    }
    fresh = getattr(lnjax.nnx, type(cell).__name__)(D, H, **attributes, rngs=nnx.Rngs(0))
    # The trees differ in their containers only: the same names, the same shapes.
    values = {name: value for kind in case.variables.values() for name, value in kind.items()}
    state = nnx.to_pure_dict(nnx.state(fresh))
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, values)
    nnx.update(fresh, values)
    return fresh


@every_cell
def test_the_nnx_cell_is_the_linen_cell(cell):
    case = Case(cell, np.float32)
    module = in_nnx(cell, case)
    expected = compiled_apply(cell)(case.variables, case.carry, case.xs[0])
    assert_equal(nnx.jit(lambda m, carry, x: m(carry, x))(module, case.carry, case.xs[0]), expected)
    assert_equal(module.parameters(), case.params)
    start = module.initialize_carry((B, D))
    assert_equal(start, cell.initialize_carry(jax.random.key(0), (B, D)))


@every_cell
@pytest.mark.some(5)
def test_the_nnx_layer_is_the_linen_layer_also_in_gradients(cell):
    case = Case(cell, np.float32)
    variables = {kind: {"cell": values} for kind, values in case.variables.items()}
    linen = lnjax.RNN(cell, time_major=True, reverse=True)
    module = lnjax.nnx.RNN(in_nnx(cell, case), time_major=True, reverse=True)
    weights = case.cotangents[1]

    def linen_loss(variables):
        ys = linen.apply(variables, case.xs, initial_carry=case.carry, mask=GAPS)
        return jnp.vdot(ys, weights), ys

    def nnx_loss(module):
        ys = module(case.xs, initial_carry=case.carry, mask=GAPS)
        return jnp.vdot(ys, weights), ys

    (_, ys), gradient = jax.jit(jax.value_and_grad(linen_loss, has_aux=True))(variables)
    (_, got), got_gradient = nnx.jit(nnx.value_and_grad(nnx_loss, has_aux=True))(module)
    assert_equal(got, ys)
    assert_close(nnx.to_pure_dict(got_gradient), dict(gradient["params"]), 1e-6)


@every_cell
def test_works_under_the_rnn_of_flax_nnx(cell):
    case = Case(cell, np.float32)
    theirs = nnx.RNN(in_nnx(cell, case), time_major=True, return_carry=True)
    got = nnx.jit(lambda m, xs, carry: m(xs, initial_carry=carry))(theirs, case.xs, case.carry)
    assert_close(got, case.run(), 1e-5)


@every_cell
@pytest.mark.some(5)
def test_the_cell_and_the_pure_function_start_alike_in_half_precision(cell):
    half = cell.clone(param_dtype=jnp.bfloat16)
    params = half.init(jax.random.key(0), D, method="parameters")
    params = half.apply(params, D, method="parameters")
    xs = jnp.asarray(Case(cell, np.float32).xs, jnp.bfloat16)
    start = half.initialize_carry(jax.random.key(0), (B, D))
    carry, ys = jax.jit(pure_function(cell))(params, xs)
    assert_equal((carry, ys), jax.jit(cell.run)(params, start, xs))
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
    assert ys.dtype == jnp.bfloat16


@every_cell
def test_a_carry_of_another_kind_is_refused_by_name(cell):
    case = Case(cell, np.float32)
    single = not isinstance(case.carry, tuple)
    wrong = {
        "integers": jax.tree.map(lambda leaf: np.zeros(leaf.shape, int), case.carry),
        "one row": jax.tree.map(lambda leaf: leaf[:1], case.carry),
        "a list": [case.carry] if single else list(case.carry),
    }
    for kind, carry in wrong.items():
        with pytest.raises((ValueError, TypeError), match=r"carry|list"):
            cell.run(case.params, carry, case.xs)
        with pytest.raises((ValueError, TypeError), match=r"carry|list"):
            cell.step(case.params, carry, case.xs[0])
        assert kind


@every_cell
def test_inputs_masks_and_parameters_that_do_not_fit_are_refused(cell):
    case = Case(cell, np.float32)

    def refused(error, message, **changes):
        arguments = {"params": case.params, "xs": case.xs, "mask": None} | changes
        with pytest.raises(error, match=message):
            pure_function(cell)(arguments["params"], arguments["xs"], mask=arguments["mask"])

    refused(ValueError, "must have the width 2", xs=case.xs[:, :, :1])
    refused(ValueError, "mask must be bool", mask=jnp.ones((T, B)))
    refused(ValueError, "mask must be bool", mask=jnp.ones((B, T), bool))
    refused(TypeError, "real numbers", xs=case.xs + 1j)
    if hasattr(cell, "norm"):
        refused(TypeError, r"\(\*\*params\)", params=case.params._asdict())


@every_cell
def test_integer_inputs_are_those_numbers(cell):
    case = Case(cell, np.float32)
    integers = np.arange(T * B * D).reshape(T, B, D) % 5
    assert_equal(case.run(xs=integers), case.run(xs=integers.astype(np.float32)))


def test_a_list_of_sites_makes_the_cell_no_less_hashable():
    assert hash(LSTMCell(H, sites=["cell"])) == hash(LSTMCell(H, sites=("cell",)))

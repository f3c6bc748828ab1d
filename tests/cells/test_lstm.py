import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax.cells import LSTMCell, LSTMParams
from lnjax.cells.lstm import project_inputs, step
from tests import oracles
from tests.jaxprs import equations
from tests.trees import assert_close

T, B, D, H = 4, 3, 2, 3
NORMS = ["layer", None]
GAPS = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool).T  # full, with gaps, empty

run_lstm = jax.jit(
    lnjax.lstm,
    static_argnames=("norm", "epsilon", "dtype", "reverse", "unroll", "implementation"),
)


def random_params(rng, norm="layer", dtype=np.float32, in_features=D, features=H):
    """A dict of parameters none of which has a value (0 or 1) that could hide its absence."""
    shapes = {
        "kernel": (in_features, 4 * features),
        "recurrent_kernel": (features, 4 * features),
        "bias": (4 * features,),
    }
    if norm == "layer":
        shapes |= dict(scale_x=(4 * features,), scale_h=(4 * features,))
        shapes |= dict(scale_c=(features,), bias_c=(features,))
    return {name: rng.normal(0.2, 0.7, shape).astype(dtype) for name, shape in shapes.items()}


def random_case(rng, norm="layer", dtype=np.float32):
    params = random_params(rng, norm, dtype)
    xs = rng.normal(size=(T, B, D)).astype(dtype)
    carry = tuple(rng.normal(size=(2, B, H)).astype(dtype))
    return params, xs, carry


@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_oracle(rng, norm):
    params, xs, carry = random_case(rng, norm)
    got = run_lstm(LSTMParams(**params), xs, carry, mask=GAPS, norm=norm)
    assert_close(got, oracles.lstm(params, xs, carry, GAPS, norm), 1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", [None, GAPS], ids=["no mask", "gaps"])
@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_oracle_in_float64(rng, x64, norm, mask, reverse):
    params, xs, carry = random_case(rng, norm, np.float64)
    got = run_lstm(LSTMParams(**params), xs, carry, mask=mask, norm=norm, reverse=reverse)
    expected = oracles.lstm(params, xs, carry, mask, norm, reverse=reverse)
    assert_close(got, expected, 1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_the_carry_starts_at_zero(rng, x64, norm):
    # With h = 0 the recurrent layer norm sees a row of variance 0 at the first step.
    params, xs, _ = random_case(rng, norm, np.float64)
    got = run_lstm(LSTMParams(**params), xs, norm=norm)
    assert_close(got, oracles.lstm(params, xs, np.zeros((2, B, H)), norm=norm), 1e-10)


def test_epsilon_reaches_all_three_layer_norms(rng, x64):
    params, xs, carry = random_case(rng, dtype=np.float64)
    got = run_lstm(LSTMParams(**params), xs, carry, epsilon=0.3)
    assert_close(got, oracles.lstm(params, xs, carry, epsilon=0.3), 1e-10)
    cell = LSTMCell(H, epsilon=0.3)
    assert_close(jax.jit(cell.run)(LSTMParams(**params), carry, xs), got, 1e-10)
    once = oracles.lstm(params, xs[:1], carry, epsilon=0.3)
    got = jax.jit(cell.step)(LSTMParams(**params), carry, xs[0])
    assert_close(got, (once[0], once[1][0]), 1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_the_cell_takes_the_steps_of_the_oracle(rng, norm):
    params, xs, carry = random_case(rng, norm)
    cell = LSTMCell(H, norm=norm)
    (c, h), ys = oracles.lstm(params, xs[:1], carry, norm=norm)
    expected = (c, h), ys[0]
    assert_close(jax.jit(cell.apply)({"params": params}, carry, xs[0]), expected, 1e-5)
    projected = jax.jit(partial(project_inputs, norm=norm))(LSTMParams(**params), xs)
    assert projected.shape == (T, B, 4 * H)
    got = jax.jit(partial(step, norm=norm))(LSTMParams(**params), carry, projected[0])
    assert_close(got, expected, 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_of_inputs_is_the_input_side_of_the_oracle(rng, x64, norm):
    params, xs, _ = random_case(rng, norm, np.float64)
    summed = np.einsum("tbd,dh->tbh", xs, params["kernel"])
    if norm == "layer":
        summed = oracles.layer_norm(summed, params["scale_x"])
    projected = jax.jit(partial(project_inputs, norm=norm))(LSTMParams(**params), xs)
    np.testing.assert_allclose(projected, summed + params["bias"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "norm, mask, reverse, start",
    [
        ("layer", None, False, "random"),
        ("layer", GAPS, True, "random"),
        ("layer", GAPS, False, "zero"),
        (None, GAPS, False, "random"),
    ],
)
def test_gradients_equal_differences_of_the_oracle(rng, x64, norm, mask, reverse, start):
    params, xs, carry = random_case(rng, norm, np.float64)
    # Three steps of two rows, for speed: one full row and one with a gap.
    xs, mask = xs[:3, :2], None if mask is None else mask[:3, :2]
    carry = tuple(leaf[:2] * (start != "zero") for leaf in carry)
    arguments = params | {"xs": xs, "c": carry[0], "h": carry[1]}
    to_ys, to_c, to_h = rng.normal(size=(*xs.shape[:2], H)), *rng.normal(size=(2, 2, H))

    def pairing(xs, c, h, **params):
        (c, h), ys = oracles.lstm(params, xs, (c, h), mask, norm, reverse=reverse)
        return (to_ys * ys).sum() + (to_c * c).sum() + (to_h * h).sum()

    def lnjax_lstm(xs, c, h, **params):
        return run_lstm(LSTMParams(**params), xs, (c, h), mask=mask, norm=norm, reverse=reverse)

    expected = oracles.numerical_gradients(pairing, arguments)
    _, vjp = jax.vjp(lambda arguments: lnjax_lstm(**arguments), arguments)
    (got,) = vjp(((jnp.asarray(to_c), jnp.asarray(to_h)), jnp.asarray(to_ys)))
    tolerance = 1e-6 if start == "zero" else 1e-8
    for name in arguments:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            got[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name
        )


def test_the_carried_c_is_raw(rng):
    # With the forget gate open and the input gate shut, c stays what it is, over any time.
    params = {name: np.zeros_like(leaf) for name, leaf in random_params(rng).items()}
    params["bias"] = np.repeat(np.float32([-100, 100, 0, 0]), H)
    c = rng.normal(5, 3, (B, H)).astype(np.float32)
    (final, _), _ = run_lstm(LSTMParams(**params), np.ones((T, B, D), np.float32), (c, c))
    np.testing.assert_array_equal(final, c)


def test_only_the_output_sees_c_normalized(rng):
    # All gates shut but the output's, which is open: h = tanh(LN(c) * scale + bias).
    params = {name: np.zeros_like(leaf) for name, leaf in random_params(rng).items()}
    params["bias"] = np.repeat(np.float32([-100, 100, 0, 100]), H)
    params["scale_c"], params["bias_c"] = rng.normal(size=(2, H)).astype(np.float32)
    c = rng.normal(5, 3, (B, H)).astype(np.float32)
    _, ys = run_lstm(LSTMParams(**params), np.ones((1, B, D), np.float32), (c, c))
    expected = np.tanh(oracles.layer_norm(c, params["scale_c"], params["bias_c"]))
    np.testing.assert_allclose(ys[0], expected, rtol=1e-5, atol=1e-6)


def test_statistics_run_over_all_four_gates_jointly(rng):
    params = random_params(rng) | {"bias": np.zeros(4 * H, np.float32)}
    params["scale_x"] = np.ones(4 * H, np.float32)
    xs = rng.normal(size=(T, B, D)).astype(np.float32)
    project = jax.jit(project_inputs)
    gates = np.reshape(project(LSTMParams(**params), xs), (T, B, 4, H))
    np.testing.assert_allclose(gates.mean((2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(gates.var((2, 3)), 1, rtol=1e-2)
    # Gate by gate these would be 0 and 1, too.
    assert np.abs(gates.mean(3)).max() > 0.5
    assert np.abs(gates.var(3) - 1).max() > 0.5
    # A larger kernel of the input gate alone makes the other gates' shares smaller.
    params["kernel"] = params["kernel"] * np.repeat(np.float32([10, 1, 1, 1]), H)
    others = np.reshape(project(LSTMParams(**params), xs), (T, B, 4, H))[:, :, 1:]
    assert np.ptp(others) < 0.7 * np.ptp(gates[:, :, 1:])


def test_the_two_projections_are_normalized_apart(rng, x64):
    # Either kernel may be scaled by itself. Were their sum normalized, the other would fade.
    params, xs, carry = random_case(rng, dtype=np.float64)
    once = run_lstm(LSTMParams(**params), xs, carry, epsilon=1e-12)
    for name in ("kernel", "recurrent_kernel"):
        scaled = params | {name: 100 * params[name]}
        assert_close(run_lstm(LSTMParams(**scaled), xs, carry, epsilon=1e-12), once, 1e-6)


def test_without_a_norm_it_is_the_lstm_of_flax(rng):
    xs = rng.normal(size=(B, T, D)).astype(np.float32)
    rnn = nn.RNN(nn.LSTMCell(H), return_carry=True)
    shapes = jax.eval_shape(rnn.init, jax.random.key(0), xs)
    variables = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
    (c, h), ys = jax.jit(rnn.apply)(variables, xs)
    gates = variables["params"]["cell"]
    params = LSTMParams(
        kernel=np.concatenate([gates[f"i{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        recurrent_kernel=np.concatenate([gates[f"h{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        bias=np.concatenate([gates[f"h{gate}"]["bias"] for gate in "ifgo"]),
    )
    got = run_lstm(params, np.swapaxes(xs, 0, 1), norm=None)
    assert_close(got, ((c, h), np.swapaxes(ys, 0, 1)), 1e-5)


def test_parameters_of_another_norm_are_refused(rng):
    params, xs, carry = random_case(rng)
    plain = {name: params[name] for name in ("kernel", "recurrent_kernel", "bias")}
    with pytest.raises(ValueError, match=r"norm=None, .* but the parameters have a scale_x"):
        lnjax.lstm(LSTMParams(**params), xs, carry, norm=None)
    with pytest.raises(ValueError, match=r"norm='layer', .* but the parameters have no scale_x"):
        lnjax.lstm(LSTMParams(**plain), xs, carry)
    with pytest.raises(ValueError, match="norm=None is not known"):
        project_inputs(LSTMParams(**params), xs, norm=None)
    with pytest.raises(ValueError, match="norm=None is not known"):
        step(LSTMParams(**params), carry, jnp.ones((B, 4 * H)), norm=None)


def test_each_gate_has_its_own_orthogonal_recurrent_block():
    cell = LSTMCell(5)
    params = cell.init(jax.random.key(1), 2, method="parameters")["params"]
    blocks = np.split(np.asarray(params["recurrent_kernel"]), 4, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-5)
    for one in range(4):
        for other in range(one):
            assert np.abs(blocks[one] - blocks[other]).max() > 0.1


def test_initializers_see_one_gate_at_a_time_each_with_its_own_key():
    seen = {"kernel": [], "recurrent_kernel": []}

    def recording(name):
        def init(key, shape, dtype):
            seen[name].append((tuple(jax.random.key_data(key).tolist()), shape, dtype))
            return jnp.full(shape, len(seen[name]), dtype)

        return init

    cell = LSTMCell(
        H, kernel_init=recording("kernel"), recurrent_kernel_init=recording("recurrent_kernel")
    )
    params = cell.init(jax.random.key(1), D, method="parameters")["params"]
    assert [shape for _, shape, _ in seen["kernel"]] == [(D, H)] * 4
    assert [shape for _, shape, _ in seen["recurrent_kernel"]] == [(H, H)] * 4
    keys = {key for calls in seen.values() for key, _, _ in calls}
    assert len(keys) == 8
    blocks = np.repeat([1, 2, 3, 4], H)
    np.testing.assert_array_equal(params["kernel"], np.tile(blocks, (D, 1)))
    np.testing.assert_array_equal(params["recurrent_kernel"], np.tile(blocks, (H, 1)))


def test_gains_start_at_one_and_biases_at_zero_unless_told_otherwise():
    constant = nn.initializers.constant

    def init(cell):
        cell = cell.clone(kernel_init=constant(1), recurrent_kernel_init=constant(1))
        return cell.init(jax.random.key(1), D, method="parameters")["params"]

    default = init(LSTMCell(H))
    told = init(LSTMCell(H, scale_init=constant(0.1), bias_init=constant(0.5)))
    for name in ("scale_x", "scale_h", "scale_c"):
        np.testing.assert_array_equal(default[name], 1)
        np.testing.assert_array_equal(told[name], np.float32(0.1))
    np.testing.assert_array_equal(default["bias"], 0)
    np.testing.assert_array_equal(told["bias"], 0.5)
    for params in (default, told):
        np.testing.assert_array_equal(params["bias_c"], 0)


def test_the_carry_initializer_draws_c_and_h_apart():
    cell = LSTMCell(H, carry_init=nn.initializers.normal(1.0), param_dtype=jnp.float16)
    c, h = cell.initialize_carry(jax.random.key(0), (B, D))
    assert c.shape == h.shape == (B, H)
    assert c.dtype == h.dtype == jnp.float16
    assert not np.array_equal(c, h)
    for leaf in LSTMCell(H).initialize_carry(jax.random.key(0), (2, B, D)):
        np.testing.assert_array_equal(leaf, np.zeros((2, B, H)))


GOLDEN = {  # D = 3, H = 4
    "kernel": ((3, 16), "float32"),
    "recurrent_kernel": ((4, 16), "float32"),
    "bias": ((16,), "float32"),
    "scale_x": ((16,), "float32"),
    "scale_h": ((16,), "float32"),
    "scale_c": ((4,), "float32"),
    "bias_c": ((4,), "float32"),
}


def shapes_of_parameters(cell, in_features):
    def init():
        carry = cell.initialize_carry(jax.random.key(0), (1, in_features))
        return cell.init(jax.random.key(0), carry, jnp.ones((1, in_features)))

    return jax.eval_shape(init)


@pytest.mark.parametrize("norm", NORMS)
def test_the_golden_parameter_tree(norm):
    # Checkpoints name these leaves. A change here needs a conversion of old ones.
    variables = shapes_of_parameters(LSTMCell(4, norm=norm), 3)
    names = list(GOLDEN) if norm == "layer" else ["kernel", "recurrent_kernel", "bias"]
    got = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in variables["params"].items()}
    assert got == {name: GOLDEN[name] for name in names}
    assert list(variables) == ["params"]
    assert LSTMParams._fields == tuple(GOLDEN)


@pytest.mark.parametrize(
    "features, in_features, norm, count",
    [
        (240, 240, None, 461_760),  # the attentive reader's LSTM
        (240, 240, "layer", 461_760 + 2 * 960 + 2 * 240),
        (400, 3, "layer", 4 * 400 * (400 + 3 + 1) + 2 * 1600 + 2 * 400),
    ],
)
def test_the_number_of_parameters(features, in_features, norm, count):
    variables = shapes_of_parameters(LSTMCell(features, norm=norm), in_features)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == count


def to_bfloat16(a):
    return np.asarray(np.asarray(a, np.float32).astype(jnp.bfloat16), np.float64)


@pytest.mark.parametrize("norm", NORMS)
def test_in_bfloat16_only_products_and_outputs_are_rounded(rng, norm):
    params, xs, carry = random_case(rng, norm)
    (c, h), ys = run_lstm(LSTMParams(**params), xs, carry, norm=norm, dtype=jnp.bfloat16)
    assert (c.dtype, h.dtype, ys.dtype) == (jnp.float32, jnp.float32, jnp.bfloat16)
    expected, expected_ys = oracles.lstm(params, xs, carry, norm=norm, rounded=to_bfloat16)
    assert_close((c, h), expected, 1e-5)
    np.testing.assert_allclose(np.asarray(ys, np.float64), expected_ys, rtol=2**-8, atol=1e-5)


def test_products_have_operands_in_dtype_and_sums_in_float32(rng):
    params, xs, carry = random_case(rng)
    closed = jax.make_jaxpr(
        lambda params, xs, carry: lnjax.lstm(params, xs, carry, dtype=jnp.bfloat16)
    )(LSTMParams(**params), xs, carry)
    products = [e for e in equations(closed.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) == 2
    for equation in products:
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(jnp.bfloat16)}
        assert {v.aval.dtype for v in equation.outvars} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "inputs, dtype, output",
    [
        ("float32", None, "float32"),
        ("bfloat16", None, "bfloat16"),
        ("float16", None, "float16"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_dtypes(rng, inputs, dtype, output):
    cell = LSTMCell(H, dtype=dtype)
    xs = jnp.ones((T, B, D), inputs)
    carry = cell.initialize_carry(jax.random.key(0), xs.shape[1:])
    params = LSTMParams(**random_params(rng))
    for carry_in in (carry, None):
        carry_out, ys = jax.eval_shape(lambda c: lnjax.lstm(params, xs, c, dtype=dtype), carry_in)
        assert ys.dtype == jnp.dtype(output)
        assert {leaf.dtype for leaf in carry_out} == {jnp.dtype("float32")}
    carry_out, y = jax.eval_shape(lambda: cell.step(params, carry, xs[0]))
    assert y.dtype == jnp.dtype(output)
    assert {leaf.dtype for leaf in carry_out} == {jnp.dtype("float32")}


@pytest.mark.parametrize("param_dtype", ["float16", "bfloat16"])
def test_param_dtype_is_that_of_every_parameter(param_dtype):
    cell = LSTMCell(4, param_dtype=param_dtype)
    carry = cell.initialize_carry(jax.random.key(0), (2, 3))
    variables = cell.init(jax.random.key(1), carry, jnp.zeros((2, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(param_dtype)}
    block = np.asarray(variables["params"]["recurrent_kernel"][:, :4], np.float32)
    np.testing.assert_allclose(block.T @ block, np.eye(4), atol=0.03)


def test_integer_inputs_are_numbers_as_in_flax(rng):
    params, _, carry = random_case(rng)
    xs = rng.integers(0, 3, (T, B, D))
    got = run_lstm(LSTMParams(**params), xs.astype(np.int32), carry)
    assert_close(got, run_lstm(LSTMParams(**params), xs.astype(np.float32), carry), 1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda params, xs, carry: lnjax.lstm(params, xs, carry, norm="batch"),
        lambda params, xs, carry: LSTMCell(H, norm="batch").run(params, carry, xs),
        lambda params, xs, carry: LSTMCell(H, norm="batch").step(params, carry, xs[0]),
        lambda params, xs, carry: LSTMCell(H, norm="batch").init(jax.random.key(0), carry, xs[0]),
        lambda params, xs, carry: project_inputs(params, xs, norm="batch"),
        lambda params, xs, carry: step(params, carry, jnp.ones((B, 4 * H)), norm="batch"),
    ],
    ids=["lstm", "run", "cell.step", "init", "project_inputs", "step"],
)
def test_an_unknown_norm_is_refused_with_the_choices(rng, call):
    params, xs, carry = random_case(rng)
    with pytest.raises(ValueError, match=r"norm='batch'.*'layer', 'rms'"):
        call(LSTMParams(**params), xs, carry)


@pytest.mark.parametrize(("implementation", "recomputes"), [("scan", False), ("auto", True)])
def test_each_implementation_is_the_one_that_is_taken(rng, implementation, recomputes):
    params, xs, carry = random_case(rng, "layer")
    run = functools.partial(lnjax.lstm, implementation=implementation)
    traced = jax.make_jaxpr(run)(LSTMParams(**params), xs, carry)
    names = {equation.primitive.name for equation in equations(traced.jaxpr)}
    assert "scan" in names
    assert bool(names & {"checkpoint", "remat", "remat2"}) == recomputes


def test_an_unknown_implementation_is_refused_with_the_choices(rng):
    params, xs, carry = random_case(rng)
    with pytest.raises(ValueError, match=r"implementation='cuda'.*'auto', 'scan'"):
        lnjax.lstm(LSTMParams(**params), xs, carry, implementation="cuda")

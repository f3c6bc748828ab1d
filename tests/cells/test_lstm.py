import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax.cells import LSTMCell, LSTMParams
from lnjax.cells.lstm import SITES, project_inputs, step
from tests import oracles
from tests.jaxprs import equations
from tests.trees import assert_close

T, B, D, H = 4, 3, 2, 3
NORMS = ["layer", None]
GAINS_OF_GATES = ("scale_x", "scale_h")

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


def test_with_the_site_cell_alone_it_is_the_lstm_of_draw(rng, x64):
    params, xs, (c, h) = random_case(rng, dtype=np.float64)
    params = {name: params[name] for name in LSTMParams._fields if name not in GAINS_OF_GATES}
    got = jax.jit(LSTMCell(H, sites=("cell",)).run)(LSTMParams(**params), (c, h), xs)
    ys = []
    for x in xs:
        gates = h @ params["recurrent_kernel"] + x @ params["kernel"] + params["bias"]  # Eq. 29
        i, f, g, o = np.split(gates, 4, axis=-1)
        c = oracles.sigmoid(f) * c + oracles.sigmoid(i) * np.tanh(g)  # Eq. 30
        mu, sigma_squared = c.mean(-1, keepdims=True), c.var(-1, keepdims=True)
        normalized = (c - mu) / np.sqrt(sigma_squared + 1e-5) * params["scale_c"]
        h = oracles.sigmoid(o) * np.tanh(normalized + params["bias_c"])  # Eq. 31
        ys.append(h)
    assert_close(got, ((c, h), np.stack(ys)), 1e-10)


def test_a_carried_cell_is_another_function(rng):
    params, xs, carry = random_case(rng)
    (c, _), ys = run_lstm(LSTMParams(**params), xs[:1], carry)
    sites = ("recurrent", "input", "carried_cell")
    run = jax.jit(LSTMCell(H, sites=sites).run)
    (carried_c, _), same_ys = run(LSTMParams(**params), carry, xs[:1])
    # One step shows the same output. The next starts from what the output saw of c.
    assert_close(same_ys, ys, 1e-6)
    expected = oracles.layer_norm(c, params["scale_c"], params["bias_c"])
    np.testing.assert_allclose(carried_c, expected, rtol=1e-4, atol=1e-5)
    _, other_ys = run(LSTMParams(**params), carry, xs)
    assert np.abs(other_ys[1:] - run_lstm(LSTMParams(**params), xs, carry)[1][1:]).max() > 1e-2


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


@pytest.mark.parametrize("call", ["lstm", "run", "step", "init"])
@pytest.mark.parametrize(
    "sites, message",
    [
        (("recurrent", "output"), r"site='output' .* 'recurrent', 'input', 'cell', 'carried_cell'"),
        ("cell", r"sites='cell' must be a tuple of names"),
        ((), r"sites=\(\) must be a tuple of names"),
        (("cell", "carried_cell"), "normalized once, so name one of the two"),
    ],
    ids=["unknown", "string", "none", "both cells"],
)
def test_sites_that_mean_nothing_are_refused(rng, sites, message, call):
    params, xs, carry = random_case(rng)
    cell = LSTMCell(H, sites=sites)
    calls = {
        "lstm": lambda: lnjax.lstm(LSTMParams(**params), xs, carry, sites=sites),
        "run": lambda: cell.run(LSTMParams(**params), carry, xs),
        "step": lambda: cell.step(LSTMParams(**params), carry, xs[0]),
        "init": lambda: cell.init(jax.random.key(0), carry, xs[0]),
    }
    with pytest.raises(ValueError, match=message):
        calls[call]()


@pytest.mark.parametrize(
    "sites, without, message",
    [
        (("cell",), ("scale_h",), "the parameters have a scale_x"),
        (("cell",), ("scale_x",), "the parameters have a scale_h"),
        (("recurrent", "input"), (), "the parameters have a scale_c"),
        (("recurrent", "cell"), ("scale_x", "scale_h"), "the parameters have no scale_h"),
        (("input", "carried_cell"), ("scale_x", "scale_h"), "the parameters have no scale_x"),
        (("input", "cell"), ("scale_h", "bias_c"), "the parameters have no bias_c"),
    ],
)
def test_parameters_of_other_sites_are_refused(rng, sites, without, message):
    params, xs, carry = random_case(rng)
    params = {name: leaf for name, leaf in params.items() if name not in without}
    with pytest.raises(ValueError, match=message):
        lnjax.lstm(LSTMParams(**params), xs, carry, sites=sites)


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
    assert c.dtype == h.dtype == jnp.float32  # sums over time do not fit into half precision
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


@pytest.mark.parametrize(
    "norm, sites, absent",
    [
        ("layer", ("recurrent", "input", "cell"), ()),
        ("rms", ("input", "recurrent", "carried_cell"), ()),
        ("layer", ("recurrent", "input"), ("scale_c", "bias_c")),
        ("layer", ("recurrent",), ("scale_x", "scale_c", "bias_c")),
        ("layer", ("input", "carried_cell"), ("scale_h",)),
        ("layer", ("cell",), ("scale_x", "scale_h")),
        (None, ("recurrent", "input", "cell"), ("scale_x", "scale_h", "scale_c", "bias_c")),
    ],
)
def test_the_golden_parameter_tree(norm, sites, absent):
    # Checkpoints name these leaves. A change here needs a conversion of old ones.
    variables = shapes_of_parameters(LSTMCell(4, norm=norm, sites=sites), 3)
    got = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in variables["params"].items()}
    assert got == {name: leaf for name, leaf in GOLDEN.items() if name not in absent}
    assert list(variables) == ["params"]
    assert LSTMParams._fields == tuple(GOLDEN)


@pytest.mark.parametrize(
    "features, in_features, norm, sites, count",
    [
        (240, 240, None, SITES, 461_760),  # the attentive reader's LSTM
        (240, 240, "layer", SITES, 461_760 + 2 * 960 + 2 * 240),
        # The first layer of the handwriting model, over 3 of a stroke and a window of 57. The paper
        # counts 7,200 for its norms: a gain and a bias for each of 4H, 4H and H. The two biases of
        # 4H are added to the b that is there already, so that here they are none of their own.
        (400, 60, None, SITES, 737_600),
        (400, 60, "layer", SITES, 737_600 + 7_200 - 2 * 1_600),
        # Either LSTM of DRAW: half of the 1,024 that the paper's variant adds, all of it here too.
        (256, 100, None, ("cell",), 4 * 256 * (256 + 100 + 1)),
        (256, 100, "layer", ("cell",), 4 * 256 * (256 + 100 + 1) + 1_024 // 2),
    ],
)
def test_the_number_of_parameters(features, in_features, norm, sites, count):
    cell = LSTMCell(features, norm=norm, sites=sites)
    leaves = jax.tree.leaves(shapes_of_parameters(cell, in_features))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


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


def test_an_unknown_implementation_is_refused_with_the_choices(rng):
    params, xs, carry = random_case(rng)
    with pytest.raises(ValueError, match=r"implementation='cuda'.*'auto', 'scan', 'chunked'"):
        lnjax.lstm(LSTMParams(**params), xs, carry, implementation="cuda")

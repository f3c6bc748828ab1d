import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax.cells import GRUCell, GRUParams
from lnjax.cells.gru import project_inputs, step
from tests.cells.cases import B, Case, D, H, T
from tests.trees import assert_close

GOLDEN = {  # D = 3, H = 4
    "kernel": ((3, 12), "float32"),
    "recurrent_kernel": ((4, 12), "float32"),
    "bias": ((12,), "float32"),
    "bias_h": ((4,), "float32"),
    "scale_x": ((12,), "float32"),
    "scale_h": ((12,), "float32"),
}


def parameters(cell, in_features, shapes_only=True):
    def init():
        return cell.init(jax.random.key(0), in_features, method="parameters")

    return (jax.eval_shape(init) if shapes_only else init())["params"]


def test_without_a_norm_it_is_the_gru_of_flax_with_the_update_gate_turned(rng):
    xs = rng.normal(size=(B, T, D)).astype(np.float32)
    rnn = nn.RNN(nn.GRUCell(H), return_carry=True)
    shapes = jax.eval_shape(rnn.init, jax.random.key(0), xs)
    variables = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
    h, ys = jax.jit(rnn.apply)(variables, xs)
    gates = variables["params"]["cell"]
    # Flax keeps the old h where its z is 1.
    turned = np.repeat(np.float32([1, -1, 1]), H)
    params = GRUParams(
        *(
            turned * np.concatenate([gates[f"{side}{gate}"][leaf] for gate in "rzn"], axis=-1)
            for side, leaf in (("i", "kernel"), ("h", "kernel"), ("i", "bias"))
        ),
        bias_h=gates["hn"]["bias"],
    )
    got = jax.jit(GRUCell(H, norm=None).run)(params, np.zeros((B, H)), np.swapaxes(xs, 0, 1))
    assert_close(got, (h, np.swapaxes(ys, 0, 1)), 1e-5)


@pytest.mark.parametrize("update", [0, 1])
def test_the_candidate_is_taken_where_the_update_gate_is_one(update):
    case = Case(GRUCell(H), np.float32)
    bias = np.repeat(np.float32([0, 200 * update - 100, 30]), H)  # z is shut or open, n is 1
    _, ys = case.run(params=case.params._replace(bias=bias))
    np.testing.assert_allclose(ys, np.broadcast_to(update or case.carry, ys.shape), atol=1e-6)


def test_a_shut_reset_gate_hides_the_recurrent_candidate_and_its_bias():
    # It multiplies after the product and its norm, so what it shuts out is gone altogether.
    case = Case(GRUCell(H), np.float32)
    shut = case.params.bias - np.repeat(np.float32([100, 0, 0]), H)
    params = case.params._replace(bias=shut)
    others = params._replace(
        bias_h=params.bias_h + 1,
        recurrent_kernel=params.recurrent_kernel + np.eye(H, 3 * H, 2 * H, dtype=np.float32),
        scale_h=params.scale_h + np.repeat(np.float32([0, 0, 1]), H),
    )
    assert_close(case.run(params=others), case.run(params=params), 1e-6)
    # Through an open one the bias is seen.
    _, ys = case.run(params=case.params._replace(bias_h=others.bias_h))
    assert np.abs(ys - case.run()[1]).max() > 0.01


def test_gates_are_normalized_jointly_and_the_candidate_apart():
    case = Case(GRUCell(H), np.float32)
    params = case.params._replace(bias=np.zeros(3 * H), scale_x=np.ones(3 * H, np.float32))
    project = jax.jit(project_inputs)
    r, z, n = np.split(np.asarray(project(params, case.xs)), 3, axis=-1)
    for norm_of in (np.concatenate([r, z], axis=-1), n):
        np.testing.assert_allclose(norm_of.mean(-1), 0, atol=1e-5)
        np.testing.assert_allclose(norm_of.var(-1), 1, rtol=1e-2)
    # Gate by gate these would be 0, too; and a larger kernel of r would leave z alone.
    assert np.abs(z.mean(-1)).max() > 0.2
    larger = params.kernel * np.repeat(np.float32([10, 1, 1]), H)
    _, smaller_z, same_n = np.split(
        np.asarray(project(params._replace(kernel=larger), case.xs)), 3, axis=-1
    )
    assert np.ptp(smaller_z) < 0.7 * np.ptp(z)
    np.testing.assert_allclose(same_n, n, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_the_golden_parameter_tree(norm):
    # Checkpoints name these leaves. A change here needs a conversion of old ones.
    params = parameters(GRUCell(4, norm=norm), 3)
    got = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in params.items()}
    assert got == {name: leaf for name, leaf in GOLDEN.items() if norm or "scale" not in name}
    assert GRUParams._fields == tuple(GOLDEN)


@pytest.mark.parametrize(
    "features, in_features, plain, of_the_paper",
    [
        (1024, 300, 4_070_400, 12_288),  # the order embeddings
        (2400, 620, 21_751_200, 86_400 // 3),  # each of the three GRUs of skip-thoughts
    ],
)
def test_the_number_of_parameters(features, in_features, plain, of_the_paper):
    def count(norm):
        leaves = jax.tree.leaves(parameters(GRUCell(features, norm=norm), in_features))
        return sum(math.prod(leaf.shape) for leaf in leaves)

    # Three gates, each with a matrix for either side and one bias; and, ours alone, the bias that
    # the reset gate scales.
    assert plain == 3 * features * (in_features + features + 1)
    assert count(None) == plain + features
    # The paper's norms have gains and biases of 2H, 2H, H and H. Of the 6H biases all but the
    # recurrent candidate's are added to the sum that has a bias already, and that one is `bias_h`.
    assert of_the_paper == 2 * 6 * features
    assert count("layer") == count("rms") == count(None) + 6 * features


def test_gains_start_at_one_and_biases_at_zero_unless_told_otherwise():
    constant = nn.initializers.constant
    cell = GRUCell(H, recurrent_kernel_init=constant(1))
    told = cell.clone(scale_init=constant(0.1), bias_init=constant(0.5))
    for params, gain, bias in (
        (parameters(cell, D, False), 1, 0),
        (parameters(told, D, False), 0.1, 0.5),
    ):
        for name in ("scale_x", "scale_h"):
            np.testing.assert_array_equal(params[name], np.float32(gain))
        np.testing.assert_array_equal(params["bias"], bias)
        np.testing.assert_array_equal(params["bias_h"], 0)


def test_parameters_of_another_norm_are_refused():
    case = Case(GRUCell(H), np.float32)
    plain = case.params._replace(scale_x=None, scale_h=None)
    with pytest.raises(ValueError, match="norm=None, but the parameters have a scale_x"):
        lnjax.gru(case.params, case.xs, norm=None)
    with pytest.raises(ValueError, match="norm='layer', but the parameters have no scale_x"):
        lnjax.gru(plain, case.xs)
    with pytest.raises(ValueError, match="norm='rms', but the parameters have no scale_h"):
        GRUCell(H, norm="rms").step(case.params._replace(scale_h=None), case.carry, case.xs[0])
    with pytest.raises(ValueError, match="norm=None is not known"):
        project_inputs(case.params, case.xs, norm=None)
    with pytest.raises(ValueError, match="norm=None is not known"):
        step(case.params, case.carry, jnp.ones((B, 3 * H)), norm=None)


@pytest.mark.parametrize("call", ["gru", "run", "step", "init"])
def test_an_unknown_norm_is_refused_with_the_choices(call):
    case, cell = Case(GRUCell(H), np.float32), GRUCell(H, norm="batch")
    calls = {
        "gru": lambda: lnjax.gru(case.params, case.xs, norm="batch"),
        "run": lambda: cell.run(case.params, case.carry, case.xs),
        "step": lambda: cell.step(case.params, case.carry, case.xs[0]),
        "init": lambda: cell.init(jax.random.key(0), case.carry, case.xs[0]),
    }
    with pytest.raises(ValueError, match=r"norm='batch'.*'layer', 'rms'"):
        calls[call]()

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax.cells import SimpleCell, SimpleParams
from tests import oracles
from tests.cells.cases import B, Case, D, H, T, as_dict, largest_error
from tests.trees import assert_close

APART = ("recurrent", "input")
GOLDEN = {  # D = 3, H = 4
    "kernel": ((3, 4), "float32"),
    "recurrent_kernel": ((4, 4), "float32"),
    "bias": ((4,), "float32"),
    "scale": ((4,), "float32"),
    "scale_x": ((4,), "float32"),
    "scale_h": ((4,), "float32"),
}


def parameters(cell, in_features, shapes_only=True):
    def init():
        return cell.init(jax.random.key(0), in_features, method="parameters")

    return (jax.eval_shape(init) if shapes_only else init())["params"]


def test_without_a_norm_it_is_the_simple_cell_of_flax(rng):
    xs = rng.normal(size=(B, T, D)).astype(np.float32)
    rnn = nn.RNN(nn.SimpleCell(H), return_carry=True)
    shapes = jax.eval_shape(rnn.init, jax.random.key(0), xs)
    variables = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
    h, ys = jax.jit(rnn.apply)(variables, xs)
    theirs = variables["params"]["cell"]
    params = SimpleParams(theirs["i"]["kernel"], theirs["h"]["kernel"], theirs["i"]["bias"])
    got = jax.jit(SimpleCell(H, norm=None).run)(params, np.zeros((B, H)), np.swapaxes(xs, 0, 1))
    assert_close(got, (h, np.swapaxes(ys, 0, 1)), 1e-5)


def test_the_norm_of_the_sum_and_the_norms_apart_are_two_functions(x64):
    # With all gains alike, so that nothing else tells them apart.
    of_sum, apart = Case(SimpleCell(H)), Case(SimpleCell(H, sites=APART))
    gain = np.full(H, 0.8)
    for case in (of_sum, apart):
        gains = {name: gain for name in as_dict(case.params) if name.startswith("scale")}
        case.params = case.params._replace(**gains)
    apart.params = apart.params._replace(
        **{name: getattr(of_sum.params, name) for name in ("kernel", "recurrent_kernel", "bias")}
    )
    apart.xs, apart.carry = of_sum.xs, of_sum.carry
    for case in (of_sum, apart):
        assert largest_error(case.run(), case.expected()) < 1e-10
    assert np.abs(apart.run()[1] - of_sum.run()[1]).max() > 0.1


@pytest.mark.parametrize("sites", [("sum",), APART], ids="+".join)
def test_the_activation_is_the_one_that_is_named(x64, sites):
    case = Case(SimpleCell(H, sites=sites, activation=jax.nn.relu))
    expected = oracles.simple_rnn(
        as_dict(case.params),
        case.xs,
        case.carry,
        sites=sites,
        activation=lambda a: np.maximum(a, 0),
    )
    assert largest_error(case.run(), expected) < 1e-10
    function = jax.jit(lnjax.simple_rnn, static_argnames=("sites", "activation"))
    got = function(case.params, case.xs, case.carry, sites=sites, activation=jax.nn.relu)
    assert largest_error(got, expected) < 1e-10


@pytest.mark.parametrize(
    "norm, sites, gains",
    [
        ("layer", ("sum",), ["scale"]),
        ("rms", APART, ["scale_x", "scale_h"]),
        ("layer", ("recurrent",), ["scale_h"]),
        ("layer", ("input",), ["scale_x"]),
        (None, ("sum",), []),
    ],
)
def test_the_golden_parameter_tree(norm, sites, gains):
    # Checkpoints name these leaves. A change here needs a conversion of old ones.
    params = parameters(SimpleCell(4, norm=norm, sites=sites), 3)
    got = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in params.items()}
    names = ["kernel", "recurrent_kernel", "bias", *gains]
    assert got == {name: GOLDEN[name] for name in names}
    assert SimpleParams._fields == tuple(GOLDEN)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == 4 * (3 + 4 + 1) + 4 * len(gains)


def test_gains_start_at_one_and_the_bias_at_zero_unless_told_otherwise():
    constant = nn.initializers.constant
    for sites in (("sum",), APART):
        cell = SimpleCell(H, sites=sites, recurrent_kernel_init=constant(1))
        told = cell.clone(scale_init=constant(0.1), bias_init=constant(0.5))
        for each, gain, bias in ((cell, 1, 0), (told, 0.1, 0.5)):
            params = parameters(each, D, shapes_only=False)
            np.testing.assert_array_equal(params.pop("bias"), bias)
            for name in params.keys() - {"kernel", "recurrent_kernel"}:
                np.testing.assert_array_equal(params[name], np.float32(gain))


@pytest.mark.parametrize("call", ["simple_rnn", "run", "step", "init"])
@pytest.mark.parametrize(
    "choices, message",
    [
        ({"norm": "batch"}, r"norm='batch'.*'layer', 'rms'"),
        ({"sites": ("cell",)}, "site='cell' .* 'sum', 'recurrent', 'input'"),
        ({"sites": "sum"}, "sites='sum' must be a tuple of names"),
        ({"sites": ()}, r"sites=\(\) must be a tuple of names"),
        ({"sites": ("sum", "input")}, "normalized once, so no other site"),
    ],
    ids=["norm", "unknown", "string", "none", "sum and another"],
)
def test_choices_that_mean_nothing_are_refused(choices, message, call):
    case, cell = Case(SimpleCell(H), np.float32), SimpleCell(H, **choices)
    calls = {
        "simple_rnn": lambda: lnjax.simple_rnn(case.params, case.xs, **choices),
        "run": lambda: cell.run(case.params, case.carry, case.xs),
        "step": lambda: cell.step(case.params, case.carry, case.xs[0]),
        "init": lambda: cell.init(jax.random.key(0), case.carry, case.xs[0]),
    }
    with pytest.raises(ValueError, match=message):
        calls[call]()


@pytest.mark.parametrize(
    "norm, sites, gains, message",
    [
        (None, ("sum",), ("scale",), "the parameters have a scale"),
        ("layer", ("sum",), (), "the parameters have no scale"),
        ("layer", ("sum",), ("scale", "scale_x"), "the parameters have a scale_x"),
        ("layer", APART, ("scale",), "the parameters have a scale"),
        ("layer", APART, ("scale_x",), "the parameters have no scale_h"),
        ("rms", ("recurrent",), ("scale_x",), "the parameters have a scale_x"),
    ],
)
def test_parameters_of_another_norm_or_other_sites_are_refused(norm, sites, gains, message):
    plain = Case(SimpleCell(H, norm=None), np.float32)
    params = plain.params._replace(**{name: jnp.ones(H) for name in gains})
    with pytest.raises(ValueError, match=message + "$"):
        lnjax.simple_rnn(params, plain.xs, norm=norm, sites=sites)

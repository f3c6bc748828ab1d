"""Flax's Linen and NNX cells against themselves, run on the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from lnjax import convert
from tests.convert.cases import D, H, T, assert_outputs, gru, lstm, sequence, simple
from tests.trees import assert_equal


def run_linen(cell, params, xs, carry):
    return loop(lambda carry, x: cell.apply({"params": params}, carry, x), xs, carry)


def loop(step, xs, carry):
    step, ys = jax.jit(step), []
    for x in xs:
        carry, y = step(carry, x)
        ys.append(y)
    return np.stack(ys)


def run_nnx(cell, params, xs, carry):
    state = nnx.state(cell, nnx.Param)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    nnx.update(cell, state)
    return loop(lambda carry, x: cell(carry, x), xs, carry)


def random_like(rng, tree):
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), tree)


RELU = {"activation": jax.nn.relu}
LINEN = {
    "LSTMCell": (linen.LSTMCell(H), "lstm", {}),
    "OptimizedLSTMCell": (linen.OptimizedLSTMCell(H), "lstm", {}),
    "GRUCell": (linen.GRUCell(H), "gru", {}),
    "SimpleCell": (linen.SimpleCell(H), "simple", {}),
    "SimpleCell with relu": (linen.SimpleCell(H, activation_fn=jax.nn.relu), "simple", RELU),
}
NNX = {
    "LSTMCell": (nnx.LSTMCell, {}, "lstm", {}, {}),
    "OptimizedLSTMCell": (nnx.OptimizedLSTMCell, {}, "lstm", {}, {"optimized": True}),
    "GRUCell": (nnx.GRUCell, {}, "gru", {}, {}),
    "SimpleCell": (nnx.SimpleCell, {}, "simple", {}, {}),
    "SimpleCell with relu": (
        nnx.SimpleCell,
        {"activation_fn": jax.nn.relu},
        "simple",
        RELU,
        RELU,
    ),
}
ZEROS = {
    "kernel_init": nnx.initializers.zeros,
    "recurrent_kernel_init": nnx.initializers.zeros,
}  # soon replaced
FLOAT64 = {"dtype": jnp.float64, "param_dtype": jnp.float64, **ZEROS}


def function(direction, framework, kind):
    return getattr(convert, f"{direction}_{framework}_{kind}")


def carry_of(kind, c, h):
    return (c, h) if kind == "lstm" else h


@pytest.mark.parametrize("name", LINEN)
def test_linen(x64, rng, name):
    theirs, kind, choices = LINEN[name]
    xs, c, h = sequence(rng)
    carry = carry_of(kind, c, h)
    variables = jax.eval_shape(theirs.init, jax.random.key(0), carry, xs[0])
    params = random_like(rng, variables["params"])
    converted = function("from", "linen", kind)(params, **choices)
    expected = run_linen(theirs, params, xs, carry)
    assert_outputs(converted, expected, xs, *((c, h) if kind == "lstm" else (h,)))
    assert_equal(function("to", "linen", kind)(*converted, **choices), params)


@pytest.mark.parametrize("name", NNX)
def test_nnx(x64, rng, name):
    cell_class, arguments, kind, choices, out_choices = NNX[name]
    theirs = cell_class(D, H, **arguments, **FLOAT64, rngs=nnx.Rngs(0))
    params = random_like(rng, nnx.to_pure_dict(nnx.state(theirs, nnx.Param)))
    xs, c, h = sequence(rng)
    converted = function("from", "nnx", kind)(params, **choices)
    expected = run_nnx(theirs, params, xs, carry_of(kind, c, h))
    assert_outputs(converted, expected, xs, *((c, h) if kind == "lstm" else (h,)))
    assert_equal(function("to", "nnx", kind)(*converted, **out_choices), params)


@pytest.mark.parametrize(("make", "kind"), [(lstm, "lstm"), (gru, "gru"), (simple, "simple")])
def test_lnjax_weights_go_out(x64, rng, make, kind):
    converted, (xs, c, h) = make(rng), sequence(rng)
    cells = {"lstm": "LSTMCell", "gru": "GRUCell", "simple": "SimpleCell"}
    carry, leaves = carry_of(kind, c, h), (c, h) if kind == "lstm" else (h,)
    theirs = getattr(linen, cells[kind])(H)
    params = function("to", "linen", kind)(*converted)
    assert_outputs(converted, run_linen(theirs, params, xs, carry), xs, *leaves)
    if kind == "gru":
        converted.params.bias_h[:] = 0
    theirs = getattr(nnx, cells[kind])(D, H, **FLOAT64, rngs=nnx.Rngs(0))
    params = function("to", "nnx", kind)(*converted)
    assert_outputs(converted, run_nnx(theirs, params, xs, carry), xs, *leaves)


def test_a_residual_cell_is_one_with_the_identity_added(x64, rng):
    theirs, (xs, _, h) = linen.SimpleCell(H, residual=True), sequence(rng)
    params = {"i": {"kernel": rng.normal(size=(D, H)), "bias": rng.normal(size=H)}}
    params["h"] = {"kernel": rng.normal(size=(H, H))}
    cell, own = convert.from_linen_simple(params)
    own = own._replace(recurrent_kernel=own.recurrent_kernel + np.eye(H))
    assert_outputs(convert.Converted(cell, own), run_linen(theirs, params, xs, h), xs, h)


def test_a_checkpoint_of_linen_becomes_one_of_nnx(rng):
    """In float32, through lnjax's parameters: the three trees hold the same numbers."""
    xs, c, h = sequence(rng, np.float32)
    theirs = linen.LSTMCell(H)
    variables = jax.eval_shape(theirs.init, jax.random.key(0), (c, h), xs[0])
    params = jax.tree.map(np.float32, random_like(rng, variables["params"]))
    tree = convert.to_nnx_lstm(*convert.from_linen_lstm(params))
    cell = nnx.LSTMCell(D, H, **ZEROS, rngs=nnx.Rngs(1))
    got = run_nnx(cell, tree, xs, (c, h))
    np.testing.assert_allclose(got, run_linen(theirs, params, xs, (c, h)), rtol=1e-6, atol=1e-6)
    assert got.shape == (T, *h.shape)


def test_a_gru_with_a_bias_on_the_recurrent_candidate_does_not_fit_nnx(rng):
    with pytest.raises(ValueError, match=r"bias_h is not zero; flax.nnx.GRUCell has no bias"):
        convert.to_nnx_gru(*gru(rng))


@pytest.mark.parametrize(
    ("leave", "make", "given", "reason"),
    [
        (convert.to_linen_lstm, lstm, {"norm": "layer"}, "Flax's LSTM has no norm"),
        (convert.to_nnx_lstm, lstm, {"norm": "rms"}, "Flax's LSTM has no norm"),
        (convert.to_linen_gru, gru, {"norm": "layer"}, "Flax's GRU has no norm"),
        (convert.to_nnx_gru, gru, {"norm": "layer"}, "Flax's GRU has no norm"),
        (convert.to_linen_simple, simple, {"norm": "layer"}, "Flax's SimpleCell has no norm"),
        (convert.to_nnx_simple, simple, RELU, "activation=relu; Flax's SimpleCell has tanh"),
    ],
)
def test_cells_that_are_no_such_cell_are_refused(rng, leave, make, given, reason):
    with pytest.raises(ValueError, match=f"{leave.__name__}: .*{reason}"):
        leave(*make(rng, **given))


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "simple"])
def test_wrong_trees_are_refused(rng, framework, kind):
    enter = function("from", framework, kind)
    with pytest.raises(ValueError, match=f"{enter.__name__}: found the names params/x; expected"):
        enter({"params": {"x": np.ones(3)}})
    with pytest.raises(ValueError, match=f"{enter.__name__} takes a mapping"):
        enter(np.ones(3))
    leave = function("to", framework, kind)
    tree = leave(*{"lstm": lstm, "gru": gru, "simple": simple}[kind](rng)) if kind != "gru" else {}
    if tree:
        block = next(block for name, block in tree.items() if "h" in name)
        block["kernel"] = block["kernel"][1:]
        with pytest.raises(ValueError, match=f"{enter.__name__}: .*kernel has the shape"):
            enter(tree)

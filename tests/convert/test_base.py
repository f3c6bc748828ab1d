"""What all conversions share: the result, dtypes, checks that depend on no framework."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnjax
from lnjax import convert
from lnjax.cells import Zoneout
from tests.convert.cases import B, D, H, arrays, gru, lstm, sequence, simple
from tests.trees import assert_equal

MAKERS = {"lstm": lstm, "gru": gru, "simple": simple}
LSTM = {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": 4 * H}


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("kind", MAKERS)
def test_dtypes_are_kept_in_and_out(rng, dtype, kind):
    cell, params = MAKERS[kind](rng)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    tree = getattr(convert, f"to_linen_{kind}")(cell, params)
    converted = getattr(convert, f"from_linen_{kind}")(tree)
    for leaf in jax.tree.leaves((tree, converted.params)):
        assert isinstance(leaf, np.ndarray) and leaf.dtype == dtype
    assert_equal(converted.params, params)


def test_the_initial_carry_has_the_dtype_of_the_weights(x64, rng):
    """At float64 a carry in float32 would round every step."""
    weights = list(arrays(rng, **LSTM).values())
    assert convert.from_keras_lstm(weights).cell.param_dtype == jnp.float64
    with jax.enable_x64(False):
        assert convert.from_keras_lstm(weights).cell.param_dtype == jnp.float32


def test_variables_are_those_of_flax(rng):
    state = arrays(rng, np.float32, **LSTM, gamma=(2, 4 * H), gamma_h=H, beta_h=H)
    converted = convert.from_haste_layer_norm_lstm(state)
    xs, _, _ = sequence(rng, np.float32)
    rnn = lnjax.RNN(converted.cell)
    own = jax.eval_shape(rnn.init, jax.random.key(0), xs)["params"]["cell"]
    assert jax.tree.map(lambda leaf: leaf.shape, own) == jax.tree.map(
        np.shape, converted.variables["params"]
    )
    ys = rnn.apply({"params": {"cell": converted.variables["params"]}}, xs.swapaxes(0, 1))
    _, expected = converted.cell.run(
        converted.params, (jnp.zeros((B, H)), jnp.zeros((B, H))), jnp.asarray(xs)
    )
    np.testing.assert_allclose(ys.swapaxes(0, 1), expected, rtol=1e-6, atol=1e-6)
    plain = convert.from_haste_lstm({name: state[name] for name in LSTM})
    assert sorted(plain.variables["params"]) == ["bias", "kernel", "recurrent_kernel"]


def test_jax_parameters_go_out(rng):
    cell, params = lstm(rng)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    kernel, *_ = convert.to_keras_lstm(cell, params)
    assert isinstance(kernel, np.ndarray)
    assert_equal(kernel, params.kernel)
    with pytest.raises(ValueError, match=r"parameters are a dict; make them LSTMParams\(\*\*var"):
        convert.to_keras_lstm(cell, convert.Converted(cell, params).variables["params"])


def test_nothing_is_a_view_of_its_source(rng):
    weights = list(arrays(rng, **LSTM).values())
    before = [weight.copy() for weight in weights]
    converted = convert.from_keras_lstm(weights)
    out = convert.to_keras_lstm(*converted)
    for leaf in (*jax.tree.leaves(converted.params), *out):
        leaf[...] = 7
    assert_equal(weights, before)


def test_parameters_of_another_cell_are_refused(rng):
    cell, params = lstm(rng)
    with pytest.raises(ValueError, match=r"kernel has the shape \(4, 16\); expected \(5, 20\)"):
        convert.to_keras_lstm(lnjax.LSTMCell(features=5, norm=None), params)
    with pytest.raises(ValueError, match=r"found the names .*scale_c.*; expected bias, kernel"):
        convert.to_keras_lstm(cell, lstm(rng, norm="layer").params)
    with pytest.raises(ValueError, match=r"found the names .*; expected .*scale_x"):
        convert.to_haste_layer_norm_lstm(lnjax.LSTMCell(features=H), params)
    with pytest.raises(ValueError, match=r"bias has the shape \(4, 4\); expected \(16,\)"):
        convert.to_keras_lstm(cell, params._replace(bias=params.bias.reshape(4, 4)))


def test_wrapped_and_derived_cells_are_refused(rng):
    class Mine(lnjax.LSTMCell):
        pass

    cell, params = lstm(rng)
    with pytest.raises(ValueError, match=r"the cell is a Zoneout; .* pass the cell inside"):
        convert.to_keras_lstm(Zoneout(cell, h=0.1), params)
    with pytest.raises(ValueError, match="the cell is a Mine"):
        convert.to_keras_lstm(Mine(features=H, norm=None), params)

"""Keras's and TF-Addons' layers against loops written from their sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax import convert
from tests.convert import loops
from tests.convert.cases import D, H, arrays, assert_outputs, gru, lstm, sequence, simple
from tests.trees import assert_close, assert_equal

LSTM = {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": 4 * H}
GRU = {"kernel": (D, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": (2, 3 * H)}
SIMPLE = {"kernel": (D, H), "recurrent_kernel": (H, H), "bias": H}
TFA_LSTM = {**LSTM, "kernel_norm/gamma": 4 * H, "kernel_norm/beta": 4 * H}
TFA_LSTM |= {"recurrent_norm/gamma": 4 * H, "recurrent_norm/beta": 4 * H}
TFA_LSTM |= {"state_norm/gamma": H, "state_norm/beta": H}
TFA_SIMPLE = {**SIMPLE, "layernorm/gamma": H}

CARRIED = ("recurrent", "input", "carried_cell")


def relu(x):
    return np.maximum(x, 0)


def test_lstm(x64, rng):
    weights, (xs, c, h) = arrays(rng, **LSTM), sequence(rng)
    converted = convert.from_keras_lstm(list(weights.values()))
    assert_outputs(converted, loops.keras_lstm(**weights, xs=xs, c=c, h=h), xs, c, h)
    assert_equal(convert.from_keras_lstm(weights), converted)
    assert_equal(convert.to_keras_lstm(*converted), list(weights.values()))


def test_gru(x64, rng):
    weights, (xs, _, h) = arrays(rng, **GRU), sequence(rng)
    converted = convert.from_keras_gru(list(weights.values()))
    expected = loops.keras_gru(**weights, xs=xs, h=h)
    assert_outputs(converted, expected, xs, h)
    assert_equal(convert.from_keras_gru(weights), converted)
    out = convert.to_keras_gru(*converted)
    assert_equal(convert.from_keras_gru(out), converted)
    assert_equal(out[:2], list(weights.values())[:2])
    assert_close(loops.keras_gru(*out, xs=xs, h=h), expected, 1e-10)


@pytest.mark.parametrize(("activation", "loop"), [(jnp.tanh, np.tanh), (jax.nn.relu, relu)])
def test_simple_rnn(x64, rng, activation, loop):
    weights, (xs, _, h) = arrays(rng, **SIMPLE), sequence(rng)
    converted = convert.from_keras_simple_rnn(list(weights.values()), activation=activation)
    expected = loops.keras_simple_rnn(**weights, xs=xs, h=h, activation=loop)
    assert_outputs(converted, expected, xs, h)
    out = convert.to_keras_simple_rnn(*converted, activation=activation)
    assert_equal(out, list(weights.values()))


@pytest.mark.parametrize("epsilon", [1e-3, 0.2])
def test_tfa_layer_norm_lstm(x64, rng, epsilon):
    weights, (xs, c, h) = arrays(rng, **TFA_LSTM), sequence(rng)
    choice = {} if epsilon == 1e-3 else {"epsilon": epsilon}
    converted = convert.from_tfa_layer_norm_lstm(list(weights.values()), **choice)
    expected = loops.tfa_layer_norm_lstm(weights, xs, c, h, epsilon)
    assert_outputs(converted, expected, xs, c, h)
    assert_equal(convert.from_tfa_layer_norm_lstm(weights, **choice), converted)
    out = convert.to_tfa_layer_norm_lstm(*converted, **choice)
    assert_equal(convert.from_tfa_layer_norm_lstm(out, **choice), converted)
    back = dict(zip(TFA_LSTM, out, strict=True))
    assert_close(loops.tfa_layer_norm_lstm(back, xs, c, h, epsilon), expected, 1e-10)


@pytest.mark.parametrize("epsilon", [1e-5, 0.2])
@pytest.mark.parametrize(("activation", "loop"), [(jnp.tanh, np.tanh), (jax.nn.relu, relu)])
def test_tfa_layer_norm_simple_rnn(x64, rng, epsilon, activation, loop):
    weights, (xs, _, h) = arrays(rng, **TFA_SIMPLE), sequence(rng)
    choices = {"epsilon": epsilon, "activation": activation}
    converted = convert.from_tfa_layer_norm_simple_rnn(list(weights.values()), **choices)
    expected = loops.tfa_layer_norm_simple_rnn(weights, xs, h, epsilon, loop)
    assert_outputs(converted, expected, xs, h)
    out = convert.to_tfa_layer_norm_simple_rnn(*converted, **choices)
    assert_equal(out, list(weights.values()))


def test_layers_without_a_bias(x64, rng):
    xs, c, h = sequence(rng)

    def without(shapes):
        weights = arrays(rng, **shapes)
        return weights, [value for name, value in weights.items() if name != "bias"]

    weights, given = without(LSTM)
    expected = loops.keras_lstm(*given, bias=0, xs=xs, c=c, h=h)
    assert_outputs(convert.from_keras_lstm(given), expected, xs, c, h)
    weights, given = without(GRU)
    expected = loops.keras_gru(*given, bias=(0, 0), xs=xs, h=h)
    assert_outputs(convert.from_keras_gru(given), expected, xs, h)
    weights, given = without(TFA_LSTM)
    expected = loops.tfa_layer_norm_lstm({**weights, "bias": 0}, xs, c, h, 1e-3)
    assert_outputs(convert.from_tfa_layer_norm_lstm(given), expected, xs, c, h)


def test_lnjax_weights_go_out(x64, rng):
    xs, c, h = sequence(rng)
    plain, gated, elman = lstm(rng), gru(rng), simple(rng)
    out = convert.to_keras_lstm(*plain)
    assert_outputs(plain, loops.keras_lstm(*out, xs=xs, c=c, h=h), xs, c, h)
    out = convert.to_keras_gru(*gated)
    assert_outputs(gated, loops.keras_gru(*out, xs=xs, h=h), xs, h)
    out = convert.to_keras_simple_rnn(*elman)
    assert_outputs(elman, loops.keras_simple_rnn(*out, xs=xs, h=h), xs, h)
    # The order in which sites are named is nothing.
    carried = lstm(rng, norm="layer", sites=CARRIED[::-1], epsilon=1e-3)
    out = dict(zip(TFA_LSTM, convert.to_tfa_layer_norm_lstm(*carried), strict=True))
    assert_outputs(carried, loops.tfa_layer_norm_lstm(out, xs, c, h, 1e-3), xs, c, h)
    summed = simple(rng, norm="layer")
    out = dict(zip(TFA_SIMPLE, convert.to_tfa_layer_norm_simple_rnn(*summed), strict=True))
    assert_outputs(summed, loops.tfa_layer_norm_simple_rnn(out, xs, h, 1e-5), xs, h)


def test_reset_before_is_refused(rng):
    weights = arrays(rng, **GRU)
    reason = "reset_after=False multiplies h by the reset gate before the recurrent product"
    with pytest.raises(ValueError, match=reason):
        convert.from_keras_gru({**weights, "bias": weights["bias"][0]})
    with pytest.raises(ValueError, match=reason):
        convert.from_keras_gru(list(weights.values())[:2], reset_after=False)


@pytest.mark.parametrize(
    ("leave", "make", "given", "reason"),
    [
        (convert.to_keras_lstm, lstm, {"norm": "layer"}, "to_tfa_layer_norm_lstm"),
        (convert.to_keras_gru, gru, {"norm": "layer"}, "Keras's GRU has no norm"),
        (convert.to_keras_simple_rnn, simple, {"norm": "layer"}, "to_tfa_layer_norm_simple_rnn"),
        (
            convert.to_keras_simple_rnn,
            simple,
            {"activation": jax.nn.relu},
            "activation=relu; .* has tanh",
        ),
        (
            convert.to_tfa_layer_norm_lstm,
            lstm,
            {"norm": "layer", "epsilon": 1e-3},
            r"sites=\('recurrent', 'input', 'cell'\).*another function",
        ),
        (
            convert.to_tfa_layer_norm_lstm,
            lstm,
            {"norm": "layer", "sites": CARRIED},
            "epsilon=1e-05; .* has 0.001.*pass that choice as an argument",
        ),
        (convert.to_tfa_layer_norm_simple_rnn, simple, {}, "has layer normalization"),
        (convert.to_tfa_layer_norm_simple_rnn, simple, {"norm": "rms"}, "norm='rms'"),
        (
            convert.to_tfa_layer_norm_simple_rnn,
            simple,
            {"norm": "layer", "epsilon": 1e-3},
            "epsilon=0.001; .* has 1e-05",
        ),
        (convert.to_keras_lstm, simple, {}, "the cell is a SimpleCell"),
    ],
)
def test_cells_that_are_no_such_layer_are_refused(rng, leave, make, given, reason):
    with pytest.raises(ValueError, match=f"{leave.__name__}: .*{reason}"):
        leave(*make(rng, **given))


def test_wrong_weights_are_refused(rng):
    weights = list(arrays(rng, **LSTM).values())
    with pytest.raises(ValueError, match=r"found 1 weights, of the shapes \[\(3, 16\)\].*expected"):
        convert.from_keras_lstm(weights[:1])
    with pytest.raises(
        ValueError, match=r"found 3 weights.* expected 9: kernel, .*state_norm/beta"
    ):
        convert.from_tfa_layer_norm_lstm(weights)
    with pytest.raises(ValueError, match=r"recurrent_kernel has the shape \(3, 16\)"):
        convert.from_keras_lstm([weights[1], weights[0], weights[2]])
    with pytest.raises(ValueError, match=r"expected \(H, 3H\), H = 4"):
        convert.from_keras_gru([*weights[:2], np.ones((2, 12))])
    with pytest.raises(ValueError, match=r"takes the list of layer.get_weights\(\)"):
        convert.from_keras_lstm(np.ones((3, 4)))
    with pytest.raises(ValueError, match="found the names bias, kernel, recurrent; expected"):
        convert.from_keras_lstm(dict(zip(("kernel", "recurrent", "bias"), weights, strict=True)))

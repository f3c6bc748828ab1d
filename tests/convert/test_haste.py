"""haste's layers against loops written from its scripts for the CPU."""

import numpy as np
import pytest

from lnjax import convert
from tests.convert import loops
from tests.convert.cases import D, H, arrays, assert_outputs, gru, lstm, sequence
from tests.trees import assert_close, assert_equal

LSTM = {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": 4 * H}
LAYER_NORM_LSTM = {**LSTM, "gamma": (2, 4 * H), "gamma_h": H, "beta_h": H}
GRU = {"kernel": (D, 3 * H), "recurrent_kernel": (H, 3 * H)}
GRU |= {"bias": 3 * H, "recurrent_bias": 3 * H}


def test_lstm(x64, rng):
    state, (xs, c, h) = arrays(rng, **LSTM), sequence(rng)
    converted = convert.from_haste_lstm(state)
    assert_outputs(converted, loops.haste_lstm(state, xs, c, h), xs, c, h)
    assert_equal(convert.to_haste_lstm(*converted), state)


def test_layer_norm_lstm(x64, rng):
    state, (xs, c, h) = arrays(rng, **LAYER_NORM_LSTM), sequence(rng)
    converted = convert.from_haste_layer_norm_lstm(state)
    assert_outputs(converted, loops.haste_lstm(state, xs, c, h, norm=True), xs, c, h)
    assert_equal(convert.to_haste_layer_norm_lstm(*converted), state)


def test_gru(x64, rng):
    state, (xs, _, h) = arrays(rng, **GRU), sequence(rng)
    converted = convert.from_haste_gru(state)
    expected = loops.haste_gru(state, xs, h)
    assert_outputs(converted, expected, xs, h)
    out = convert.to_haste_gru(*converted)
    assert_equal(convert.from_haste_gru(out), converted)
    assert_close(loops.haste_gru(out, xs, h), expected, 1e-10)


def test_lnjax_weights_go_out(x64, rng):
    xs, c, h = sequence(rng)
    plain, normed, gated = lstm(rng), lstm(rng, norm="layer"), gru(rng)
    out = convert.to_haste_lstm(*plain)
    assert_outputs(plain, loops.haste_lstm(out, xs, c, h), xs, c, h)
    out = convert.to_haste_layer_norm_lstm(*normed)
    assert_outputs(normed, loops.haste_lstm(out, xs, c, h, norm=True), xs, c, h)
    assert_outputs(gated, loops.haste_gru(convert.to_haste_gru(*gated), xs, h), xs, h)


def test_one_norm_over_3h_is_refused_both_ways(rng):
    state = {**arrays(rng, **GRU), "gamma": np.ones((2, 3 * H))}
    reason = "one norm over all 3H summed inputs.*no weights make them equal"
    with pytest.raises(ValueError, match=f"from_haste_gru: .*{reason}"):
        convert.from_haste_gru(state)
    with pytest.raises(ValueError, match=f"to_haste_gru: .*{reason}"):
        convert.to_haste_gru(*gru(rng, norm="layer"))


@pytest.mark.parametrize(
    ("leave", "choices", "reason"),
    [
        (convert.to_haste_lstm, {"norm": "layer"}, "to_haste_layer_norm_lstm"),
        (convert.to_haste_layer_norm_lstm, {}, "haste's LayerNormLSTM has layer normalization"),
        (
            convert.to_haste_layer_norm_lstm,
            {"norm": "layer", "sites": ("recurrent", "input", "carried_cell")},
            "another function",
        ),
        (convert.to_haste_layer_norm_lstm, {"norm": "layer", "epsilon": 1e-3}, "epsilon=0.001"),
    ],
)
def test_cells_that_are_no_such_layer_are_refused(rng, leave, choices, reason):
    with pytest.raises(ValueError, match=f"{leave.__name__}: .*{reason}"):
        leave(*lstm(rng, **choices))


def test_wrong_states_are_refused(rng):
    state = arrays(rng, **LAYER_NORM_LSTM)
    with pytest.raises(ValueError, match="use from_haste_layer_norm_lstm"):
        convert.from_haste_lstm(state)
    with pytest.raises(ValueError, match=r"found the names .*expected .*gamma_h"):
        convert.from_haste_layer_norm_lstm(arrays(rng, **LSTM))
    state["gamma"] = state["gamma"][:1]
    with pytest.raises(ValueError, match=r"gamma has the shape \(1, 16\); expected \(2, 4H\)"):
        convert.from_haste_layer_norm_lstm(state)
    for enter in (
        convert.from_haste_lstm,
        convert.from_haste_gru,
        convert.from_haste_layer_norm_lstm,
    ):
        with pytest.raises(ValueError, match="takes a mapping of names to arrays, not a list"):
            enter([np.ones(3)])

"""The authors' Theano layers against loops written from their source."""

import numpy as np
import pytest

from lnjax import convert
from tests.convert import loops
from tests.convert.cases import (
    B,
    D,
    H,
    T,
    arrays,
    assert_outputs,
    gru,
    lstm,
    outputs,
    sequence,
)
from tests.trees import assert_close, assert_equal

LSTM = {"W": (D, 4 * H), "U": (H, 4 * H), "b": 4 * H}
LNLSTM = {**LSTM, "b1": 4 * H, "b2": 4 * H, "b3": H, "s1": 4 * H, "s2": 4 * H, "s3": H}
GRU = {"W": (D, 2 * H), "U": (H, 2 * H), "b": 2 * H, "Wx": (D, H), "Ux": (H, H), "bx": H}
LNGRU = {**GRU, **dict.fromkeys(("b1", "b3", "s1", "s3"), 2 * H)}
LNGRU |= dict.fromkeys(("b2", "b4", "s2", "s4"), H)

KINDS = {
    "lstm": (LSTM, convert.from_theano_lstm, convert.to_theano_lstm),
    "lnlstm": (LNLSTM, convert.from_theano_lnlstm, convert.to_theano_lnlstm),
    "gru": (GRU, convert.from_theano_gru, convert.to_theano_gru),
    "lngru": (LNGRU, convert.from_theano_lngru, convert.to_theano_lngru),
}


def named(weights, prefix):
    return {f"{prefix}_{name}": value for name, value in weights.items()}


def unnamed(weights, prefix):
    return {name.removeprefix(f"{prefix}_"): value for name, value in weights.items()}


def loop(kind, weights, xs, c, h):
    if "lstm" in kind:
        return loops.theano_lstm(weights, xs, c, h, norm=kind == "lnlstm")
    return loops.theano_gru(weights, xs, h, norm=kind == "lngru")


def carry_of(kind, c, h):
    return (c, h) if "lstm" in kind else (h,)


def random_weights(rng, kind, bias):
    weights = arrays(rng, **KINDS[kind][0])
    if bias == "constant":
        weights["b"] = np.full_like(weights["b"], -0.7)
        if "bx" in weights:
            weights["bx"] = np.full_like(weights["bx"], 0.4)
    return weights


def with_one(xs):
    return np.concatenate([xs, np.ones((T, B, 1))], axis=-1)


@pytest.mark.parametrize(
    ("kind", "bias"),
    [("lstm", "trained"), ("gru", "trained"), ("lnlstm", "constant"), ("lngru", "constant")],
)
def test_it_computes_what_the_source_does(x64, rng, kind, bias):
    weights, (xs, c, h) = random_weights(rng, kind, bias), sequence(rng)
    converted = KINDS[kind][1](named(weights, "enc"), "enc")
    assert_outputs(converted, loop(kind, weights, xs, c, h), xs, *carry_of(kind, c, h))


@pytest.mark.parametrize("kind", ["lnlstm", "lngru"])
@pytest.mark.parametrize("bias", ["constant", "trained"])
def test_a_bias_inside_of_the_norm_as_an_input(x64, rng, kind, bias):
    weights, (xs, c, h) = random_weights(rng, kind, bias), sequence(rng)
    converted = KINDS[kind][1](named(weights, "enc"), "enc", bias_as_input=True)
    expected = loop(kind, weights, xs, c, h)
    assert_outputs(converted, expected, with_one(xs), *carry_of(kind, c, h))


@pytest.mark.parametrize("kind", ["lnlstm", "lngru"])
def test_a_trained_bias_inside_of_the_norm_is_refused(rng, kind):
    weights = random_weights(rng, kind, "trained")
    reason = r"enc_b stands inside of the input's layer norm and is not constant.*bias_as_input"
    with pytest.raises(ValueError, match=reason):
        KINDS[kind][1](named(weights, "enc"), "enc")


def test_the_candidates_trained_bias_is_refused_too(rng):
    weights = random_weights(rng, "lngru", "constant")
    weights["bx"][0] += 1e-6
    with pytest.raises(ValueError, match="lngru_bx stands inside"):
        convert.from_theano_lngru(named(weights, "lngru"))


def test_a_trained_bias_inside_of_the_norm_matters(x64, rng):
    """Were it dropped, as if it were constant, outputs would be others: the reason to refuse."""
    weights, (xs, c, h) = random_weights(rng, "lnlstm", "trained"), sequence(rng)
    dropped = {**weights, "b1": weights["b1"] + weights["b"], "b": np.zeros(4 * H)}
    converted = convert.from_theano_lnlstm(named(dropped, "lnlstm"))
    assert abs(outputs(converted, xs, c, h) - loop("lnlstm", weights, xs, c, h)).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(x64, rng, kind):
    """In, out, in: equal parameters; and what went out computes the same in the source's loop."""
    _, enter, leave = KINDS[kind]
    weights, (xs, c, h) = random_weights(rng, kind, "constant"), sequence(rng)
    converted = enter(named(weights, "enc"), "enc")
    out = leave(*converted, "dec")
    assert sorted(out) == sorted(named(weights, "dec"))
    assert_equal(enter(out, "dec").params, converted.params)
    expected = loop(kind, weights, xs, c, h)
    assert_close(loop(kind, unnamed(out, "dec"), xs, c, h), expected, 1e-10)
    for name in ("W", "U", "Wx", "Ux", "s1", "s2", "s3", "s4"):
        if name in weights:
            assert_equal(out[f"dec_{name}"], weights[name])


@pytest.mark.parametrize("kind", ["lnlstm", "lngru"])
def test_round_trip_of_a_bias_as_input(x64, rng, kind):
    _, enter, leave = KINDS[kind]
    weights, (xs, c, h) = random_weights(rng, kind, "trained"), sequence(rng)
    converted = enter(named(weights, kind), bias_as_input=True)
    out = leave(*converted, bias_as_input=True)
    assert_equal(out[f"{kind}_b"], weights["b"])
    assert_equal(out[f"{kind}_W"], weights["W"])
    expected = loop(kind, weights, xs, c, h)
    assert_close(loop(kind, unnamed(out, kind), xs, c, h), expected, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_lnjax_weights_go_out(x64, rng, kind):
    make, norm = (lstm if "lstm" in kind else gru), "layer" if "ln" in kind else None
    converted, (xs, c, h) = make(rng, norm=norm), sequence(rng)
    if kind == "gru":
        converted.params.bias_h[:] = 0
    out = unnamed(KINDS[kind][2](*converted), kind)
    assert_outputs(converted, loop(kind, out, xs, c, h), xs, *carry_of(kind, c, h))


def test_another_epsilon_of_the_gru_goes_into_its_kernels(x64, rng):
    converted, (xs, _, h) = gru(rng, norm="layer", epsilon=0.3), sequence(rng)
    out = unnamed(convert.to_theano_lngru(*converted), "lngru")
    assert_outputs(converted, loops.theano_gru(out, xs, h, norm=True), xs, h)
    with pytest.raises(ValueError, match="only a positive one"):
        convert.to_theano_lngru(*gru(rng, norm="layer", epsilon=0.0))


def test_an_npz_with_other_layers(tmp_path, rng):
    weights = random_weights(rng, "lngru", "constant")
    others = random_weights(rng, "lngru", "trained")
    file = tmp_path / "model.npz"
    np.savez(file, **named(weights, "encoder"), **named(others, "encoder_r"), Wemb=np.ones(3))
    with np.load(file) as npz:
        converted = convert.from_theano_lngru(npz, "encoder")
    assert_equal(converted, convert.from_theano_lngru(named(weights, "encoder"), "encoder"))


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("lnlstm", {"h0": np.zeros(H)}, "lnlstm_h0 is a learned initial state"),
        ("lstm", {"h0": np.zeros(H)}, "lstm_h0 is a learned initial state"),
        ("lstm", {"s1": np.zeros(H)}, "use from_theano_lnlstm"),
        ("gru", {"s1": np.zeros(H)}, "use from_theano_lngru"),
        ("lngru", {"Ux": None}, "found no lngru_Ux; the names are .*lngru_W.*another prefix"),
        ("lngru", {"s2": np.ones(2 * H)}, r"lngru_s2 has the shape \(8,\); expected \(H,\), H = 4"),
        ("lstm", {"U": np.ones((4 * H, H))}, r"lstm_U has the shape \(16, 4\).*not transposed"),
        ("lstm", {"b": np.ones(4 * H, int)}, "lstm_b is of the dtype int64"),
    ],
)
def test_wrong_arrays_are_refused(rng, kind, change, reason):
    weights = {**random_weights(rng, kind, "constant"), **change}
    weights = {name: value for name, value in weights.items() if value is not None}
    with pytest.raises(ValueError, match=f"from_theano_{kind}: .*{reason}"):
        KINDS[kind][1](named(weights, kind))


@pytest.mark.parametrize(
    ("leave", "make", "choices", "reason"),
    [
        (convert.to_theano_lstm, lstm, {"norm": "layer"}, "has no norm.*to_theano_lnlstm"),
        (convert.to_theano_gru, gru, {"norm": "layer"}, "has no norm.*to_theano_lngru"),
        (convert.to_theano_gru, gru, {}, "bias_h is not zero"),
        (convert.to_theano_lnlstm, lstm, {}, "norm=None.*has layer normalization"),
        (convert.to_theano_lnlstm, lstm, {"norm": "rms"}, "norm='rms'"),
        (convert.to_theano_lngru, gru, {"norm": "rms"}, "norm='rms'"),
        (
            convert.to_theano_lnlstm,
            lstm,
            {"norm": "layer", "sites": ("cell",)},
            r"sites=\('cell',\).*another function",
        ),
        (
            convert.to_theano_lnlstm,
            lstm,
            {"norm": "layer", "epsilon": 1e-3},
            "epsilon=0.001; the authors' lnlstm has 1e-05",
        ),
        (convert.to_theano_lstm, gru, {}, "the cell is a GRUCell"),
    ],
)
def test_cells_that_are_no_such_layer_are_refused(rng, leave, make, choices, reason):
    with pytest.raises(ValueError, match=f"{leave.__name__}: .*{reason}"):
        leave(*make(rng, **choices))


def test_a_kernel_of_the_bias_alone_is_refused(rng):
    cell, params = lstm(rng, norm="layer")
    with pytest.raises(ValueError, match="has 1 rows"):
        convert.to_theano_lnlstm(
            cell, params._replace(kernel=params.kernel[:1]), bias_as_input=True
        )

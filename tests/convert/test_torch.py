"""PyTorch's layers, run, and LayerNormLSTMCell of custom_lstms.py, with torch.nn.LayerNorm."""

import jax
import numpy as np
import pytest

from lnjax import convert
from tests.convert.cases import (
    B,
    D,
    H,
    arrays,
    assert_outputs,
    gru,
    lstm,
    outputs,
    sequence,
    simple,
)
from tests.trees import assert_close, assert_equal

torch = pytest.importorskip("torch")

KINDS = {
    "lstm": (torch.nn.LSTM, torch.nn.LSTMCell, {}),
    "gru": (torch.nn.GRU, torch.nn.GRUCell, {}),
    "rnn": (torch.nn.RNN, torch.nn.RNNCell, {}),
    "relu": (torch.nn.RNN, torch.nn.RNNCell, {"nonlinearity": "relu"}),
}
CARRIED = ("recurrent", "input", "carried_cell")


def function(direction, kind, suffix=""):
    return getattr(convert, f"{direction}_torch_{kind.replace('relu', 'rnn')}{suffix}")


def module(kind, **options):
    """A layer in float64 with random weights of a scale at which every gate moves."""
    torch.manual_seed(0)
    layer = KINDS[kind][0](D, H, **KINDS[kind][2], **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def run(layer, xs):
    with torch.no_grad():
        return layer(torch.from_numpy(xs))[0].numpy()


def as_torch(state):
    return {name: torch.from_numpy(array) for name, array in state.items()}


def run_layers(kind, layers, xs):
    """What the converted layers compute, stacked and joined as PyTorch does."""
    zeros = (np.zeros((B, H)),) * (2 if kind == "lstm" else 1)
    for layer in layers:
        parts = [outputs(layer[0], xs, *zeros)]
        if len(layer) == 2:
            parts.append(outputs(layer[1], xs[::-1], *zeros)[::-1])
        xs = np.concatenate(parts, axis=-1)
    return xs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}],
    ids=str,
)
@pytest.mark.some(6)
def test_layers(x64, rng, kind, options):
    theirs, (xs, _, _) = module(kind, **options), sequence(rng)
    layers = function("from", kind)(theirs.state_dict(), **KINDS[kind][2])
    assert len(layers) == options.get("num_layers", 1)
    assert {len(layer) for layer in layers} == {2 if "bidirectional" in options else 1}
    expected = run(theirs, xs)
    assert_close(run_layers(kind, layers, xs), expected, 1e-10)
    # Out: into a module that has both biases; in again: the same parameters.
    out = function("to", kind)(layers, **KINDS[kind][2])
    back = module(kind, **{**options, "bias": True})
    back.load_state_dict(as_torch(out))
    assert_close(run(back, xs), expected, 1e-10)
    assert_equal(function("from", kind)(out, **KINDS[kind][2]), layers)
    assert_equal(out["weight_hh_l0"], theirs.weight_hh_l0.detach().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_cells(x64, rng, kind):
    theirs, (xs, c, h) = module(kind), sequence(rng)
    state = {name.removesuffix("_l0"): value for name, value in theirs.state_dict().items()}
    cell = KINDS[kind][1](D, H, **KINDS[kind][2]).double()
    cell.load_state_dict(state)
    converted = function("from", kind, "_cell")(cell.state_dict(), **KINDS[kind][2])
    carry = (h, c) if kind == "lstm" else h
    state = tuple(map(torch.from_numpy, carry)) if kind == "lstm" else torch.from_numpy(h)
    expected = []
    with torch.no_grad():
        for x in torch.from_numpy(xs):
            state = cell(x, state)
            expected.append((state[0] if kind == "lstm" else state).numpy())
    assert_outputs(converted, np.stack(expected), xs, *((c, h) if kind == "lstm" else (h,)))
    out = function("to", kind, "_cell")(*converted, **KINDS[kind][2])
    cell.load_state_dict(as_torch(out))  # the names are right
    assert_equal(function("from", kind, "_cell")(out, **KINDS[kind][2]), converted)


def test_lnjax_weights_go_out(x64, rng):
    xs, _, _ = sequence(rng)
    for kind, make in (("lstm", lstm), ("gru", gru), ("rnn", simple)):
        converted, theirs = make(rng), module(kind)
        theirs.load_state_dict(as_torch(function("to", kind)(((converted,),))))
        zeros = (np.zeros((B, H)),) * (2 if kind == "lstm" else 1)
        assert_outputs(converted, run(theirs, xs), xs, *zeros)


class LayerNormLSTMCell(torch.nn.Module):
    """benchmarks/fastrnns/custom_lstms.py of pytorch/pytorch at 02ed7257e27f: its equations."""

    def __init__(self, epsilon):
        super().__init__()
        self.weight_ih = torch.nn.Parameter(torch.randn(4 * H, D))
        self.weight_hh = torch.nn.Parameter(torch.randn(4 * H, H))
        self.layernorm_i = torch.nn.LayerNorm(4 * H, eps=epsilon)
        self.layernorm_h = torch.nn.LayerNorm(4 * H, eps=epsilon)
        self.layernorm_c = torch.nn.LayerNorm(H, eps=epsilon)

    def forward(self, x, h, c):
        gates = self.layernorm_i(x @ self.weight_ih.t()) + self.layernorm_h(h @ self.weight_hh.t())
        i, f, g, o = gates.chunk(4, 1)
        c = self.layernorm_c(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
        return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("decompose", [False, True])
def test_layer_norm_lstm_cell(x64, rng, decompose):
    """With decompose_layernorm the source divides by the deviation itself: epsilon is 0."""
    torch.manual_seed(0)
    theirs = LayerNormLSTMCell(0.0 if decompose else 1e-5).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    xs, c, h = sequence(rng)

    def run_theirs():
        state, ys = (torch.from_numpy(h), torch.from_numpy(c)), []
        with torch.no_grad():
            for x in torch.from_numpy(xs):
                state = theirs(x, *state)
                ys.append(state[0].numpy())
        return np.stack(ys)

    expected, options = run_theirs(), {"decompose_layernorm": decompose}
    state = theirs.state_dict()
    converted = convert.from_torch_layer_norm_lstm_cell(state, **options)
    assert_outputs(converted, expected, xs, c, h)
    out = convert.to_torch_layer_norm_lstm_cell(*converted, **options)
    theirs.load_state_dict(as_torch(out))
    assert_close(run_theirs(), expected, 1e-10)
    assert_equal(convert.from_torch_layer_norm_lstm_cell(out, **options), converted)


def test_tensors_that_hold_a_gradient_are_read_and_copied():
    theirs = module("lstm")
    named = dict(theirs.named_parameters())
    ((converted,),) = convert.from_torch_lstm(named)
    converted.params.kernel[:] = 0
    assert (theirs.weight_ih_l0 != 0).all()
    named["weight_hh_l0"] = named["weight_hh_l0"].bfloat16()
    with pytest.raises(ValueError, match=r"weight_hh_l0 cannot be read as a NumPy array.*convert"):
        convert.from_torch_lstm(named)


def test_proj_size_is_refused():
    state = torch.nn.LSTM(D, H, proj_size=2).state_dict()
    with pytest.raises(ValueError, match="from_torch_lstm: weight_hr is the projection of h"):
        convert.from_torch_lstm(state)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight_hh_l1": None}, "found the names bias_hh_l1, .*expected .*weight_hh_l1"),
        ({"weight_ih_l0": None}, "expected weight_ih_l0, .*goes to from_torch_lstm_cell"),
        ({"bias_hh_l0": None}, "found the names bias_ih_l0, .*expected bias_hh_l0"),
        ({"decoder.weight": np.ones(3)}, "found the names decoder.weight; expected"),
        ({"weight_hh_l0": np.ones((12, 4))}, r"\(12, 4\); expected \(4H, H\), H = 4"),
        ({"weight_ih_l1": np.ones((16, 5))}, "layer 1 has 5 inputs and 4 features; .* 4 and 4"),
    ],
)
def test_wrong_states_are_refused(change, reason):
    state = {**module("lstm", num_layers=2).state_dict(), **change}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=f"from_torch_lstm: .*{reason}"):
        convert.from_torch_lstm(state)


def test_what_is_no_state_is_refused():
    for enter in (
        convert.from_torch_lstm,
        convert.from_torch_gru_cell,
        convert.from_torch_layer_norm_lstm_cell,
    ):
        with pytest.raises(ValueError, match=f"{enter.__name__} takes a mapping of names"):
            enter([np.ones(3)])
    with pytest.raises(ValueError, match="nonlinearity='gelu' is neither"):
        convert.from_torch_rnn({}, nonlinearity="gelu")


@pytest.mark.parametrize(
    ("kind", "make", "given", "reason"),
    [
        ("lstm", lstm, {"norm": "layer"}, "has no norm.*to_torch_layer_norm_lstm_cell"),
        ("gru", gru, {"norm": "layer"}, "PyTorch's GRU has no norm"),
        ("rnn", simple, {"norm": "layer"}, "has no norm"),
        ("rnn", simple, {"activation": jax.nn.relu}, "activation=relu; .*'tanh' has tanh"),
        ("lstm", gru, {}, "the cell is a GRUCell"),
        ("layer_norm_lstm", lstm, {"norm": "layer"}, "another function"),
        ("layer_norm_lstm", lstm, {}, "has layer normalization"),
        (
            "layer_norm_lstm",
            lstm,
            {"norm": "layer", "sites": CARRIED, "epsilon": 0.0},
            "epsilon=0.0; .* has 1e-05",
        ),
    ],
)
def test_cells_that_are_no_such_layer_are_refused(rng, kind, make, given, reason):
    name = f"to_torch_{kind}_cell"
    with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
        getattr(convert, name)(*make(rng, **given))


def test_layers_that_do_not_fit_together_are_refused(rng):
    one, two = lstm(rng), lstm(rng)
    with pytest.raises(ValueError, match="layer 1 has 3 inputs and 4 features"):
        convert.to_torch_lstm(((one,), (two,)))
    with pytest.raises(ValueError, match=r"the layers have \[1, 2\] directions"):
        convert.to_torch_lstm(((one,), (one, two)))
    with pytest.raises(ValueError, match=r"the layers have \[3\] directions"):
        convert.to_torch_lstm(((one, one, two),))
    with pytest.raises(ValueError, match="takes a tuple of layers"):
        convert.to_torch_lstm(one)
    with pytest.raises(ValueError, match=r"the layers have \[\] directions"):
        convert.to_torch_lstm(())


def test_float32_stays_float32(rng):
    state = arrays(rng, np.float32, weight_ih=(16, D), weight_hh=(16, H), bias_ih=16, bias_hh=16)
    xs, c, h = sequence(rng, np.float32)
    cell = torch.nn.LSTMCell(D, H)
    cell.load_state_dict(as_torch(state))
    converted = convert.from_torch_lstm_cell(cell.state_dict())
    assert {leaf.dtype for leaf in jax.tree.leaves(converted.params)} == {np.dtype("float32")}
    hc, expected = (torch.from_numpy(h), torch.from_numpy(c)), []
    with torch.no_grad():
        for x in torch.from_numpy(xs):
            hc = cell(x, hc)
            expected.append(hc[0].numpy())
    assert_outputs(converted, np.stack(expected), xs, c, h, tolerance=1e-5)

"""What the probes record: against NumPy in float64, differences, and the cells' own runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lnjax.analysis import layer_probes, probes
from lnjax.cells import (
    BatchNormLSTMCell,
    GRUCell,
    LSTMCell,
    Noise,
    RecurrentDropout,
    SimpleCell,
)
from lnjax.nn import RNN, Stack
from lnjax.ops import lengths_to_mask
from tests import oracles
from tests.cells.cases import GAPS, B, Case, D, H, T, name_of

CELLS = [
    LSTMCell(features=H),
    LSTMCell(features=H, norm=None),
    LSTMCell(features=H, norm="rms", sites=("recurrent", "cell")),
    GRUCell(features=H),
    GRUCell(features=H, norm="rms"),
    SimpleCell(features=H),
    SimpleCell(features=H, sites=("recurrent", "input")),
    BatchNormLSTMCell(features=H, max_steps=T),
    BatchNormLSTMCell(features=H, max_steps=T, use_running_average=True),
]


def inside(cell, params, h, x):
    """Summed inputs by name, and gates by name, of one case and step, from the equations."""
    p = {name: np.asarray(v, np.float64) for name, v in params._asdict().items() if v is not None}
    a_x, a_h = x @ p["kernel"], h @ p["recurrent_kernel"]
    norm = oracles.NORMS[cell.norm]

    def normalized(a, gain, part=slice(None)):
        return norm(a[part], p[gain][part]) if gain in p else a[part]

    if isinstance(cell, SimpleCell):
        summed = {"x": a_x, "h": a_h, "sum": a_x + a_h}
        options = {"norm": cell.norm, "sites": cell.sites}
        return summed, {"h": oracles.simple_step(p, h, x, **options)}
    if isinstance(cell, LSTMCell):
        a = normalized(a_h, "scale_h") + normalized(a_x, "scale_x") + p["bias"]
        i, f, g, o = np.split(a, 4)
        gates = {name: oracles.sigmoid(a) for name, a in (("i", i), ("f", f), ("o", o))}
        return {"x": a_x, "h": a_h}, gates | {"g": np.tanh(g)}
    rz, n = slice(0, 2 * H), slice(2 * H, 3 * H)
    both = (
        [normalized(a_x, "scale_x", part) + p["bias"][part] for part in (rz, n)],
        [normalized(a_h, "scale_h", part) for part in (rz, n)],
    )
    r, z = np.split(oracles.sigmoid(both[0][0] + both[1][0]), 2)
    candidate = np.tanh(both[0][1] + r * (both[1][1] + p["bias_h"]))
    summed = {"x_rz": a_x[rz], "x_n": a_x[n], "h_rz": a_h[rz], "h_n": a_h[n]}
    return summed, {"r": r, "z": z, "n": candidate}


def h_of(carry):
    return carry[1] if isinstance(carry, tuple) else carry


def states_before(case, record, mask):
    """h before every step: the last real one, or the initial."""
    h = np.array(h_of(case.carry))
    before = []
    for t in range(T):
        before.append(h.copy())
        h = np.where(mask[t][:, None], np.asarray(h_of(record.carry))[t], h)
    return before


@pytest.mark.parametrize("cell", CELLS[:7], ids=name_of)
@pytest.mark.some(3)
def test_summed_inputs_moments_and_gates_are_those_of_the_equations(cell, x64):
    case = Case(cell)
    record = probes.probe(cell, case.params, case.xs, case.carry, mask=GAPS)
    before = states_before(case, record, GAPS)
    for t, b in np.ndindex(T, B):
        summed, gates = inside(cell, case.params, before[t][b], case.xs[t, b])
        assert record.summed.keys() == summed.keys() and record.gates.keys() == gates.keys()
        for name, a in summed.items():
            real = float(GAPS[t, b])
            np.testing.assert_allclose(record.summed[name][t, b], real * a, atol=1e-10)
            np.testing.assert_allclose(record.mean[name][t, b], real * a.mean(), atol=1e-10)
            np.testing.assert_allclose(record.deviation[name][t, b], real * a.std(), atol=1e-10)
        for name, gate in gates.items():
            np.testing.assert_allclose(record.gates[name][t, b], real * gate, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS, ids=name_of)
@pytest.mark.some(7)
def test_states_and_outputs_are_those_of_the_cell_itself(cell, reverse, x64):
    case = Case(cell)
    carry, ys = cell.run(case.params, case.carry, case.xs, GAPS, reverse=reverse)
    xs = np.where(GAPS[..., None], case.xs, np.nan)
    record = probes.probe(cell, case.params, xs, case.carry, mask=GAPS, reverse=reverse)
    np.testing.assert_allclose(record.outputs, ys, atol=1e-12)
    last = [0, 1] if reverse else [T - 1, T - 1]
    for leaf, of_record in zip(carry, record.carry, strict=False):
        if isinstance(carry, tuple):
            for b, t in enumerate(last):
                np.testing.assert_allclose(of_record[t, b], leaf[b], atol=1e-12)
    lengths = np.linalg.norm(np.asarray(record.outputs), axis=-1)
    np.testing.assert_allclose(record.norms["h"], lengths, atol=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(record))
    assert all((np.asarray(leaf)[~GAPS] == 0).all() for leaf in jax.tree.leaves(record))


@pytest.mark.parametrize("cell", CELLS[-2:], ids=["training", "evaluation"])
def test_gates_of_the_batch_normalized_cell_make_its_next_state(cell, x64):
    case = Case(cell)
    mask = np.array(lengths_to_mask(jnp.array([5, 3, 2]), T))
    record = probes.probe(cell, case.params, case.xs, case.carry, mask=mask)
    c = np.array(case.carry[0])
    for t in range(T):
        i, f, g = (np.asarray(record.gates[name])[t] for name in "ifg")
        c = np.where(mask[t][:, None], f * c + i * g, c)
        np.testing.assert_allclose(np.asarray(record.carry[0])[t][mask[t]], c[mask[t]], atol=1e-12)


def test_noise_of_wrappers_reaches_the_step(rng, x64):
    cell = RecurrentDropout(LSTMCell(features=H))
    case = Case(LSTMCell(features=H))
    hold = (rng.random((T, B, H)) < 0.4, None)
    noise = Noise(2.0 * (rng.random((B, H)) < 0.5), hold)
    for reverse in (False, True):
        arguments = {"noise": noise, "mask": jnp.asarray(GAPS), "reverse": reverse}
        record = probes.probe(cell, case.params, case.xs, case.carry, **arguments)
        _, ys = cell.run(case.params, case.carry, case.xs, **arguments)
        np.testing.assert_allclose(record.outputs, ys, atol=1e-12)
    dropped = np.asarray(case.carry[1]) * noise.dropout_h
    recurrent = dropped @ np.asarray(case.params.recurrent_kernel)
    forward = probes.probe(cell, case.params, case.xs, case.carry, noise=noise)
    np.testing.assert_allclose(forward.summed["h"][0], recurrent, atol=1e-12)


def test_saturation_counts_units_beyond_the_thresholds(rng):
    cell = GRUCell(features=H, norm=None)
    case = Case(cell, np.float32)
    params = case.params._replace(kernel=4 * case.params.kernel)
    record = probes.probe(cell, params, case.xs, sigmoid=(0.2, 0.7), tanh=0.5)
    gates = {name: np.asarray(values) for name, values in record.gates.items()}
    expected = {
        "r": ((gates["r"] < 0.2) | (gates["r"] > 0.7)).mean(-1),
        "z": ((gates["z"] < 0.2) | (gates["z"] > 0.7)).mean(-1),
        "n": (abs(gates["n"]) > 0.5).mean(-1),
    }
    assert record.saturation.keys() == expected.keys()
    for name, share in expected.items():
        np.testing.assert_allclose(record.saturation[name], share, atol=1e-6)
        assert 0 < share.mean() < 1


def plain_loss(zeros, cell, params, xs, carry, mask, weights):
    """The loss as a loop, with zeros (T, ...) added to the carry after each step."""
    loss = 0.0
    for t in range(T):
        new, _ = cell.step(params, carry, xs[t])
        real = jnp.asarray(mask[t])[:, None]
        held = [
            jnp.where(real, a, b) + zero[t]
            for a, b, zero in zip(jax.tree.leaves(new), jax.tree.leaves(carry), zeros, strict=True)
        ]
        carry = jax.tree.unflatten(jax.tree.structure(carry), held)
        loss += jnp.sum(jnp.where(real, jnp.sin(held[-1]) * weights[t], 0))
    return loss


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[4], CELLS[5]], ids=name_of)
@pytest.mark.some(1)
def test_gradient_norms_are_those_of_a_plain_loop(cell, rng, x64):
    case = Case(cell)
    weights = rng.normal(size=(T, B, H))

    def loss(ys):
        return jnp.sum(jnp.sin(ys) * weights)

    norms = jax.jit(
        lambda params, xs: probes.gradient_norms(
            cell, params, xs, case.carry, mask=jnp.asarray(GAPS), loss=loss
        )
    )(case.params, case.xs)
    zeros = [jnp.zeros((T, B, H))] * len(cell.carry_names)
    arguments = cell, case.params, case.xs, case.carry, GAPS, weights
    gradients = jax.jit(jax.grad(lambda zeros: plain_loss(zeros, *arguments)))(zeros)
    for name, gradient in zip(cell.carry_names, gradients, strict=True):
        expected = np.linalg.norm(gradient, axis=-1) * GAPS
        np.testing.assert_allclose(norms.norms[name], expected, rtol=1e-9)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(norms.log10[name], np.log10(expected), rtol=1e-9)


def test_gradient_norms_are_differences_of_the_loss(rng, x64):
    cell, t, step = GRUCell(features=H), 1, 1e-5
    case = Case(cell)
    weights = rng.normal(size=(T, B, H))
    arguments = cell, case.params, case.xs, case.carry, np.ones((T, B), bool), weights
    loss = jax.jit(lambda zeros: plain_loss([zeros], *arguments))
    gradient = np.zeros((B, H))
    for index in np.ndindex(B, H):
        offset = np.zeros((T, B, H))
        offset[t][index] = step
        gradient[index] = (loss(offset) - loss(-offset)) / (2 * step)
    norms = probes.gradient_norms(
        cell, case.params, case.xs, case.carry, loss=lambda ys: jnp.sum(jnp.sin(ys) * weights)
    )
    np.testing.assert_allclose(norms.norms["h"][t], np.linalg.norm(gradient, axis=-1), rtol=1e-7)


@pytest.mark.parametrize("gain", [0.25, 4.0])
def test_gradients_are_told_apart_beyond_the_range_of_a_float(gain):
    """Of a linear network with an orthogonal kernel: gain to the power of the steps."""
    steps = 600
    cell = SimpleCell(features=H, norm=None, activation=lambda a: a)
    case = Case(cell, np.float32)
    orthogonal = np.linalg.qr(np.asarray(case.params.recurrent_kernel))[0].astype(np.float32)
    params = case.params._replace(recurrent_kernel=gain * orthogonal, bias=jnp.zeros(H))
    xs, carry = jnp.zeros((steps, B, D)), jnp.zeros((B, H))
    norms = probes.gradient_norms(cell, params, xs, carry)
    expected = np.log10(gain) * np.arange(steps - 1, -1, -1)
    np.testing.assert_allclose(norms.log10["h"][:, 0], expected, rtol=1e-4, atol=1e-5)
    assert norms.norms["h"][0, 0] == (0 if gain < 1 else np.inf)


def test_cells_of_flax_and_functions_are_probed(rng):
    xs = rng.normal(size=(T, B, D)).astype(np.float32)
    for cell in (nn.LSTMCell(H),):
        carry = cell.initialize_carry(jax.random.key(0), xs[0].shape)
        variables = cell.init(jax.random.key(1), carry, xs[0])
        record = probes.probe(cell, variables, xs, mask=jnp.asarray(GAPS))
        rnn = RNN(cell)
        outer = {"params": {"cell": variables["params"]}}
        ys = rnn.apply(outer, xs, mask=GAPS, time_major=True)
        np.testing.assert_allclose(record.outputs, ys, atol=1e-6)
        assert not record.gates and not record.summed

        def function(params, carry, x, cell=cell):
            return cell.apply(params, carry, x)

        weights = rng.normal(size=(T, B, H)).astype(np.float32)
        norms = [
            probes.gradient_norms(
                of, variables, xs, carry, loss=lambda ys, w=weights: (ys * w).sum()
            )
            for of in (cell, function)
        ]
        for name, values in norms[0].norms.items():
            np.testing.assert_allclose(norms[1].norms[name], values, rtol=1e-5)

        # of the hidden state after the last step, which is the output
        last = list(norms[0].norms.values())[-1][-1]
        np.testing.assert_allclose(last, np.linalg.norm(weights[-1], axis=-1), rtol=1e-5)


def test_a_cell_of_ones_own_says_what_is_inside(rng):
    def leaky(params, h, x):
        h = 0.9 * h + jnp.tanh(x @ params)
        return h, h

    def look(params, cell, h, inputs):
        summed = inputs.x @ params
        return probes.Inside({"x": summed}, {}, {"u": jnp.tanh(summed)})

    kernel, xs = rng.normal(size=(D, H)), rng.normal(size=(T, B, D))
    record = probes.probe(leaky, kernel, xs, jnp.zeros((B, H)), look=look)
    np.testing.assert_allclose(record.deviation["x"], (xs @ kernel).std(-1), rtol=1e-5)
    np.testing.assert_allclose(record.gates["u"], np.tanh(xs @ kernel), rtol=1e-4)
    norms = probes.gradient_norms(leaky, kernel, xs, jnp.zeros((B, H))).norms["carry"]
    np.testing.assert_allclose(norms[:, 0], 0.9 ** np.arange(T - 1, -1, -1), rtol=1e-5)


class Tagger(nn.Module):
    @nn.compact
    def __call__(self, xs, lengths):
        def rnn(cell, **arguments):
            return RNN(cell(H, param_dtype=xs.dtype), **arguments)

        layers = [rnn(nn.GRUCell), rnn(GRUCell, reverse=True, keep_order=True)]
        ys = Stack(layers)(nn.Dense(H)(xs), seq_lengths=lengths)
        return nn.Dense(1, use_bias=False)(ys)


def test_layers_of_a_model_are_probed(rng, x64):
    xs, lengths = rng.normal(size=(B, T, D)), jnp.array([5, 3, 0])
    variables = jax.jit(Tagger().init)(jax.random.key(0), xs, lengths)
    params = variables["params"]
    records = jax.jit(lambda v: layer_probes.probe_layers(Tagger(), v, xs, lengths))(variables)
    # As Flax calls the modules, in the order in which they ran (jit sorts them)
    assert list(records) == ["RNN_0", "RNN_1"]
    scores = jax.jit(Tagger().apply)(variables, xs, lengths)
    top = records["RNN_1"].outputs
    np.testing.assert_allclose((top @ params["Dense_1"]["kernel"]).swapaxes(0, 1), scores)
    assert sorted(records["RNN_1"].gates) == ["n", "r", "z"] and not records["RNN_0"].gates

    # The uppermost layer by itself, and the lowest by differences of the whole model
    weights = rng.normal(size=(T, B, 1))

    def loss(scores):
        return jnp.sum(weights.swapaxes(0, 1) * scores)

    norms = jax.jit(
        lambda v: layer_probes.layer_gradient_norms(Tagger(), v, xs, lengths, loss=loss)
    )(variables)
    cell = GRUCell(H, param_dtype=xs.dtype)
    upper = cell.apply({"params": params["GRUCell_1"]}, H, method="parameters")
    mask = records["RNN_0"].real

    def loss_of(ys):
        return jnp.sum(weights * (ys @ params["Dense_1"]["kernel"]))

    below = records["RNN_0"].outputs
    alone = probes.gradient_norms(cell, upper, below, mask=mask, reverse=True, loss=loss_of)
    np.testing.assert_allclose(norms["RNN_1"].norms["h"], alone.norms["h"], rtol=1e-9)
    # The last real state of the lower layer goes nowhere but up
    gradient = jax.grad(lambda xs: loss_of(cell.run(upper, None, xs, mask, reverse=True)[1]))(below)
    for b, t in ((0, 4), (1, 2)):
        expected = np.linalg.norm(gradient[t, b])
        np.testing.assert_allclose(norms["RNN_0"].norms["carry"][t, b], expected, rtol=1e-9)
    assert (np.asarray(norms["RNN_0"].norms["carry"])[:, 2] == 0).all()


def test_masked_means(rng):
    values, real = rng.normal(size=(T, B)), GAPS.copy()
    real[2] = False
    means = probes.mean_over_rows(jnp.where(real, values, np.nan), jnp.asarray(real))
    for t in range(T):
        if real[t].any():
            np.testing.assert_allclose(means[t], values[t][real[t]].mean(), rtol=1e-5)
        else:
            assert np.isnan(means[t])


def test_what_does_not_fit_is_refused():
    cell = GRUCell(features=H)
    case = Case(cell, np.float32)
    with pytest.raises(ValueError, match=r"thresholds 0 <= low < high <= 1"):
        probes.probe(cell, case.params, case.xs, sigmoid=(0.9, 0.1))
    with pytest.raises(ValueError, match=r"mask must be bool .* of shape \(5, 3\)"):
        probes.probe(cell, case.params, case.xs, mask=GAPS.T)
    with pytest.raises(ValueError, match="give `carry`"):
        probes.probe(lambda params, carry, x: (carry, x), None, case.xs)
    with pytest.raises(ValueError, match="noise is for the cells of lnjax"):
        probes.probe(nn.GRUCell(H), {}, case.xs, noise=Noise(jnp.ones((B, H))))
    with pytest.raises(ValueError, match=r"no lnjax\.RNN ran in RNN"):
        flax_rnn = nn.RNN(nn.GRUCell(H))
        variables = flax_rnn.init(jax.random.key(0), case.xs)
        layer_probes.probe_layers(flax_rnn, variables, case.xs)

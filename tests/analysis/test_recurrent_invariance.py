"""Which changes of weights and sequences leave the outputs of a recurrent cell as they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax import analysis
from lnjax.cells import LSTMCell, running
from lnjax.cells.gru import GRUParams, gru
from lnjax.cells.lstm import LSTMParams, lstm
from lnjax.cells.simple_rnn import SimpleParams, simple_rnn
from lnjax.ops import layer_norm, rms_norm
from tests import oracles

COLUMNS = (
    *("recurrent_kernel re-scaling", "recurrent_kernel re-centering"),
    "recurrent_kernel vector re-scaling",
    *("kernel re-scaling", "kernel re-centering", "kernel vector re-scaling"),
    "both kernels re-scaling",
    *("dataset re-scaling", "dataset re-centering", "single case re-scaling"),
)
LAYER = (True, True, False) * 2 + (True, True, False, True)
RMS = (True, False, False) * 2 + (True, True, False, True)
BATCH = (True, False, True) * 2 + (True, True, True, False)
NONE = (False,) * 10
# A norm of the sum of both projections bears a scale of both at once, and no other.
SUM = (False, True, False) * 2 + (True, False, False, False)
SUM_RMS = (False, False, False) * 2 + (True, False, False, False)
EXPECTED = {
    "LSTM, layer norm": LAYER,
    "LSTM, RMS norm": RMS,
    "LSTM, batch norm": BATCH,
    "LSTM, layer norm of the cell": NONE,
    "LSTM, no norm": NONE,
    "GRU, layer norm": LAYER,
    "GRU, RMS norm": RMS,
    "GRU, no norm": NONE,
    "simple RNN, layer norm of the sum": SUM,
    "simple RNN, layer norm of each": LAYER,
    "simple RNN, RMS norm of the sum": SUM_RMS,
    "simple RNN, no norm": NONE,
}


def check(table, row):
    assert table.rows == (row,) and table.columns == COLUMNS
    for column, invariant in zip(COLUMNS, EXPECTED[row], strict=True):
        change = table[row, column]
        assert change <= 1e-12 if invariant else change > 1e-3, (column, change)
    assert table.invariant.tolist() == [list(EXPECTED[row])]


@pytest.mark.parametrize("row", EXPECTED)
@pytest.mark.some(5)
def test_each_cell(x64, row):
    check(analysis.recurrent_invariance_table({row: analysis.recurrent_cells()[row]}), row)


def test_every_default_cell_has_a_row():
    assert tuple(analysis.recurrent_cells()) == tuple(EXPECTED)


@pytest.mark.parametrize(
    "row",
    ["LSTM, layer norm", "GRU, layer norm", "GRU, RMS norm", "simple RNN, layer norm of each"],
)
def test_the_fast_path(x64, row, monkeypatch):
    taken = []

    def run_chunked(*arguments, **options):
        taken.append(row)
        return original(*arguments, **options)

    original = running.run_chunked
    monkeypatch.setattr(running, "run_chunked", run_chunked)
    cells = {row: analysis.recurrent_cells()[row]}
    check(analysis.recurrent_invariance_table(cells, implementation="chunked"), row)
    assert taken


def test_a_change_is_that_of_numpy_loops(x64):
    # what the table drew is found in what its cell is run with
    seen = {}

    class Seen(LSTMCell):
        def run(self, params, carry, xs, **options):
            seen.setdefault("first", (params, carry, xs))
            return super().run(params, carry, xs, **options)

    with jax.disable_jit():
        table = analysis.recurrent_invariance_table({"row": Seen(3, epsilon=1e-5)}, steps=1)
    params, carry, xs = jax.tree.map(np.asarray, seen["first"])

    def outputs(**changes):
        p = params._replace(**changes)._asdict()
        (c, h), ys = oracles.lstm(p, xs, carry, epsilon=1e-5)
        return np.concatenate([c, h, *ys])

    moved = outputs(recurrent_kernel=3.7 * params.recurrent_kernel)
    expected = abs(moved - outputs()).max()
    assert 1e-6 < expected < 1e-2
    np.testing.assert_allclose(table["row", "recurrent_kernel re-scaling"], expected, rtol=1e-9)


PURE = {
    "lstm": (lstm, LSTMParams, 4),
    "gru": (gru, GRUParams, 3),
    "simple_rnn": (partial(simple_rnn, sites=("recurrent", "input")), SimpleParams, 1),
}


@pytest.mark.parametrize("name", PURE)
@pytest.mark.some(1)
def test_the_pure_functions_can_be_measured(rng, x64, name):
    """And one vector for all units will do for a GRU, too; one for each gate is too many."""
    function, kind, gates = PURE[name]
    width, features = 4, 5

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    params = kind(
        kernel=draw(width, gates * features),
        recurrent_kernel=draw(features, gates * features),
        bias=draw(gates * features),
        scale_x=draw(gates * features),
        scale_h=draw(gates * features),
        **({"bias_h": draw(features)} if kind is GRUParams else {}),
        **({"scale_c": draw(features), "bias_c": draw(features)} if kind is LSTMParams else {}),
    )
    carry = (draw(3, features), draw(3, features)) if kind is LSTMParams else draw(3, features)
    run = jax.jit(partial(function, carry=carry, epsilon=0.0))

    def change(gamma, blocks=None):
        shift = partial(analysis.recenter_weight_matrix, gamma=gamma, blocks=blocks)
        t = analysis.Transformation("shift", shift, ("recurrent_kernel",))
        return analysis.measure(run, params, draw(6, 3, width), t)

    assert change(draw(features)) < 1e-12
    if gates > 1:
        assert change(draw(features, gates), (features,) * gates) > 1e-3


def test_a_zero_carry_is_not_defined_without_epsilon(x64):
    zeros = jnp.zeros((1, 4))
    assert jnp.isnan(layer_norm(zeros, epsilon=0.0)).all()
    assert jnp.isnan(rms_norm(zeros, epsilon=0.0)).all()
    cells = {"LSTM": LSTMCell(8, epsilon=0.0)}
    with pytest.raises(ValueError, match=r"LSTM are not finite before.*a zero carry"):
        analysis.recurrent_invariance_table(cells, carry="zeros")
    table = analysis.recurrent_invariance_table({"LSTM": LSTMCell(8)}, carry="zeros")
    # with epsilon it is, and re-scaling is invariant to what epsilon is against the variance
    assert table["LSTM", "recurrent_kernel re-centering"] < 1e-12
    assert 1e-12 < table["LSTM", "recurrent_kernel re-scaling"] < 1e-2


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"cells": {}}, ValueError, "cells is empty"),
        ({"cells": LSTMCell(8)}, TypeError, "cells must map names"),
        ({"cells": {"mine": lstm}}, TypeError, r"cells\['mine'\] must be a cell of lnjax"),
        ({"cells": {"mine": LSTMCell(8)}, "epsilon": 1e-5}, ValueError, "have their own"),
        ({"epsilon": -1.0}, ValueError, "epsilon=-1.0"),
        ({"carry": "zero"}, ValueError, "carry='zero'"),
        ({"steps": 0}, ValueError, "steps=0"),
        ({"delta": 1.0}, ValueError, "delta=1.0"),
        ({"implementation": "fast"}, ValueError, "implementation='fast'"),
    ],
)
def test_wrong_input_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        analysis.recurrent_invariance_table(**arguments)

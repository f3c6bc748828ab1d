"""Table 1 of the paper and its extensions: against what the mathematics says, and NumPy loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax import analysis
from lnjax.analysis.epsilon import expected_change
from lnjax.analysis.plots import invariance as plots
from lnjax.cells import LSTMParams
from lnjax.nn import Conv, Dense
from lnjax.ops import layer_norm
from tests import norm_oracles, oracles

COLUMNS = (
    "weight matrix re-scaling",
    "weight matrix re-centering",
    "weight vector re-scaling",
    "dataset re-scaling",
    "dataset re-centering",
    "single case re-scaling",
)
# The first three are the paper's Table 1. In the rest: a mean over positions does not take away
# gamma . x, which differs between them; that of a unit over positions takes away a shift of data.
EXPECTED = {
    "batch norm": (True, False, True, True, True, False),
    "weight norm": (True, False, True, False, False, False),
    "layer norm": (True, True, False, True, False, True),
    "RMS norm": (True, False, False, True, False, True),
    "group norm": (True, True, False, True, False, True),
    "instance norm": (True, False, True, True, True, True),
    "layer norm (image)": (True, False, False, True, False, True),
    "group norm (image)": (True, False, False, True, False, True),
    "no norm": (False, False, False, False, False, False),
}


def check(table, expected, invariant=1e-12, changed=1e-3):
    assert table.rows == tuple(expected)
    for row, changes in zip(expected.values(), table.change, strict=True):
        assert all(
            change <= invariant if same else change > changed
            for same, change in zip(row, changes, strict=True)
        ), table
    np.testing.assert_array_equal(table.invariant, list(expected.values()))


def test_the_extended_table_1(x64):
    table = analysis.invariance_table()
    check(table, EXPECTED)
    assert table.columns == COLUMNS and table.tolerance == 1e-12
    assert {row: EXPECTED[row] for row in analysis.TABLE_1} == dict(analysis.TABLE_1)


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("delta", [1e-3, 0.5, 1e3])
def test_it_holds_for_other_weights_data_and_scales(x64, seed, delta):
    check(analysis.invariance_table(delta=delta, seed=seed), EXPECTED)


def test_in_float32_with_its_own_tolerance():
    rows = {row: analysis.normalizers()[row] for row in analysis.TABLE_1}
    table = analysis.invariance_table(rows)
    check(table, analysis.TABLE_1, invariant=1e-5)
    assert table.tolerance == 1e-5


def numpy_normalizers(epsilon):
    def rows(norm, summed):
        return np.array([[norm(row) for row in case] for case in summed])

    def groups(row):
        return np.concatenate([norm_oracles.standardize(g, epsilon) for g in np.split(row, 2)])

    return {
        "batch norm": lambda w, x: norm_oracles.batch_norm(x @ w, epsilon=epsilon),
        "weight norm": lambda w, x: x @ norm_oracles.weight_norm(w, epsilon=epsilon),
        "layer norm": lambda w, x: oracles.layer_norm(x @ w, epsilon=epsilon),
        "RMS norm": lambda w, x: rows(lambda r: oracles.rms_norm(r, epsilon=epsilon), x @ w),
        "group norm": lambda w, x: rows(groups, x @ w),
        "instance norm": lambda w, x: norm_oracles.group_norm(
            x @ w, num_groups=w.shape[1], epsilon=epsilon
        ),
        "layer norm (image)": lambda w, x: oracles.layer_norm(x @ w, axis=(1, 2), epsilon=epsilon),
        "group norm (image)": lambda w, x: norm_oracles.group_norm(
            x @ w, num_groups=2, epsilon=epsilon
        ),
        "no norm": lambda w, x: x @ w,
    }


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_each_change_is_that_of_numpy_loops(rng, x64, epsilon):
    delta, kernel, xs = 2.5, rng.normal(size=(3, 8)), rng.normal(0.3, 1, size=(4, 5, 3))
    table = analysis.invariance_table(epsilon=epsilon, delta=delta, kernel=kernel, xs=xs, seed=5)
    drawn = np.random.default_rng(5)
    gamma, shift = drawn.normal(size=3), drawn.normal(size=3)
    one_unit, one_case = kernel.copy(), xs.copy()
    one_unit[:, 0] *= delta
    one_case[0] *= delta
    changed = [
        (delta * kernel, xs),
        (kernel + np.outer(gamma, np.ones(8)), xs),
        (one_unit, xs),
        (kernel, delta * xs),
        (kernel, xs + shift),
        (kernel, one_case),
    ]
    for row, normalize in numpy_normalizers(epsilon).items():
        before = normalize(kernel, xs)
        for column, (moved_kernel, moved_xs) in zip(COLUMNS, changed, strict=True):
            expected = abs(normalize(moved_kernel, moved_xs) - before).max()
            assert abs(table[row, column] - expected) < 1e-12 * max(1, expected), (row, column)


# The transformations, and any model.


def test_the_six_functions(rng):
    kernel = rng.normal(size=(3, 2, 5)).astype(np.float32)  # of a convolution
    gamma = rng.normal(size=(3, 2)).astype(np.float32)
    xs = rng.normal(size=(4, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(analysis.rescale_weight_matrix(kernel, 3.0), 3 * kernel)
    centered = np.asarray(analysis.recenter_weight_matrix(kernel, gamma))
    one = np.asarray(analysis.rescale_weight_vector(kernel, 4, 3.0))
    for unit in range(5):
        np.testing.assert_array_equal(centered[..., unit], kernel[..., unit] + gamma)
        np.testing.assert_array_equal(one[..., unit], kernel[..., unit] * (3 if unit == 4 else 1))
    np.testing.assert_array_equal(analysis.rescale_dataset(xs, 3.0), 3 * xs)
    shifted = np.asarray(analysis.recenter_dataset(xs, gamma[0]))
    case = np.asarray(analysis.rescale_case(xs, 2, 3.0))
    for n in range(4):
        np.testing.assert_array_equal(shifted[n, 1], xs[n, 1] + gamma[0])
        np.testing.assert_array_equal(case[n], xs[n] * (3 if n == 2 else 1))
    for changed in (one, centered, shifted, case):
        assert changed.dtype == np.float32


def test_a_vector_for_each_block_of_units():
    kernel, gamma = jnp.zeros((2, 6)), jnp.array([[1.0, 10.0], [2.0, 20.0]])
    shifted = analysis.recenter_weight_matrix(kernel, gamma, blocks=(4, 2))
    assert shifted.tolist() == [[1, 1, 1, 1, 10, 10], [2, 2, 2, 2, 20, 20]]


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: analysis.recenter_weight_matrix(jnp.ones((2, 3)), jnp.ones(3)), r"needs \(2,\)"),
        (
            lambda: analysis.recenter_weight_matrix(jnp.ones((2, 3)), jnp.ones((2, 2)), (1, 1)),
            "add up to the 3 units",
        ),
        (lambda: analysis.rescale_weight_vector(jnp.ones((2, 3)), 3, 2.0), "unit=3"),
        (lambda: analysis.rescale_case(jnp.ones((2, 3)), 2, 2.0), "case=2"),
        (lambda: analysis.recenter_dataset(jnp.ones((2, 3)), jnp.ones(2)), r"need \(3,\)"),
        (lambda: analysis.transformations(jnp.ones((2, 3)), jnp.ones((2, 2)), delta=1.0), "not 1"),
    ],
)
def test_transformations_refuse_what_does_not_fit(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_leaf_is_found_by_its_name():
    cell = LSTMParams(jnp.ones(1), jnp.ones(2), jnp.ones(3))
    tree = {"cells": [cell, cell], "out": {"kernel": jnp.ones(4)}}
    changed = analysis.change_leaf(tree, "cells/1/kernel", jnp.negative)
    signs = [float(leaf.min()) for leaf in jax.tree.leaves(changed)]
    assert signs == [1, 1, 1, -1, 1, 1, 1]
    # a name is a whole one: "recurrent_kernel" ends with "kernel"
    assert analysis.change_leaf(cell, "kernel", jnp.negative).recurrent_kernel.min() == 1
    with pytest.raises(ValueError, match=r"3 leaves named 'kernel'.*cells/0/kernel.*out/kernel"):
        analysis.change_leaf(tree, "kernel", jnp.negative)
    with pytest.raises(ValueError, match="no leaf named 'scale'"):
        analysis.change_leaf(tree, "scale", jnp.negative)


LAYERS = {
    "batch norm": ("batch", Dense),
    "weight norm": ("weight", Dense),
    "layer norm": ("layer", Dense),
    "RMS norm": ("rms", Dense),
    "group norm": ("group", Dense),
    "no norm": (None, Dense),
    "instance norm": ("instance", Conv),
    "layer norm (image)": ("layer", Conv),
    "group norm (image)": ("group", Conv),
}


@pytest.mark.parametrize("row", LAYERS)
@pytest.mark.some(4)
def test_the_layers_have_the_invariances_of_the_functions(rng, x64, row):
    norm, layer = LAYERS[row]
    options = {"epsilon": 0.0, "param_dtype": jnp.float64}
    options |= {"num_groups": 2} if norm == "group" else {}
    # after the norm, gain and bias change nothing about it
    options |= {"bias_init": jax.nn.initializers.normal(1.0, jnp.float64)}
    options |= {"kernel_size": 1} if layer is Conv else {}
    layer = layer(features=16, norm=norm, **options)
    xs = jnp.asarray(rng.normal(0.5, 1, size=(8, 5, 6)))
    state = layer.init(jax.random.key(0), xs, use_running_average=False)

    def model(variables, xs):
        return layer.apply(variables, xs, use_running_average=False, mutable=["batch_stats"])[0]

    kernel = state["params"]["kernel"]
    for t, invariant in zip(analysis.transformations(kernel, xs), EXPECTED[row], strict=True):
        change = analysis.measure(model, state, xs, t)
        assert change <= 1e-12 if invariant else change > 1e-3, t.name


def test_outputs_that_become_infinite_are_no_invariance():
    def model(kernel, xs):
        return {"small": xs, "large": jnp.where(kernel > 1, jnp.nan, kernel)}

    double = analysis.Transformation("twice", lambda kernel: 2 * kernel, ("kernel",))
    change = analysis.measure(
        lambda params, xs: model(params["kernel"], xs), {"kernel": jnp.ones(3)}, jnp.ones(2), double
    )
    assert change == math.inf
    with pytest.raises(ValueError, match="not finite before anything was changed"):
        analysis.measure(lambda p, xs: xs / 0, {"kernel": jnp.ones(3)}, jnp.ones(2), double)
    with pytest.raises(ValueError, match="are none"):
        analysis.measure(lambda p, xs: None, {"kernel": jnp.ones(3)}, jnp.ones(2), double)
    with pytest.raises(ValueError, match=r"twice: outputs of shapes \[\(1,\)\] became \[\(2,\)\]"):
        analysis.measure(
            lambda p, xs: jnp.ones(int(p["kernel"])), {"kernel": jnp.ones(())}, jnp.ones(2), double
        )


def test_a_normalizer_of_ones_own():
    # no mean, no scale: the sign of a summed input survives every positive factor
    table = analysis.invariance_table({"sign": lambda kernel, xs: jnp.sign(xs @ kernel)})
    assert table.rows == ("sign",) and table.invariant.tolist() == [[1, 0, 1, 1, 0, 1]]


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"normalizers": [layer_norm]}, TypeError, "map names.*got list"),
        ({"normalizers": {}}, ValueError, "empty"),
        ({"normalizers": {"mine": 3}}, TypeError, r"normalizers\['mine'\] must be a function"),
        (
            {"normalizers": analysis.normalizers(), "epsilon": 1e-5},
            ValueError,
            r"normalizers\(epsilon\)",
        ),
        ({"epsilon": -1.0}, ValueError, "epsilon=-1.0"),
        ({"epsilon": math.nan}, ValueError, "epsilon=nan"),
        ({"delta": 1.0}, ValueError, "delta=1.0"),
        ({"delta": -2.0}, ValueError, "delta=-2.0"),
        ({"tolerance": -1.0}, ValueError, "tolerance=-1.0"),
        ({"kernel": np.ones((3, 4), int)}, TypeError, "kernel must be floating point"),
        ({"xs": np.ones((8, 6))}, ValueError, r"xs \(8, 6\) must be"),
        ({"kernel": np.ones((3, 4)), "xs": np.ones((2, 5, 4))}, ValueError, "same D"),
        (
            {"kernel": jnp.ones((3, 4), jnp.bfloat16), "xs": jnp.ones((2, 5, 3), jnp.bfloat16)},
            ValueError,
            "bfloat16 has no tolerance",
        ),
        ({"kernel": np.zeros((6, 4))}, ValueError, "outputs of batch norm are not finite before"),
    ],
)
def test_wrong_input_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        analysis.invariance_table(**arguments)


# Epsilon.


def test_with_epsilon_only_re_centering_stays_exact(x64):
    table = analysis.invariance_table(epsilon=1e-5)
    for row, expected in EXPECTED.items():
        for column, invariant in zip(COLUMNS, expected, strict=True):
            if invariant:
                exact = column.endswith("re-centering")
                change = table[row, column]
                assert change <= 1e-12 if exact else 1e-12 < change < 1e-3, (row, column)


@pytest.mark.parametrize("delta", [0.1, 3.7])
def test_what_epsilon_does_is_what_the_formula_says(rng, x64, delta):
    sweep = analysis.epsilon_sweep(delta=delta)
    assert sweep.change.shape == (3, 9)
    assert (sweep.change[0] < 1e-12).all() and (sweep.exact[0] == 0).all()
    np.testing.assert_allclose(sweep.change, sweep.exact, rtol=1e-10, atol=1e-13)
    # the first order, where epsilon is small against both variances
    ratio = np.array(sweep.epsilons)[:, None] / np.array(sweep.variances) * max(1, delta**-2)
    small = (ratio > 0) & (ratio < 1e-3)
    assert small.sum() >= 2
    np.testing.assert_allclose(sweep.change[small], sweep.first_order[small], rtol=2e-3)
    # and from the definition, for one row of any numbers
    row = rng.normal(size=240)
    row = 0.1 * (row - row.mean()) / row.std()
    direct = [row * s / np.sqrt((row * s).var() + 1e-3) for s in (1.0, delta)]
    change = abs(direct[0] - direct[1]).max() / (abs(row).max() / row.std())
    np.testing.assert_allclose(change, expected_change(1e-3, 0.01, delta), rtol=1e-10)


def test_epsilon_in_the_summed_inputs_of_the_first_steps():
    # unit variance, 240 units, largest |a_bar| 3: re-scaled by 0.1, 0.01, 0.001
    changes = [3.0 * float(expected_change(1e-5, 1.0, delta)) for delta in (0.1, 0.01, 0.001)]
    np.testing.assert_allclose(changes, [1.5e-3, 0.14, 2.1], rtol=0.02)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"epsilons": [-1e-5]}, "epsilon=-1e-05"),
        ({"epsilons": []}, "expected some"),
        ({"variances": [0.0]}, "above 0"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"features": 1}, "features=1"),
    ],
)
def test_a_sweep_of_nothing_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        analysis.epsilon_sweep(**arguments)


# How a table prints, and is drawn.


def test_a_table_prints():
    table = analysis.InvarianceTable(("a", "b"), ("some re-scaling",), np.array([[0.0], [2]]), 1e-9)
    assert str(table).splitlines()[:3] == [
        "   some re-scaling",
        "a  Invariant 0",
        "b  No 2",
    ]
    assert table._repr_markdown_().splitlines()[2:4] == ["| a | **Invariant 0** |", "| b | No 2 |"]
    assert "1e-09" in str(table) and "1 columns" in repr(table)
    assert table["b", "some re-scaling"] == 2.0
    with pytest.raises(KeyError, match="no row 'c'"):
        table["c", "some re-scaling"]
    sweep = analysis.epsilon_sweep(epsilons=[0.0, 1e-3], variances=[1.0])
    assert "first order, 0.001" in sweep._repr_markdown_() and "re-scaled by 3.7" in str(sweep)


def test_a_table_is_drawn_as_it_is_and_differences_from_the_paper_are_crossed_out():
    change = np.full((2, 6), 1e-15)
    change[0] = [0, 1, 0, 0, 0, 1]  # batch norm as in the paper
    change[1] = [0, 1, 0, 0, 1, 1]  # weight norm as in the paper's text: data may be re-scaled
    table = analysis.InvarianceTable(("batch norm", "weight norm"), COLUMNS, change, 1e-12)
    figure = plots.invariance(table, analysis.epsilon_sweep(variances=[1.0, 2.0]))
    grid, curves, _ = figure.axes
    words = [text.get_text() for text in grid.texts]
    assert words.count("Invariant") == 7 and words.count("No") == 5
    assert len(grid.patches) == 12
    ((crossed,),) = [[line.get_xdata().mean() for line in grid.lines]]
    assert COLUMNS[int(crossed)] == "dataset re-scaling"
    assert curves.get_xscale() == curves.get_yscale() == "log"

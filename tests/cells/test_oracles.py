"""Every cell, in every form that it has, against plain NumPy loops over the paper's equations."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.cells import GRUCell, LSTMCell, Noise, SimpleCell
from tests import oracles
from tests.cells.cases import GAPS, B, Case, H, T, inner_product, largest_error, name_of

SUBSETS = [
    (*front, *cell)
    for front in [(), ("recurrent",), ("input",), ("recurrent", "input")]
    for cell in [(), ("cell",), ("carried_cell",)]
    if front or cell
]
MAIN = [cell(H, norm=norm) for cell in (LSTMCell, GRUCell, SimpleCell) for norm in ("layer", "rms")]
PLAIN = [cell(H, norm=None) for cell in (LSTMCell, GRUCell, SimpleCell)]
CARRIED = LSTMCell(H, norm="rms", sites=("recurrent", "input", "carried_cell"))
APART = SimpleCell(H, sites=("recurrent", "input"))
SITES = [LSTMCell(H, sites=sites) for sites in SUBSETS if sites != LSTMCell.sites]
SITES += [CARRIED, APART, APART.clone(norm="rms")]
SITES += [SimpleCell(H, sites=(site,)) for site in ("recurrent", "input")]


def over(*cells):
    return pytest.mark.parametrize("cell", cells, ids=name_of)


@over(*MAIN, *PLAIN, *SITES)
def test_equals_the_oracle_in_float64(cell, x64):
    case = Case(cell)
    assert largest_error(case.run(), case.expected()) < 1e-10


@over(*MAIN, *PLAIN, CARRIED, APART)
def test_equals_the_oracle_in_float32(cell):
    case = Case(cell, np.float32)
    assert largest_error(case.run(GAPS), case.expected(GAPS)) < 1e-5


@over(*MAIN)
def test_epsilon_and_a_zero_carry_are_those_of_the_oracle(cell, x64):
    # With h = 0 the recurrent norm sees a row of variance 0 at the first step.
    case = Case(cell.clone(epsilon=0.3))
    case.carry = jax.tree.map(np.zeros_like, case.carry)
    assert largest_error(case.run(), case.expected(epsilon=0.3)) < 1e-10


@pytest.mark.parametrize(
    "cell, mask, reverse, start",
    [(cell, GAPS, False, "random") for cell in (*MAIN, PLAIN[0], PLAIN[1], CARRIED, APART)]
    + [(cell, None, True, "zero") for cell in MAIN[::2]],
    ids=lambda value: name_of(value) if hasattr(value, "norm") else "",
)
@pytest.mark.some(6)
def test_gradients_equal_differences_of_the_oracle(cell, mask, reverse, start, x64):
    case = Case(cell)
    if start == "zero":
        case.carry = jax.tree.map(np.zeros_like, case.carry)
    outputs, gradients = case.pull(mask, reverse=reverse)
    assert largest_error(outputs, case.expected(mask, reverse=reverse)) < 1e-10
    # At a zero carry the recurrent norm bends within the root of epsilon.
    h = 1e-5 if start == "zero" else 1e-4
    assert_gradients(case, gradients, h, mask=mask, reverse=reverse)


def assert_gradients(case, gradients, h, **options):
    """Against differences of the oracle along one direction for each array.

    A random direction has a share of every entry.
    """
    names, toward = ("params", "carry", "xs"), Case(case.cell, seed=1)
    point, directions = ([getattr(at, name) for name in names] for at in (case, toward))
    leaves, structure = jax.tree.flatten(point)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(point)]
    triples = zip(paths, jax.tree.leaves(gradients), jax.tree.leaves(directions), strict=True)
    for n, (path, gradient, direction) in enumerate(triples):

        def along(s, n=n, direction=direction):
            moved = structure.unflatten([*leaves[:n], leaves[n] + s * direction, *leaves[n + 1 :]])
            outputs = case.expected(**dict(zip(names, moved, strict=True)), **options)
            return inner_product(outputs, case.cotangents)

        expected = oracles.numerical_gradients(along, {"s": 0.0}, h=h)["s"]
        got = np.vdot(gradient, direction)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8, err_msg=path)


@cache
def compiled_derivatives(cell):
    """Gradient, and Hessian times direction by forward over reverse and by reverse over reverse."""

    def derivatives(point, direction, mask, cotangents):
        def value(point):
            return inner_product(cell.run(*point, mask), cotangents)

        gradient, forward = jax.jvp(jax.grad(value), (point,), (direction,))
        reverse = jax.grad(lambda point: inner_product(jax.grad(value)(point), direction))(point)
        return gradient, forward, reverse

    return jax.jit(derivatives)


@over(*MAIN[::2], APART.clone(norm="rms"))
@pytest.mark.some(2)
def test_second_derivatives_equal_differences_of_gradients(cell, x64):
    case, toward = Case(cell), Case(cell, seed=1)
    point = case.params, case.carry, case.xs
    direction = toward.params, toward.carry, toward.xs

    def at(s):
        moved = jax.tree.map(lambda leaf, towards: leaf + s * towards, point, direction)
        return compiled_derivatives(cell)(moved, direction, GAPS, case.cotangents)

    _, forward, reverse = at(0.0)
    h = 1e-4
    near, far = ([at(sign * k * h)[0] for sign in (1, -1)] for k in (1, 2))
    expected = jax.tree.map(lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * h), *near, *far)
    assert largest_error(forward, expected) < 1e-6
    assert largest_error(reverse, forward) < 1e-10


def rounded_to(dtype):
    return lambda a: np.asarray(np.asarray(a, np.float32).astype(dtype), np.float64)


@over(*MAIN[::2], *PLAIN)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_in_half_precision_only_products_and_outputs_are_rounded(cell, dtype):
    case = Case(cell.clone(dtype=dtype), np.float32)
    case.xs = case.xs.astype(dtype)
    # In chunks it is a centred kernel that is rounded: as near to the exact result (test_chunked),
    # but not the oracle's rounding.
    carry, ys = case.run(implementation="scan")
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
    assert ys.dtype == dtype
    expected, expected_ys = case.expected(rounded=rounded_to(dtype))
    assert largest_error(carry, expected) < 1e-5
    half_a_unit = jnp.finfo(dtype).eps / 2
    np.testing.assert_allclose(
        np.asarray(ys, np.float64), expected_ys, rtol=1.01 * half_a_unit, atol=1e-5
    )


def noise(cell):
    """Dropout of h, and holds of two kinds; c and h apart, if the cell has both."""
    rng = np.random.default_rng(2)
    dropout_h = rng.choice([0.0, 1.6], (B, H))
    held, shares = rng.random((T, B, H)) < 0.4, rng.random((T, 1, H))
    if len(cell.carry_names) == 1:
        return dropout_h, (held,), (shares,)
    return dropout_h, (held, shares), (shares, None)


@over(*MAIN[::2])
def test_dropout_and_holds_are_those_of_the_oracle(cell, x64):
    case, (dropout_h, hold, other) = Case(cell), noise(cell)
    quiet = case.expected(GAPS)
    for only in (Noise(dropout_h), Noise(hold=other)):
        expected = case.expected(GAPS, only)
        assert largest_error(case.run(GAPS, only), expected) < 1e-10
        assert largest_error(quiet, expected) > 1e-2
    both = Noise(dropout_h, tuple(share[:1] for share in hold))
    carry, ys = case.expected(noise=both, xs=case.xs[:1])
    got = jax.jit(cell.step)(case.params, case.carry, case.xs[0], both)
    assert largest_error(got, (carry, ys[0])) < 1e-10


@over(*MAIN[::2])
def test_outputs_and_gradients_of_a_reversed_run_with_noise_are_those_of_the_oracle(cell, x64):
    case, (dropout_h, hold, _) = Case(cell), noise(cell)
    options = {"mask": GAPS, "noise": Noise(dropout_h, hold), "reverse": True}
    outputs, gradients = case.pull(**options)
    assert largest_error(outputs, case.expected(**options)) < 1e-10
    assert_gradients(case, gradients, 1e-4, **options)


# The columns that share a norm, in units of H.
JOINTLY = {LSTMCell: [4], GRUCell: [2, 1], SimpleCell: [1]}


@over(*MAIN, APART)
def test_incoming_weights_may_be_scaled_and_layer_norm_lets_them_be_shifted(cell, x64):
    # W -> d W + 1 gamma^T: one d > 0 and one shift gamma of all units that are normalized together.
    # Where the sum of two projections is normalized the two share the d.
    cell = cell.clone(epsilon=0.0)
    case, rng = Case(cell), np.random.default_rng(3)
    once = case.run()
    widths = [units * H for units in JOINTLY[type(cell)]]
    d = {name: rng.uniform(0.5, 3, len(widths)) for name in ("kernel", "recurrent_kernel")}
    if getattr(cell, "sites", ()) == ("sum",):
        d["recurrent_kernel"] = d["kernel"]

    for name in d:
        kernel = getattr(case.params, name)
        scaled = kernel * np.repeat(d[name], widths)
        gamma = rng.normal(size=(len(kernel), len(widths)))
        d[name] = scaled, scaled + np.repeat(gamma, widths, axis=1)
    scaled, shifted = (
        case.run(params=case.params._replace(**{name: both[n] for name, both in d.items()}))
        for n in range(2)
    )
    assert largest_error(scaled, once) < 1e-10
    assert (largest_error(shifted, once) < 1e-10) == (cell.norm == "layer")

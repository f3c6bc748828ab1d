"""Random cases of a cell, whichever it is, and what the oracles say about them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.cells import GRUCell, LSTMCell, SimpleCell
from lnjax.cells.running import NO_NOISE
from tests import oracles

T, B, D, H = 5, 3, 2, 4  # all different
# A full row, one with gaps, an empty one.
GAPS = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool).T  # (T, B)
ORACLES = {LSTMCell: oracles.lstm, GRUCell: oracles.gru, SimpleCell: oracles.simple_rnn}


class Case:
    """Random parameters, inputs, initial carry, and cotangents of the final carry and outputs.

    Nothing has a value (a gain of 1, a bias or a state of 0) that could hide its absence.
    """

    def __init__(self, cell, dtype=np.float64, seed=0):
        self.cell = cell
        drawn = draw(cell, dtype, seed, jax.config.jax_enable_x64)
        self.variables, self.params, self.carry, self.xs, self.cotangents = drawn

    def run(self, mask=None, noise=NO_NOISE, **changes):
        """Final carry and outputs of the cell, compiled."""
        point = {"params": self.params, "carry": self.carry, "xs": self.xs}
        return compiled(self.cell)(**(point | changes), mask=mask, noise=noise)

    def pull(self, mask=None, noise=NO_NOISE, reverse=False):
        """Final carry and outputs, and the gradients to params, carry and xs."""
        arguments = self.params, self.carry, self.xs, mask, noise, self.cotangents
        return compiled_pullback(self.cell, reverse)(*arguments)

    def expected(self, mask=None, noise=NO_NOISE, **changes):
        """Final carry and outputs of the oracle."""
        point = {"params": self.params, "carry": self.carry, "xs": self.xs, "epsilon": 1e-5}
        return oracle(self.cell, mask=mask, **noise._asdict(), **(point | changes))


@cache
def draw(cell, dtype, seed, x64):
    """What a case holds, traced and drawn but once; the arrays refuse to be written to."""
    rng = np.random.default_rng(seed)

    def noise(leaf):
        return frozen(rng.normal(0.2, 0.7, leaf.shape).astype(dtype))

    def variable(path, leaf):
        positive = path[-1].key.startswith(("var_", "count"))
        return frozen(abs(noise(leaf)) + dtype(0.3)) if positive else noise(leaf)

    carry = jax.eval_shape(lambda: cell.initialize_carry(jax.random.key(0), (B, D)))
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, method="parameters"))
    variables = jax.tree_util.tree_map_with_path(variable, shapes)
    params = cell.apply(variables, D, method="parameters")
    carry = jax.tree.map(noise, carry)
    xs = frozen(rng.normal(size=(T, B, D)).astype(dtype))
    return variables, params, carry, xs, (jax.tree.map(noise, carry), noise(np.empty((T, B, H))))


def frozen(array):
    array.setflags(write=False)
    return array


def name_of(cell):
    """An id for a test: the cell, its norm, and the sites of the norm."""
    norm = getattr(cell, "norm", "batch") or "plain"
    sites = "" if norm == "plain" else "+".join(getattr(cell, "sites", ()))
    return "-".join(filter(None, (type(cell).__name__, norm, sites)))


def oracle(cell, params, **arguments):
    choices = {name: getattr(cell, name) for name in ("norm", "sites") if hasattr(cell, name)}
    return ORACLES[type(cell)](as_dict(params), **choices, **arguments)


def as_dict(params):
    return {name: leaf for name, leaf in params._asdict().items() if leaf is not None}


@cache
def compiled(cell):
    """One compiled `run` for each cell, so that equal shapes compile once for all tests."""
    return jax.jit(cell.run, static_argnames=("reverse", "unroll", "implementation"))


@cache
def compiled_pullback(cell, reverse):
    def pullback(params, carry, xs, mask, noise, cotangents):
        def run(params, carry, xs):
            return cell.run(params, carry, xs, mask, noise, reverse=reverse)

        primals, vjp = jax.vjp(run, params, carry, xs)
        return primals, vjp(cotangents)

    return jax.jit(pullback)


def inner_product(one, other):
    return sum(jnp.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def largest_error(got, expected):
    """Over all leaves the largest error of an entry, in units of the leaf's largest (or of 1)."""

    def error(got, expected):
        got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        assert got.shape == expected.shape
        return np.abs(got - expected).max() / max(1.0, np.abs(expected).max())

    return max(jax.tree.leaves(jax.tree.map(error, got, expected)))

"""What the tests of sequence layers share: random cases, compiled calls, and the law of masks."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.trees import assert_close

B, T, D, H = 4, 5, 3, 4
LAW_B, LAW_T = 3, 3  # for the law of masks, which compiles once for each number of steps
LENGTHS = np.array([5, 1, 3, 2])  # none is 0: there Flax differs, see the tests of its defects

few_examples = settings(
    deadline=None,
    derandomize=True,
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def random_variables(layer, xs, seed=0):
    """Parameters that hide nothing by being zero or one."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), xs)
    return jax.tree.map(lambda a: rng.normal(0.1, 0.5, a.shape).astype(np.float32), shapes)


def random_like(tree, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), tree)


def random_carry(cell, seed=1):
    return random_like(cell.initialize_carry(jax.random.key(0), (B, D)), seed)


@cache
def compiled(layer):
    """One compiled `apply` for each layer, so that equal calls compile once for all tests."""
    return jax.jit(layer.apply)


def apply(layer, variables, xs, **arrays):
    return compiled(layer)(variables, xs, **arrays)


def from_lengths(lengths):
    return np.arange(T) < np.asarray(lengths)[:, None]


@st.composite
def masks(draw):
    """(B, T) masks; rows of a front and rows with gaps, empty and full ones among them."""
    front = st.integers(0, LAW_T).map(lambda n: [True] * n + [False] * (LAW_T - n))
    gaps = st.lists(st.booleans(), min_size=LAW_T, max_size=LAW_T)
    rows = st.lists(st.one_of(front, gaps), min_size=LAW_B, max_size=LAW_B)
    return np.array(draw(rows), bool)


@cache
def _compiled_pullback(layer):
    def pullback(variables, carry, xs, mask, cotangents):
        def run(variables, carry, xs):
            return layer.apply(variables, xs, initial_carry=carry, mask=mask, return_carry=True)

        results, vjp = jax.vjp(run, variables, carry, xs)
        return results, vjp(cotangents)

    return jax.jit(pullback)


@cache
def _case(layer):
    xs = np.random.default_rng(0).normal(size=(LAW_B, LAW_T, D)).astype(np.float32)
    variables = random_variables(layer, xs)
    results = jax.eval_shape(partial(layer.apply, return_carry=True), variables, xs)
    case = variables, random_like(results[0]), xs, random_like(results, seed=2)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), case)


def assert_a_mask_is_truncation(layer, mask):
    """Each row of a padded batch, NaN in the padding, is the row of its real steps run alone.

    For outputs, the final carry, and the gradients to parameters, initial carry and inputs. Needs
    float64.
    """
    variables, carry, xs, cotangents = _case(layer)
    pullback = _compiled_pullback(layer)
    poured = np.where(mask[:, :, None], xs, np.nan)
    got = pullback(variables, carry, poured, jnp.asarray(mask), cotangents)
    (end, ys), (to_variables, to_carry, to_xs) = jax.tree.map(np.asarray, got)
    expected_to_variables = jax.tree.map(np.zeros_like, variables)
    for b in range(LAW_B):
        this_row = partial(jax.tree.map, lambda leaf, b=b: leaf[b : b + 1])
        real = np.flatnonzero(mask[b])
        row_cotangents = this_row(cotangents[0]), cotangents[1][b : b + 1, real]
        if len(real) == 0:  # nothing runs: the carry goes through
            assert_close(this_row((end, to_carry)), (this_row(carry), row_cotangents[0]), 1e-12)
            continue
        alone = pullback(variables, this_row(carry), xs[b : b + 1, real], None, row_cotangents)
        (row_end, row_ys), (row_to_variables, row_to_carry, row_to_xs) = alone
        assert_close(this_row((end, to_carry)), (row_end, row_to_carry), 1e-9)
        assert_close((ys[b : b + 1, real], to_xs[b : b + 1, real]), (row_ys, row_to_xs), 1e-9)
        expected_to_variables = jax.tree.map(np.add, expected_to_variables, row_to_variables)
    assert_close(to_variables, expected_to_variables, 1e-9)
    assert not ys[~mask].any()
    assert not to_xs[~mask].any()

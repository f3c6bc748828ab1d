"""The carry between batches: rows that start, rows that go on, rows that broke."""

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.ops import keep_carry, resume_carry

INITIAL = {"c": jnp.zeros((3, 2)), "count": jnp.zeros(3, jnp.int32)}
CARRIED = {"c": jnp.arange(6.0).reshape(3, 2) + 1, "count": jnp.array([7, 8, 9])}


def test_rows_that_start_have_the_initial_carry():
    got = resume_carry(CARRIED, INITIAL, jnp.array([False, True, False]))
    np.testing.assert_array_equal(got["c"], [[1, 2], [0, 0], [5, 6]])
    np.testing.assert_array_equal(got["count"], [7, 0, 9])
    assert got["count"].dtype == jnp.int32


def test_no_gradient_passes_but_to_the_initial_carry():
    start = jnp.array([False, True, False])

    def value(carried, initial):
        got = resume_carry({"c": carried}, {"c": initial}, start)
        return jnp.sum(jnp.square(got["c"])) + jnp.sum(keep_carry(got, got)["c"])

    to_carried, to_initial = jax.grad(value, argnums=(0, 1))(CARRIED["c"], CARRIED["c"] + 1)
    np.testing.assert_array_equal(to_carried, np.zeros((3, 2)))
    np.testing.assert_array_equal(to_initial, [[0, 0], [8, 10], [0, 0]])


def test_a_broken_row_is_kept_as_it_started():
    for bad in (np.nan, np.inf):
        broken = {**CARRIED, "c": CARRIED["c"].at[2, 1].set(bad)}
        got = keep_carry(broken, INITIAL)
        np.testing.assert_array_equal(got["c"], [[1, 2], [3, 4], [0, 0]])
        np.testing.assert_array_equal(got["count"], [7, 8, 0])

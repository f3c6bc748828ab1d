"""Comparing trees of arrays leaf by leaf."""

from typing import Any

import jax
import numpy as np


def assert_close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Within `tolerance`, relative and absolute; the trees must have one structure."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        got,
        expected,
    )


def assert_equal(got: Any, expected: Any) -> None:
    """Every element the same."""
    jax.tree.map(np.testing.assert_array_equal, got, expected)

"""Settings and fixtures of all tests."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

# A (H,) that meets a (B, T, H) by accident is an error here: lnjax broadcasts by writing so.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test; all others run as users do, in float32."""
    with jax.enable_x64(True):
        yield

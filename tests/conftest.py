"""Settings and fixtures of all tests."""

import os
from collections.abc import Iterator
from importlib.metadata import version

# Most of the time of the tests goes into compiling; these flags take two thirds of it away. XLA
# reads them once, and the processes that tests start inherit them; with XLA_FLAGS set to anything,
# an empty word too, they are left alone.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    # XLA aborts at flags that it does not know, as from jaxlib 0.11 on these
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)),
)

import jax
import numpy as np
import pytest

# A (H,) that meets a (B, T, H) by accident is an error here: lnjax broadcasts by writing so.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test with `@pytest.mark.some(3)` three stay fast; the others are slow."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("some") is not None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in cases.values():
        (number,) = same[0].get_closest_marker("some").args
        spread = np.linspace(0, len(same) - 1, min(number, len(same))).round()
        for index, item in enumerate(same):
            if index not in spread:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _float32_after() -> Iterator[None]:
    """A test that leaves float64 on fails itself, not whichever runs after it."""
    yield
    assert not jax.config.jax_enable_x64, "this test leaves jax_enable_x64 on"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test; all others run as users do, in float32."""
    with jax.enable_x64(True):
        yield

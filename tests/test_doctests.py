"""Every example in a docstring of the library, and in the README, runs and prints what it says."""

import doctest
import importlib
import pathlib
import pkgutil

import pytest

import lnjax

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lnjax.__path__, "lnjax.")
    if not module.name.endswith("__main__")
)
# Where users look first: an example must be there, not only be right if it is.
WITH_EXAMPLES = {
    *(
        f"lnjax.analysis.{name}"
        for name in (
            "batch_size",
            "companions",
            "composition",
            "controls",
            "epsilon",
            "fisher",
            "geometry",
            "glm",
            "invariance",
            "layer_probes",
            "learning_dynamics",
            "placement",
            "probes",
            "recurrent_invariance",
            "recurrent_stability",
            "tables",
            "transformation",
        )
    ),
    "lnjax.cells.batch_norm_lstm",
    "lnjax.cells.gru",
    "lnjax.cells.lstm",
    "lnjax.cells.simple_rnn",
    "lnjax.cells.wrappers",
    "lnjax.convert",
    "lnjax.nn.bidirectional",
    "lnjax.nn.conv",
    "lnjax.nn.dense",
    "lnjax.nn.normalize",
    "lnjax.nn.residual",
    "lnjax.nn.rnn",
    "lnjax.nn.stack",
    "lnjax.nnx",
    "lnjax.ops.batch",
    "lnjax.ops.normalization",
}


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert result.failed == 0
    assert result.attempted > 0 or name not in WITH_EXAMPLES


def test_readme():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.failed == 0 and result.attempted >= 8

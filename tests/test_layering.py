"""The tree's own rules: who may import whom, how long a file may be, what it must say first.

Every rule is a function of {path: source}, with paths relative to the root of the repository, so
that the tests below can show each of them a tree that breaks it.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("lnjax", "tasks", "configs", "benchmarks", "tests", "notebooks")
SCRIPTS = ("train", "compare", "sample")

Sources = Mapping[str, str]

# What each part of lnjax may import of the others. `lnjax` itself, the names for users, is above
# all of them: nothing inside imports it.
CHAIN = ("typing", "ops", "kernels", "cells", "nn")
ARROWS = {unit: set(CHAIN[:i]) for i, unit in enumerate(CHAIN)}
ARROWS |= {unit: set(CHAIN) for unit in ("nnx", "analysis", "convert")}
# The names of types are no layer; data is NumPy and needs not even these.
ARROWS |= {"training": {"typing", "terminal"}, "data": {"terminal"}, "terminal": set()}
# What measures an encoder is given the encoder: it knows data, no layer and no training.
ARROWS |= {"evaluation": {"typing", "data"}}
# What trains several runs is given their task.
ARROWS |= {"comparison": {"typing", "training", "palette", "terminal"}}
# Colours are words; what draws has them in common.
ARROWS |= {"palette": set(), "analysis": ARROWS["analysis"] | {"palette"}}

LINES = {"lnjax": 400, "tasks": 400, "configs": 120, "train": 200}

# Each of these is installed by an extra or takes seconds to load.
NOT_LOADED = (
    *("tensorflow", "tensorflow_datasets", "grain", "orbax", "matplotlib", "ml_collections"),
    "sklearn",
)


def module_name(path: str) -> list[str]:
    """The dotted name of a file, split: `lnjax/cells/__init__.py` is ["lnjax", "cells"]."""
    parts = path.removesuffix(".py").split("/")
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """Line and absolute dotted name, split, of every import: at the top, in functions, anywhere.

    `from a import b` counts as `a.b`, which may be a module or a name inside of `a`.
    """
    name = module_name(path)
    package = name if path.endswith("__init__.py") else name[:-1]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield node.lineno, [*base, alias.name]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            target = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(target, str):
                yield node.lineno, target.split(".")


def refusal(importer: list[str], target: list[str]) -> str | None:
    """Why one module may not import another; None if it may."""
    home, there = importer[0], target[0]
    if home == "tests" or importer == target:
        return None
    if there in (*SCRIPTS, "tests", "benchmarks", "notebooks") and there != home:
        return f"nobody imports {there}"
    if home == "lnjax":
        if there in ("tasks", "configs"):
            return "lnjax knows no task and no config"
        if there != "lnjax" or len(importer) == 1:
            return None
        unit, used = importer[1], target[1] if len(target) > 1 else ""
        if unit not in ARROWS:
            return f"lnjax/{unit} has no place among the layers"
        if used not in ARROWS:
            return "the names for users are above all layers"
        if used != unit and used not in ARROWS[unit]:
            return f"{unit} is not above {used}"
    elif home == "tasks":
        if there == "configs":
            return "a task is given its config"
        if there == "tasks" and (len(importer) == 1 or target[1:2] != importer[1:2]):
            return "a task imports no other task"
    elif home == "configs":
        if target[:2] == ["configs", "common"] or there in ("ml_collections", "__future__"):
            return None
        return "a config imports only configs.common and ml_collections"
    return None


def forbidden_imports(sources: Sources) -> list[str]:
    return [
        f"{path}:{line}: imports {'.'.join(target)}: {reason}"
        for path, source in sources.items()
        for line, target in imports(path, source)
        if (reason := refusal(module_name(path), target))
    ]


def too_long(sources: Sources) -> list[str]:
    counts = {path: len(source.splitlines()) for path, source in sources.items()}
    return [
        f"{path}: {count} lines, more than {limit}"
        for path, count in counts.items()
        if (limit := LINES.get(path.removesuffix(".py").split("/")[0])) and count > limit
    ]


def undocumented(sources: Sources) -> list[str]:
    """Modules of lnjax and tasks that do not say what they are for; an empty file is not one."""
    return [
        f"{path}: has no docstring"
        for path, source in sources.items()
        if path.startswith(("lnjax/", "tasks/"))
        and not any(part.startswith("_") for part in module_name(path))
        and (tree := ast.parse(source, path)).body
        and not ast.get_docstring(tree)
    ]


def badly_named(sources: Sources) -> list[str]:
    return [f"{path}: say what is in it" for path in sources if "utils" in module_name(path)]


RULES = (forbidden_imports, too_long, undocumented, badly_named)


def repository() -> dict[str, str]:
    files = [
        *ROOT.glob("*.py"),
        *(file for name in FOLDERS for file in (ROOT / name).rglob("*.py")),
    ]
    paths = {file.relative_to(ROOT).as_posix(): file for file in files}
    return {path: file.read_text("utf-8") for path, file in sorted(paths.items())}


@pytest.mark.parametrize("rule", RULES)
def test_the_repository(rule):
    sources = repository()
    assert "lnjax/__init__.py" in sources and "tests/test_layering.py" in sources
    violations = rule(sources)
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        # Up the chain, in each of the ways to write it.
        ("lnjax/ops/losses.py", "import lnjax.cells"),
        ("lnjax/ops/losses.py", "import lnjax.cells.lstm as lstm"),
        ("lnjax/ops/losses.py", "import numpy, lnjax.cells"),
        ("lnjax/ops/losses.py", "from lnjax.cells import lstm"),
        ("lnjax/ops/losses.py", "from lnjax.cells.lstm import step"),
        ("lnjax/ops/losses.py", "from lnjax import cells"),
        ("lnjax/ops/losses.py", "from lnjax import ops, cells as c"),
        ("lnjax/ops/losses.py", "from .. import cells"),
        ("lnjax/ops/losses.py", "from ..cells.lstm import step"),
        ("lnjax/ops/__init__.py", "from ..cells import lstm"),
        ("lnjax/typing.py", "from .ops import normalization"),
        ("lnjax/typing.py", "from . import ops"),
        ("lnjax/ops/losses.py", "def f():\n    from lnjax.cells import lstm"),
        ("lnjax/ops/losses.py", "class C:\n    def f(self):\n        import lnjax.nn"),
        ("lnjax/ops/losses.py", "if TYPE_CHECKING:\n    import lnjax.nn"),
        ("lnjax/ops/losses.py", "try:\n    import lnjax.nn\nexcept ImportError:\n    pass"),
        ("lnjax/ops/losses.py", "import importlib\nimportlib.import_module('lnjax.nn')"),
        ("lnjax/ops/losses.py", "import_module('lnjax.nn.rnn')"),
        ("lnjax/ops/losses.py", "__import__('lnjax.nn')"),
        # Each arrow once.
        ("lnjax/typing.py", "import lnjax.ops"),
        ("lnjax/ops/a.py", "import lnjax.kernels"),
        ("lnjax/kernels/a.py", "import lnjax.cells"),
        ("lnjax/cells/a.py", "import lnjax.nn"),
        ("lnjax/nn/a.py", "import lnjax.nnx"),
        ("lnjax/nnx.py", "import lnjax.analysis"),
        ("lnjax/analysis/a.py", "import lnjax.convert"),
        ("lnjax/convert.py", "import lnjax.nnx"),
        ("lnjax/nn/a.py", "import lnjax.training"),
        ("lnjax/nn/a.py", "import lnjax.data"),
        ("lnjax/training/a.py", "import lnjax.ops"),
        ("lnjax/training/a.py", "import lnjax.data"),
        ("lnjax/data/a.py", "import lnjax.training"),
        ("lnjax/data/a.py", "import lnjax.ops"),
        ("lnjax/data/a.py", "import lnjax.typing"),
        ("lnjax/data/a.py", "import lnjax.evaluation"),
        ("lnjax/training/a.py", "import lnjax.evaluation"),
        ("lnjax/nn/a.py", "import lnjax.evaluation"),
        ("lnjax/evaluation/a.py", "import lnjax.training"),
        ("lnjax/evaluation/a.py", "import lnjax.ops"),
        ("lnjax/evaluation/a.py", "import tasks.skip_thoughts"),
        # The library's own front door, and a part that no arrow names.
        ("lnjax/cells/lstm.py", "import lnjax"),
        ("lnjax/cells/lstm.py", "from lnjax import layer_norm"),
        ("lnjax/cells/lstm.py", "from lnjax import *"),
        ("lnjax/cells/lstm.py", "from .. import layer_norm"),
        ("lnjax/helpers.py", "import lnjax.ops"),
        # Out of the library.
        ("lnjax/training/a.py", "import tasks.handwriting"),
        ("lnjax/training/a.py", "from tasks import handwriting"),
        ("lnjax/training/a.py", "from configs import common"),
        ("lnjax/training/a.py", "import train"),
        ("lnjax/__init__.py", "import tasks"),
        # Tasks.
        ("tasks/draw.py", "from tasks import handwriting"),
        ("tasks/draw.py", "from tasks.handwriting import mixture"),
        ("tasks/draw.py", "from .handwriting import mixture"),
        ("tasks/handwriting/mixture.py", "from ..draw import f"),
        ("tasks/handwriting/mixture.py", "from .. import draw"),
        ("tasks/handwriting/mixture.py", "import tasks"),
        ("tasks/__init__.py", "from tasks import draw"),
        ("tasks/draw.py", "from configs import common"),
        ("tasks/draw.py", "from train import main"),
        ("tasks/draw.py", "import tests.oracles"),
        # Configs.
        ("configs/draw.py", "import configs.handwriting"),
        ("configs/draw.py", "from configs import handwriting"),
        ("configs/draw.py", "from . import handwriting"),
        ("configs/draw.py", "from lnjax import layer_norm"),
        ("configs/draw.py", "import tasks.draw"),
        ("configs/draw.py", "import jax"),
        ("configs/common.py", "import os"),
        # Scripts.
        ("compare.py", "import train"),
        ("sample.py", "from compare import main"),
        ("benchmarks/speed.py", "import train"),
        ("benchmarks/speed.py", "import tests.oracles"),
    ],
)
def test_a_forbidden_import_is_seen(path, source):
    (violation,) = forbidden_imports({path: f'"""A module."""\n\n{source}\n'})
    assert violation.startswith(f"{path}:")


def test_a_violation_names_file_line_and_import():
    (violation,) = forbidden_imports({"lnjax/ops/a.py": "import jax\nfrom ..nn import rnn\n"})
    assert violation == "lnjax/ops/a.py:2: imports lnjax.nn.rnn: ops is not above nn"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lnjax/__init__.py", "from lnjax.cells import LSTMCell\nfrom . import analysis"),
        ("lnjax/nn/rnn.py", "from lnjax.nn.stack import S\nfrom . import stack\nimport lnjax.ops"),
        ("lnjax/cells/lstm.py", "from ..ops import normalization\nfrom lnjax.typing import Array"),
        ("lnjax/cells/lstm.py", "def f():\n    from lnjax.kernels import ln_lstm"),
        ("lnjax/nnx.py", "from lnjax import cells, nn\nfrom .nn import rnn"),
        ("lnjax/training/step.py", "from lnjax.training import state\nfrom lnjax.typing import A"),
        ("lnjax/evaluation/a.py", "from lnjax.data import DataError\nfrom lnjax.typing import A"),
        ("tasks/skip_thoughts.py", "from lnjax.evaluation import evaluate_encoder"),
        ("lnjax/data/mnist.py", "from lnjax.data import builder\nimport tensorflow_datasets"),
        ("lnjax/ops/a.py", "import typing\nfrom jax import nn\nimport importlib"),
        ("tasks/draw.py", "import lnjax\nfrom lnjax.data import mnist\nimport optax"),
        ("tasks/handwriting/__init__.py", "from tasks.handwriting import mixture\nfrom . import m"),
        (
            "tasks/handwriting/network.py",
            "from .mixture import f\nimport tasks.handwriting.mixture",
        ),
        ("tasks/__init__.py", "import importlib\nimportlib.import_module(f'tasks.{name}')"),
        ("configs/draw.py", "from configs import common\nfrom ml_collections import ConfigDict"),
        ("configs/draw.py", "import configs.common\nfrom .common import get_config"),
        ("train.py", "import lnjax, tasks\nfrom configs import common"),
        ("tests/test_train.py", "import train\nfrom tests import oracles\nimport tasks.draw"),
    ],
)
def test_an_allowed_import_is_let_through(path, source):
    assert forbidden_imports({path: source}) == []


def test_long_files_are_seen():
    fits = {
        "lnjax/ops/a.py": 400,
        "tasks/draw.py": 400,
        "configs/draw.py": 120,
        "train.py": 200,
        "tests/test_a.py": 900,
    }
    assert too_long({path: "x = 1\n" * count for path, count in fits.items()}) == []
    beyond = {path: "x = 1\n" * (count + 1) for path, count in fits.items()}
    assert [violation.split(":")[0] for violation in too_long(beyond)] == list(fits)[:4]


def test_missing_docstrings_are_seen():
    silent = ("lnjax/ops/a.py", "lnjax/__init__.py", "tasks/draw.py", "tasks/a/b.py")
    assert len(undocumented(dict.fromkeys(silent, "x = 1\n"))) == len(silent)
    assert undocumented(dict.fromkeys(silent, '"""Says it."""\nx = 1\n')) == []
    assert undocumented(dict.fromkeys(silent, "")) == []
    assert undocumented(dict.fromkeys(("lnjax/_a.py", "tests/a.py", "train.py"), "x = 1\n")) == []


def test_utils_are_seen():
    bad = (
        "lnjax/utils.py",
        "tasks/a/utils.py",
        "lnjax/utils/__init__.py",
        "utils.py",
        "utils/a.py",
    )
    assert len(badly_named(dict.fromkeys(bad, ""))) == len(bad)
    assert badly_named({"lnjax/ops/losses.py": ""}) == []


def test_importing_lnjax_loads_the_library_only():
    program = "import json, sys, lnjax; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "jax" in loaded
    assert not loaded & set(NOT_LOADED)

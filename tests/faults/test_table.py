"""docs/faults.md names tests that exist."""

import ast
import re

from tests import runs


def functions(path):
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_test_that_is_named_exists():
    text = (runs.ROOT / "docs" / "faults.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for path, name in named:
        assert (runs.ROOT / path).is_file(), path
        assert not name or name in functions(runs.ROOT / path), (path, name)

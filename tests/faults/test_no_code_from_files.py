"""Nothing in this repository runs what stands in a file, but for the places named here with a why.

Looked for in every Python file and notebook: readers that execute (pickle and its kin, YAML, torch,
NumPy's objects), code made of text, shells, modules imported by a computed name, archives unpacked
to the disk, parsers of XML that resolve entities.
"""

import ast
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.runs import ROOT

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
MODULES |= {"yaml", "jsonpickle", "xml.etree", "xml.dom", "xml.sax", "lxml", "xmlrpc"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *("os.system", "os.popen", "torch.load", "pandas.read_pickle", "pd.read_pickle"),
    *("shutil.unpack_archive", "importlib.import_module", "runpy.run_path", "tempfile.mktemp"),
    *("numpy.lib.format.read_array", "np.lib.format.read_array"),
}
ENDINGS = {"extractall", "extract"}  # of archives

# By file and what is found: why it may be there.
WRITTEN = "reads what the test itself has written"
OWN = "a name from a list of this repository's files"
ALLOWED = {
    ("compare.py", "runpy.run_path"): "configs/x.py of this repository: configs are code",
    ("tasks/__init__.py", "importlib.import_module"): OWN,
    ("tasks/handwriting/drawing.py", "import xml.sax"): "its escape(), which parses nothing",
    ("lnjax/data/plain_pickle.py", "import pickle"): "the reader that refuses all but plain values",
    ("tests/analysis/test_figures.py", "import xml.etree"): WRITTEN,
    ("tests/comparison/test_results.py", "import xml.etree"): WRITTEN,
    ("tests/tasks/test_drawing.py", "import xml.etree"): WRITTEN,
    ("tests/cells/test_common.py", "importlib.import_module"): OWN,
    ("tests/configs/test_configs.py", "importlib.import_module"): OWN,
    ("tests/tasks/test_classifiers.py", "importlib.import_module"): OWN,
    ("tests/tasks/small.py", "importlib.import_module"): OWN,
    ("tests/training/test_workdir.py", "importlib.import_module"): OWN,
    ("tests/test_doctests.py", "importlib.import_module"): OWN,
    ("tests/notebooks/test_notebooks.py", "compile"): "the notebooks of this repository",
    ("tests/notebooks/test_notebooks.py", "exec"): "the notebooks of this repository",
    ("tests/data/test_cnn_questions.py", "import pickle"): "writes the pickles that are refused",
    ("tests/data/test_cnn_questions.py", "os.system"): "what such a pickle would call",
    ("tests/faults/reader_cases.py", "import pickle"): "writes the pickles that are damaged",
    ("tests/faults/hostile_runs.py", "import pickle"): "writes the pickles that are never read",
    ("tests/faults/hostile_runs.py", "os.system"): "what such a pickle would call",
}


def unsafe(source: str) -> Iterator[tuple[str, int]]:
    """What of the above a file does, with the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            for name in names:
                parts = name.split(".")
                found = {".".join(parts[:end]) for end in (1, 2)} & MODULES
                if found:
                    yield f"import {min(found)}", node.lineno
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in BUILTINS or called.removeprefix("builtins.") in BUILTINS:
                yield called, node.lineno
            constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
            if called in METHODS and not (called == "importlib.import_module" and constant):
                yield called, node.lineno
            if isinstance(node.func, ast.Attribute) and node.func.attr in ENDINGS:
                yield node.func.attr, node.lineno
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("allow_pickle", "shell", "weights_only") and (
                    off == (keyword.arg == "weights_only")
                ):
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}", node.lineno
                if keyword.arg in ("autoescape", "forbid_dtd", "forbid_entities") and off:
                    yield f"{keyword.arg}=False", node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "os.system":
            yield "os.system", node.lineno


def sources() -> Iterator[tuple[str, str]]:
    """Path and code of every file; those that no commit has yet, too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in listed.splitlines():
        if path.endswith(".py") and (ROOT / path).exists():
            yield path, (ROOT / path).read_text("utf-8")
        elif path.endswith(".ipynb"):
            cells = json.loads((ROOT / path).read_text("utf-8"))["cells"]
            for number, cell in enumerate(cells):
                lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
                code = "\n".join("pass" if line[:1] in ("%", "!") else line for line in lines)
                yield f"{path} cell {number}", code


def test_what_is_executed_is_in_the_list():
    found = {}
    for path, source in sources():
        for what, line in unsafe(source):
            found.setdefault((path, what), line)
    unknown = {f"{path}:{line}: {what}" for (path, what), line in found.items()} - {
        f"{path}:{found[path, what]}: {what}" for path, what in ALLOWED if (path, what) in found
    }
    assert not unknown, unknown
    assert not ALLOWED.keys() - found.keys()  # no reason outlives what it is for
    assert not [path for path, _ in found if path.startswith("lnjax/training/")]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "import pickle"),
        ("from pickle import loads", "import pickle"),
        ("import xml.etree.ElementTree as tree", "import xml.etree"),
        ("from xml import sax", "import xml.sax"),
        ("def f():\n    import yaml", "import yaml"),
        ("eval('1')", "eval"),
        ("builtins.exec(x)", "builtins.exec"),
        ("np.load(p, allow_pickle=True)", "allow_pickle=True"),
        ("np.load(p, allow_pickle=trusted)", "allow_pickle=trusted"),
        ("torch.load(p)", "torch.load"),
        ("subprocess.run(c, shell=True)", "shell=True"),
        ("os.system(c)", "os.system"),
        ("map(os.system, c)", "os.system"),
        ("importlib.import_module(name)", "importlib.import_module"),
        ("archive.extractall(p)", "extractall"),
        ("shutil.unpack_archive(p)", "shutil.unpack_archive"),
        ("Environment(autoescape=False)", "autoescape=False"),
    ],
)
def test_each_kind_is_found(source, what):
    assert what in {found for found, _ in unsafe(source)}


@pytest.mark.parametrize(
    "source",
    [
        "np.load(p, allow_pickle=False)",
        "re.compile(x)",
        "import xml.parsers.expat",
        "importlib.import_module('lnjax')",
        "module.eval()",
        "from defusedxml import ElementTree",
    ],
)
def test_the_harmless_is_not_found(source):
    assert list(unsafe(source)) == []

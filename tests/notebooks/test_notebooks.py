"""Every notebook runs from a clean kernel, and is kept without its outputs."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    # Whoever opens it sees first what it shows, not how
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    # no path, user or version of the machine that it was written on
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.fixture
def settings() -> Iterator[None]:
    """A notebook may switch float64 on; what runs after it must not find it so."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("settings")
def test_its_cells_run(path, monkeypatch, tmp_path, capsys):
    """In this process, which has imported everything already."""
    monkeypatch.setenv("LNJAX_SMOKE", "1")
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    here = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):
        for number, cell in enumerate(code_cells(read(path))):
            source = cell.source.replace("%matplotlib inline\n", "")
            exec(compile(source, f"{path.name}, cell {number}", "exec"), here)
    plt.close("all")
    assert any(isinstance(each, plt.Figure) for each in shown)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# what the kernel's client warns of, of itself
@pytest.mark.filterwarnings("default")
@pytest.mark.some(1)
def test_it_runs_in_a_clean_kernel(path, monkeypatch, tmp_path):
    monkeypatch.setenv("LNJAX_SMOKE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert not [output.text for output in outputs if output.get("name") == "stderr"]

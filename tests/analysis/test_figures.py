"""The figures of the notebooks from the command line."""

from xml.etree import ElementTree

import pytest

from lnjax.analysis import figures

# The notebooks draw all of them in every run; these two take the shortest.
QUICK = ("invariance", "learning_dynamics")
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(figures.FIGURES)
]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn(name, tmp_path, capsys):
    assert figures.main([f"--out={tmp_path / 'new'}", f"--only={name}", "--smoke"]) == 0
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == f"{name}.svg" and str(path) in capsys.readouterr().out
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    # curves, bars and letters are paths: a figure that nothing was drawn into has far fewer
    assert sum(element.tag.endswith("path") for element in root.iter()) > 100


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        figures.main([f"--out={tmp_path / 'file'}"])
    assert stop.value.code == 2
    assert "expected a folder to write to" in capsys.readouterr().err

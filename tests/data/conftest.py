"""Fixtures: the embedded handwriting set, a hand-made tree of IAM-OnDB, a toy data set."""

import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from tests import runs

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def embedded_cache(tmp_path_factory):
    return runs.data_cache(tmp_path_factory)


@pytest.fixture(scope="session")
def embedded(embedded_cache):
    from lnjax.data import prepare
    from lnjax.data.handwriting import Handwriting

    return prepare(Handwriting, "embedded", cache=embedded_cache)


@pytest.fixture(scope="session")
def cloze_questions(embedded_cache):
    from lnjax.data import prepare
    from lnjax.data.cloze_questions import ClozeQuestions

    return prepare(ClozeQuestions, "embedded", cache=embedded_cache)


@pytest.fixture(scope="session")
def toy():
    """The module toy_numbers, loaded once: TFDS refuses a second class of the same name."""
    if "toy_numbers" not in sys.modules:
        spec = importlib.util.spec_from_file_location("toy_numbers", HERE / "toy_numbers.py")
        sys.modules["toy_numbers"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["toy_numbers"])
    return sys.modules["toy_numbers"]


HEAD = """<?xml version="1.0" encoding="ISO-8859-1"?>
<WhiteboardCaptureSession>
  <WhiteboardDescription>
    <SensorLocation corner="top_left"/>
    <DiagonallyOppositeCoords x="6512" y="1376"/>
    <VerticallyOppositeCoords x="966" y="1376"/>
    <HorizontallyOppositeCoords x="6512" y="787"/>
  </WhiteboardDescription>
  <StrokeSet>
"""
TAIL = "  </StrokeSet>\n</WhiteboardCaptureSession>\n"


def line_xml(strokes):
    """Strokes of (x, y, time) in the format of the database; the first Stroke is in line 10."""
    text = HEAD
    for stroke in strokes:
        text += (
            f'    <Stroke colour="black" start_time="{stroke[0][2]}" end_time="{stroke[-1][2]}">\n'
        )
        text += "".join(f'      <Point x="{x}" y="{y}" time="{t}"/>\n' for x, y, t in stroke)
        text += "    </Stroke>\n"
    return text + TAIL


def strokes_of(number):
    """Two strokes of 3 and 2 points, different for every number, at 0.01 s a point."""
    return [
        [(1000 + number, 500, 10.0), (1010 + number, 504, 10.01), (1023 + number, 498, 10.02)],
        [(1100 + number, 520, 10.2), (1112 + number, 533 + number, 10.21)],
    ]


class IamTree:
    """Writes and edits a tree; paths of the parts as attributes."""

    FORMS: ClassVar = {  # form: (list, lines)
        "a01-000u": ("trainset.txt", ["A MOVE to stop", "Mr. Gaitskell from"]),
        "a01-000x": ("trainset.txt", ["nominating any", "more Labour", "life Peers"]),
        "b02-045z": ("testset_v.txt", ["is to be made; 7 p.m.", "at a meeting"]),
        "c03-003": ("testset_t.txt", ["of Labour MPs"]),
        "d04-012u": ("testset_f.txt", ["tomorrow.", "Mr. Michael Foot"]),
    }

    def __init__(self, base, strokes="lineStrokes", ascii_="ascii", original=None):
        self.base, self.strokes, self.ascii = base, base / strokes, base / ascii_
        self.original = original and base / original
        self.lists = {}
        for number, (form, (list_name, lines)) in enumerate(self.FORMS.items()):
            self.lists.setdefault(list_name, []).append(form)
            for n, _ in enumerate(lines, 1):
                self.write(self.xml(form, n), line_xml(strokes_of(10 * number + n)))
            self.write_text(form, lines)
            if self.original:
                letter = form[7:]
                self.write(
                    self.original / form[:3] / form[:7] / f"strokes{letter}.xml",
                    f'<?xml version="1.0"?>\n<Session>\n<General>\n<Form writerID="100{number}" '
                    f'id="{form[:7]}"/>\n</General>\n</Session>\n',
                )
        for list_name, forms in self.lists.items():
            self.write(base / list_name, "".join(f"{form}\n" for form in forms))

    def xml(self, form, number):
        return self.strokes / form[:3] / form[:7] / f"{form}-{number:02d}.xml"

    def txt(self, form):
        return self.ascii / form[:3] / form[:7] / f"{form}.txt"

    def write(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
        return path

    def write_text(self, form, lines, end="\n"):
        ocr = [line.upper() for line in lines]
        text = end.join(["OCR:", "", *ocr, "", "CSR:", "", *lines, ""])
        return self.write(self.txt(form), text)


@pytest.fixture
def make_iam():
    return IamTree


@pytest.fixture
def iam(tmp_path):
    return IamTree(tmp_path / "iam")


@pytest.fixture
def pen_xml():
    return line_xml


@pytest.fixture
def refused(tmp_path):
    """Prepares a set; returns the message of the refusal once nothing was found written."""
    from lnjax.data import DataError, prepare

    def refuse(builder_class, manual_dir):
        cache = tmp_path / "cache"
        with pytest.raises(DataError) as caught:
            prepare(builder_class, "real", manual_dir=manual_dir, cache=cache)
        assert not cache.exists()
        return str(caught.value)

    return refuse

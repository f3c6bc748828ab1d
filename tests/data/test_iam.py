"""IAM-OnDB: what is read from a tree in the database's own form, and everything that is refused."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from lnjax.data import DataError, prepare
from lnjax.data import iam as iam_module
from lnjax.data.handwriting import Handwriting
from lnjax.data.iam_xml import PenLine, fill_gaps, read_points


@pytest.fixture
def refused(iam, tmp_path):
    """Prepares the tree; returns the message of the refusal once nothing was found written."""

    def refuse(manual_dir=None):
        cache = tmp_path / "cache"
        with pytest.raises(DataError) as caught:
            prepare(Handwriting, "real", manual_dir=manual_dir or iam.base, cache=cache)
        assert not cache.exists()
        return str(caught.value)

    return refuse


def edit(path, old, new, count=1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def line_of(path, part):
    """1-based number of the first line that holds `part`."""
    return next(n for n, line in enumerate(path.read_text().split("\n"), 1) if part in line)


@pytest.fixture
def xml(iam):
    return iam.xml("a01-000x", 2)


# ---- what is read ----------------------------------------------------------------------------


def test_tree_is_read(iam, tmp_path):
    prepared = prepare(Handwriting, "real", manual_dir=iam.base, cache=tmp_path / "cache")
    ids = {name: [r["id"] for r in split] for name, split in prepared.splits.items()}
    assert ids == {
        "train": ["a01-000u-01", "a01-000u-02", "a01-000x-01", "a01-000x-02", "a01-000x-03"],
        "validation": ["b02-045z-01", "b02-045z-02"],
        "validation2": ["c03-003-01"],
        "test": ["d04-012u-01", "d04-012u-02"],
    }
    assert [r["text"] for r in prepared.splits["train"]] == [
        *("A MOVE to stop", "Mr. Gaitskell from", "nominating any", "more Labour", "life Peers")
    ]
    assert prepared.splits["validation"][0]["text"] == "is to be made; 7 p.m."  # as written
    record = prepared.splits["train"][0]  # points of number 1 in conftest.strokes_of
    expected = [[10, 4, 0], [13, -6, 1], [77, 22, 0], [12, 14, 1]]
    assert record["strokes"].tolist() == expected and record["writer"] == ""
    offsets = np.concatenate([r["strokes"][:, :2] for r in prepared.splits["train"]])
    assert prepared.statistics["offset_mean"] == pytest.approx(offsets.mean(0))
    assert prepared.statistics["offset_std"] == pytest.approx(offsets.std(0))
    assert prepared.statistics["points"] == 20 and prepared.config == "real"


def test_parent_folder_and_unpacked_archives(make_iam, tmp_path):
    plain = make_iam(tmp_path / "plain" / "iam")
    unpacked = make_iam(
        tmp_path / "unpacked",
        "lineStrokes-all/lineStrokes",
        "ascii-all/ascii",
        "original-xml-all/original",
    )
    one = iam_module.read_tree(plain.base.parent)
    two = iam_module.read_tree(unpacked.base)
    for split in iam_module.LISTS:
        for a, b in zip(one[split], two[split], strict=True):
            assert (a["id"], a["text"]) == (b["id"], b["text"])
            assert np.array_equal(a["strokes"], b["strokes"])
            assert a["writer"] == ""
    assert [e["writer"] for e in two["train"]] == ["1000"] * 2 + ["1001"] * 3
    assert two["validation2"][0]["writer"] == "1003"  # a form without a letter: strokes.xml


def test_dos_line_ends_blank_lines_and_percent_signs(iam):
    forms = iam.FORMS
    iam.write_text("a01-000u", forms["a01-000u"][1], end="\r\n")
    iam.write_text("a01-000x", ["nominating any%%%%%%%%%%%more Labour", "", "life Peers", "", ""])
    iam.write_text("b02-045z", ["is to be made; 5 % off%%%%%%%%%%%", "at a meeting"])
    (iam.base / "trainset.txt").write_bytes(b"a01-000u \r\n\r\na01-000x\r\n")
    texts = {k: [e["text"] for e in v] for k, v in iam_module.read_tree(iam.base).items()}
    assert texts["train"] == [*forms["a01-000u"][1], *forms["a01-000x"][1]]
    assert texts["validation"] == ["is to be made; 5 % off", "at a meeting"]


def test_lines_are_in_the_order_of_their_numbers(iam, pen_xml):
    lines = [f"line {n}" for n in range(1, 12)]
    for n in range(1, 12):
        path = iam.strokes / "c03" / "c03-003" / f"c03-003-{n}.xml"  # 10 and 11 sort before 2
        iam.write(path, pen_xml([[(n, 0, 1.0), (n + n, 1, 1.1)]]))
    iam.xml("c03-003", 1).unlink()
    iam.write_text("c03-003", lines)
    examples = iam_module.read_tree(iam.base)["validation2"]
    assert [e["text"] for e in examples] == lines
    assert [e["strokes"][0, 0] for e in examples] == list(range(1, 12))


def test_single_point_strokes(iam, xml, pen_xml):
    iam.write(xml, pen_xml([[(10, 10, 1.0)], [(12, 11, 1.2), (13, 15, 1.21)], [(12, 0, 2.0)]]))
    strokes = iam_module.read_tree(iam.base)["train"][3]["strokes"]
    assert strokes.tolist() == [[2, 1, 0], [1, 4, 1], [-1, -15, 1]]


def test_missing_readings_are_filled():
    steps = np.array([1.0, 1, 1, 4, 1, 1, 1, 1, 1, 1])  # a gap of 4 readings in time and distance
    times = np.append(0, np.cumsum(steps)) * 0.01
    points = np.stack([times * 500, times * -200], axis=1)
    last = np.zeros(11, bool)
    last[-1] = True
    filled, ends = fill_gaps(PenLine(points, last, times))
    assert len(filled) == 14 and ends.tolist() == [False] * 13 + [True]
    assert np.allclose(np.diff(filled, axis=0), [[5, -2]] * 13)
    for unchanged in (
        PenLine(points, last, np.full(11, np.nan)),  # no times
        PenLine(points, last, np.arange(11) * 0.01),  # a fast stretch, nothing lost
        PenLine(np.arange(22.0).reshape(11, 2), last, times),  # a slow stretch, nothing lost
        PenLine(points, last | (np.arange(11) == 3), times),  # the pen was up
    ):
        same, ends = fill_gaps(unchanged)
        assert np.array_equal(same, unchanged.points) and np.array_equal(ends, unchanged.last)


def test_offsets_are_clipped(iam, xml, pen_xml):
    stroke = [(n, n % 7, n / 100) for n in range(400)]
    iam.write(xml, pen_xml([stroke, [(9000, -2000, 5.0), (9001, -2000, 5.01)]]))
    strokes = iam_module.read_tree(iam.base)["train"][3]["strokes"]
    assert strokes[399].tolist() == [500, -500, 0]
    assert np.abs(strokes[:399, :2]).max() < 10


def test_known_bad_form_is_left_out(iam, capsys):
    with (iam.base / "trainset.txt").open("a") as file:
        file.write("z01-000z\n")  # and there are no files of it
    assert len(iam_module.read_tree(iam.base)["train"]) == 5
    assert "z01-000z is left out" in capsys.readouterr().err


def test_cache_follows_the_tree(iam, make_iam, tmp_path, xml, pen_xml):
    def digest(tree):
        return prepare(Handwriting, "real", manual_dir=tree.base, cache=tmp_path / "c").digest

    first, key = digest(iam), iam_module.source_key(iam.base)
    assert key == iam_module.source_key(iam.base.parent)
    edit(xml, 'x="1012"', 'x="1013"')  # same size
    assert iam_module.source_key(iam.base) != key and digest(iam) != first
    iam.write_text("b02-045z", ["Is to be made; 7 p.m.", "at a meeting"])
    third = digest(iam)
    assert third != first
    moved = iam.base.rename(tmp_path / "moved")
    assert len(list((tmp_path / "c" / "handwriting").glob("real-*"))) == 3
    assert prepare(Handwriting, "real", manual_dir=moved, cache=tmp_path / "c").digest == third
    assert len(list((tmp_path / "c" / "handwriting").glob("real-*"))) == 3


# ---- what is refused -------------------------------------------------------------------------


def test_malformed_xml(refused, xml):
    edit(xml, "</StrokeSet>", "</Stroke>")
    assert f"{xml} line {line_of(xml, '  </Stroke>') + 5}: malformed XML" in refused()


def test_truncated_xml(refused, xml):
    text = xml.read_text()
    xml.write_text(text[: text.index("</Stroke>")])
    assert f"{xml} line 14: malformed XML" in refused()


def test_empty_xml(refused, xml):
    xml.write_text("")
    assert f"{xml} line 1: malformed XML" in refused()


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE session SYSTEM "http://example.org/x.dtd">',
        '<!DOCTYPE session [<!ENTITY a "aaaa">]>',
    ],
)
def test_declarations(refused, xml, declaration):
    edit(xml, "<WhiteboardCaptureSession>", declaration + "\n<WhiteboardCaptureSession>")
    assert re.search(re.escape(f"{xml} line 2: ") + "document type or entity", refused())


def test_unknown_encoding(refused, xml):
    edit(xml, "ISO-8859-1", "KLINGON-1")
    assert f"{xml} line 1: " in refused()


def test_no_stroke_set(refused, xml):
    text = xml.read_text()
    xml.write_text(text[: text.index("  <StrokeSet>")] + "</WhiteboardCaptureSession>\n")
    assert f"{xml} line 1: no StrokeSet" in refused()


def test_stroke_without_points(refused, xml):
    edit(xml, "  </StrokeSet>", '    <Stroke colour="black">\n    </Stroke>\n  </StrokeSet>')
    assert f"{xml} line 19: Stroke without points" in refused()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ('x="abc"', "'abc' as x; expected a number"),
        ('x=""', "'' as x; expected a number"),
        ("", "no attribute x; expected a number"),
        ('x="nan"', "x = nan; expected a number of at most 1e+06"),
        ('x="-inf"', "x = -inf"),
        ('x="1000001"', "x = 1000001"),
    ],
)
def test_coordinates(refused, xml, found, message):
    edit(xml, 'x="1022"', found)
    text = refused()
    assert f"{xml} line 12: Point with" in text and message in text


def test_missing_y(refused, xml):
    edit(xml, 'y="520"', "")
    assert f"{xml} line 16: Point with no attribute y" in refused()


@pytest.mark.parametrize("strokes", [[[(1, 1, 0.0)]], []])
def test_fewer_than_two_points(refused, iam, xml, pen_xml, strokes):
    iam.write(xml, pen_xml(strokes))
    assert f"{xml} line 9: {len(strokes)} points" in refused()


def test_number_of_text_lines(refused, iam):
    path = iam.write_text("a01-000x", ["nominating any", "more Labour"])
    assert f"{path} line 9: 2 lines of text after CSR:; expected 3" in refused()
    path = iam.write_text("a01-000x", ["nominating any", "more Labour", "life", "Peers"])
    assert f"{path} line 13: 4 lines of text after CSR:; expected 3" in refused()


def test_missing_xml_of_a_line(refused, iam, xml):
    xml.unlink()
    assert f"{iam.txt('a01-000x')} line 11: 3 lines of text after CSR:; expected 2" in refused()


def test_csr_absent(refused, iam):
    path = iam.txt("d04-012u")
    edit(path, "CSR:", "ASR:")
    assert f'{path} line 10: no line "CSR:"' in refused()


def test_empty_text(refused, iam):
    path = iam.write_text("a01-000x", ["nominating any", "  ", "life Peers"])
    assert f"{path} line 10: empty text for a line" in refused()
    path = iam.write_text("a01-000x", [])
    assert f"{path} line 4: empty text for a line" in refused()


def test_form_in_two_lists(refused, iam):
    iam.write(iam.base / "testset_f.txt", "d04-012u\na01-000x\n")
    message = refused()
    assert f"{iam.base / 'testset_f.txt'} line 2: form a01-000x" in message
    assert "trainset.txt line 2" in message


def test_form_twice_in_one_list(refused, iam):
    iam.write(iam.base / "trainset.txt", "a01-000u\na01-000x\na01-000u\n")
    assert f"{iam.base / 'trainset.txt'} line 3: form a01-000u" in refused()


def test_listed_forms_not_on_disk_are_all_named(refused, iam):
    iam.write(iam.base / "trainset.txt", "a01-000u\nk01-001u\na01-000x\n")
    iam.txt("b02-045z").unlink()
    for n in (1, 2):
        iam.xml("d04-012u", n).unlink()
    message = refused()
    assert "3 listed forms are not on disk" in message
    assert "k01-001u (trainset.txt line 2)" in message
    assert f"b02-045z (testset_v.txt line 1): no {iam.txt('b02-045z')}" in message
    assert "d04-012u (testset_f.txt line 1)" in message and "a01-000x" not in message


@pytest.mark.parametrize("entry", ["../a01-000u", "trainset", "a01-000u-01"])
def test_no_form_id(refused, iam, entry):
    iam.write(iam.base / "trainset.txt", f"a01-000u\n{entry}\n")
    assert f"{iam.base / 'trainset.txt'} line 2: '{entry}' is no form" in refused()


def test_empty_list(refused, iam):
    iam.write(iam.base / "testset_t.txt", "\n")
    assert f"{iam.base / 'testset_t.txt'} line 1: no form is listed" in refused()


def test_too_many_clipped_offsets(refused, iam, pen_xml):
    path = iam.write(iam.xml("d04-012u", 2), pen_xml([[(0, 0, 0.0), (9, 1, 0.1), (800, 0, 0.2)]]))
    message = refused()
    assert message.startswith(f"{path}: 50.0% of its offsets exceed 500 units")
    assert "16.7% in the whole split 'test'" in message


def test_zero_variance(refused, iam, pen_xml):
    for form, (list_name, lines) in iam.FORMS.items():
        for n in range(1, len(lines) + 1):
            if list_name == "trainset.txt":
                iam.write(iam.xml(form, n), pen_xml([[(3 * k, k * k, k / 9) for k in range(5)]]))
    assert f"{iam.base / 'trainset.txt'}: zero variance, all x offsets of its 5 lines" in refused()


@pytest.mark.parametrize("part", ["lineStrokes", "ascii", "trainset.txt", "testset_v.txt"])
def test_missing_part_of_the_tree(refused, iam, part):
    (iam.base / part).rename(iam.base / "elsewhere")
    message = refused()
    assert message.startswith(f"{iam.base}: {part} not found; expected this tree:")
    assert "lineStrokes/a01/a01-000/a01-000u-01.xml" in message


def test_missing_folder(refused, tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no folder was given"):
        prepare(Handwriting, "real", cache=tmp_path / "cache")


def test_malformed_writer(make_iam, tmp_path):
    tree = make_iam(tmp_path / "iam", original="original")
    path = tree.original / "a01" / "a01-000" / "strokesx.xml"
    path.write_text("<Session>\n<General")
    with pytest.raises(DataError, match=re.escape(f"{path} line 2: malformed XML")):
        iam_module.read_tree(tree.base)
    path.write_text("<Session>\n</Session>")  # names nobody: no reason to refuse
    assert iam_module.read_tree(tree.base)["train"][2]["writer"] == ""


def test_points_of_a_large_file_keep_their_line_numbers(tmp_path, pen_xml):
    path = tmp_path / "long.xml"
    path.write_text(pen_xml([[(n, n, n / 100) for n in range(9000)]]))  # several reads
    assert len(read_points(path).points) == 9000
    edit(path, 'x="8000"', 'x="?"')
    with pytest.raises(DataError, match=f"line {11 + 8000}: "):
        read_points(path)


@pytest.mark.parametrize("encoding", ["utf-7", "shift_jis", "hex", "idna", "nobody"])
def test_encodings_that_expat_does_not_read(refused, xml, encoding):
    edit(xml, 'encoding="ISO-8859-1"', f'encoding="{encoding}"')
    assert str(xml) in refused()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nothing"), Path.mkdir, os.mkfifo])
def test_a_line_that_is_no_file(refused, xml, make):
    xml.unlink()
    make(xml)
    assert str(xml) in refused()


def test_a_file_larger_than_any(refused, xml):
    with xml.open("r+b") as file:
        file.truncate(1 << 25)
    assert f"{xml} byte {1 << 24}: the file has" in refused()


def test_a_form_id_longer_than_names_of_files(refused, iam):
    edit(iam.base / "trainset.txt", "a01-000u", "a01-" + "0" * 5000)
    assert "trainset.txt line 1" in (message := refused()) and len(message) < 500

"""Pictures of handwriting: geometry by hand, and what is inside the files that are written."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from HersheyFonts import HersheyFonts
from PIL import Image, ImageSequence

from tasks.handwriting import drawing

SVG = "{http://www.w3.org/2000/svg}"

# A bar to the right, a dot above its middle, a hook whose last stroke is never ended.
STROKES = np.array(
    [
        [50, 0, 0],
        [50, 0, 1],
        [-50, -40, 1],
        [0, 80, 0],
        [0, 30, 0],
        [-20, 0, 0],
    ],
    np.float32,
)
POINTS = [
    [[0, 0], [50, 0], [100, 0]],
    [[50, -40]],
    [[50, 40], [50, 70], [30, 70]],
]


def handwriting(text: str) -> np.ndarray:
    """Strokes of a text in a plotter's script font."""
    font = HersheyFonts()
    font.load_default_font("scripts")
    font.normalize_rendering(300)
    rows, pen = [], np.zeros(2)
    for stroke in font.strokes_for_text(text):
        for i, (x, y) in enumerate(stroke):
            point = np.array([x, -y])  # the font's y axis grows upward
            rows.append([*(point - pen), i == len(stroke) - 1])
            pen = point
    return np.array(rows[1:], np.float32)  # the pen starts at the first point


def ink(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L")) < 128


def paths(file) -> list[ET.Element]:
    return list(ET.parse(file).getroot().iter(f"{SVG}path"))


def coordinates(path: ET.Element) -> np.ndarray:
    """Every point that a path element names, control points too, (n, 2)."""
    assert re.fullmatch(r"M[-\d. ]+(h0|(C[-\d. ]+)+)", path.attrib["d"])
    numbers = re.findall(r"-?[\d.]+", path.attrib["d"].removesuffix("h0"))
    return np.array(numbers, float).reshape(-1, 2)


def test_polylines():
    lines = drawing.polylines(STROKES)
    assert len(lines) == len(POINTS)
    for line, expected in zip(lines, POINTS, strict=True):
        np.testing.assert_array_equal(line, expected)


def test_polylines_of_nothing_of_one_offset_and_of_a_dot():
    assert drawing.polylines(np.zeros((0, 3))) == []
    (line,) = drawing.polylines(np.array([[3.0, 4.0, 1.0]]))
    np.testing.assert_array_equal(line, [[0, 0], [3, 4]])
    _, dot = drawing.polylines(np.array([[3.0, 4.0, 1.0], [1.0, 1.0, 1.0]]))
    np.testing.assert_array_equal(dot, [[4, 5]])


def test_curve_passes_through_every_point_and_stays_near(rng):
    points = np.cumsum(rng.normal(size=(40, 2)) * rng.lognormal(0, 1.5, size=(40, 1)), axis=0)
    points = np.insert(points, 7, points[7], axis=0)  # a pen that rests
    curves = drawing._curves(points)
    assert curves.shape == (39, 3, 2)
    np.testing.assert_array_equal(curves[:, 2], np.delete(points, 7, axis=0)[1:])
    starts = np.concatenate([points[:1], curves[:-1, 2]])
    chord = np.linalg.norm(curves[:, 2] - starts, axis=1)
    # However uneven the steps, a control point stays within two thirds of its curve's chord.
    assert (np.linalg.norm(curves[:, 0] - starts, axis=1) <= chord * 2 / 3 + 1e-9).all()
    assert (np.linalg.norm(curves[:, 1] - curves[:, 2], axis=1) <= chord * 2 / 3 + 1e-9).all()


def test_curve_is_smooth(rng):
    points = rng.normal(size=(9, 2))
    curves = drawing._curves(points)
    arriving = curves[:-1, 2] - curves[:-1, 1]
    leaving = curves[1:, 0] - curves[:-1, 2]
    cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
    np.testing.assert_allclose(cross, 0, atol=1e-12)
    assert ((arriving * leaving).sum(axis=1) > 0).all()


def test_straight_and_evenly_spaced_points_give_a_straight_line():
    curves = drawing._curves(np.array([[0.0, 0], [3, 0], [6, 0]]))
    np.testing.assert_allclose(curves[0], [[1, 0], [2, 0], [3, 0]])
    np.testing.assert_allclose(curves[1], [[4, 0], [5, 0], [6, 0]])


@pytest.mark.parametrize("suffix", [".svg", ".animated.svg"])
def test_svg_has_one_path_per_stroke_inside_its_view_box(tmp_path, suffix):
    file = tmp_path / f"line{suffix}"
    drawing.write(file, [STROKES, STROKES * [2, 1, 1]])
    root = ET.parse(file).getroot()
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (left, top) == (0, 0)
    drawn = [coordinates(path) for path in paths(file)]
    assert len(drawn) == 2 * len(POINTS)
    assert len(drawn[1]) == len(drawn[4]) == 1  # the dots
    (pen,) = (float(g.attrib["stroke-width"]) for g in root.iter() if "stroke-width" in g.attrib)
    for points in drawn:
        assert (points > pen / 2).all()
        assert (points < np.array([width, height]) - pen / 2).all()
    assert "script" not in file.read_text() and "href" not in file.read_text()


def test_svg_keeps_proportions_and_the_direction_of_y(tmp_path):
    drawing.write(tmp_path / "line.svg", [STROKES])
    bar, dot, hook = (coordinates(path) for path in paths(tmp_path / "line.svg"))
    origin = bar[0]
    np.testing.assert_allclose(bar[-1] - origin, [100, 0], atol=0.1)
    np.testing.assert_allclose(dot[0] - origin, [50, -40], atol=0.1)
    np.testing.assert_allclose(hook[[0, -1]] - origin, [[50, 40], [30, 70]], atol=0.1)


def test_lines_are_evenly_spaced_and_apart(tmp_path):
    texts = ["acorn", "flying", "gypsy", "one"]
    drawing.write(tmp_path / "page.svg", [handwriting(text) for text in texts])
    groups = ET.parse(tmp_path / "page.svg").getroot().findall(f"{SVG}g/{SVG}g")
    lines = [np.concatenate([coordinates(path) for path in group]) for group in groups]
    assert len(lines) == 4
    for above, below in itertools.pairwise(lines):
        assert above[:, 1].max() < below[:, 1].min()
    # Of the points without the control points between them.
    middles = [np.median([y for p in group for y in coordinates(p)[::3, 1]]) for group in groups]
    np.testing.assert_allclose(np.diff(middles), np.diff(middles)[0], rtol=1e-3)
    np.testing.assert_allclose([line[:, 0].min() for line in lines], lines[0][:, 0].min(), atol=1)


def test_texts_are_escaped(tmp_path):
    texts = ['<&>"', "bell\x07 & 'quotes'"]
    drawing.write(tmp_path / "line.svg", [STROKES, STROKES], texts=texts)
    root = ET.parse(tmp_path / "line.svg").getroot()
    assert [e.text for e in root.iter(f"{SVG}desc")] == ['<&>"', "bell\ufffd & 'quotes'"]
    assert root.findtext(f"{SVG}title") == "<&>\"\nbell\ufffd & 'quotes'"


def test_texts_describe_pictures(tmp_path):
    for name in ("line.png", "line.gif"):
        drawing.write(tmp_path / name, [STROKES], texts=["über 日本"])
    with Image.open(tmp_path / "line.png") as picture:
        assert picture.info["Description"] == "über 日本"
    with Image.open(tmp_path / "line.gif") as picture:
        assert picture.info["comment"].decode() == "über 日本"


def test_animated_svg_writes_strokes_in_order(tmp_path):
    drawing.write(tmp_path / "line.animated.svg", [STROKES], seconds=6.0)
    starts, stops = [], []
    for path in paths(tmp_path / "line.animated.svg"):
        (animate,) = path
        keys = [float(key) for key in animate.attrib["keyTimes"].split(";")]
        assert keys == sorted(keys) and keys[0] == 0 and keys[-1] == 1
        assert len(keys) == len(animate.attrib["values"].split(";"))
        assert animate.attrib["dur"] == f"{6.0 + drawing.HOLD_SECONDS:.2f}s"
        starts.append(keys[1])
        stops.append(keys[-2])
    # Seven points, six steps of one second.
    cycle = 6.0 + drawing.HOLD_SECONDS
    np.testing.assert_allclose(np.array(starts) * cycle, [0, 3, 4], atol=1e-3)
    np.testing.assert_allclose(np.array(stops) * cycle, [2, 3, 6], atol=1e-3)


def test_png_has_ink_where_the_pen_was_and_white_elsewhere(tmp_path):
    drawing.write(tmp_path / "line.png", [STROKES])
    with Image.open(tmp_path / "line.png") as picture:
        grey = np.asarray(picture.convert("L"))
        np.testing.assert_allclose(picture.info["dpi"], 200, atol=0.1)
    page = drawing._lay_out([drawing.polylines(STROKES)])
    pixels = page.inches * drawing.PNG_DPI
    height, width = grey.shape
    assert abs(width - page.width * pixels) <= 1 and abs(height - page.height * pixels) <= 1
    near = np.zeros(grey.shape, bool)
    rows, columns = np.indices(grey.shape) + 0.5
    for stroke in page.strokes:
        for x, y in stroke * pixels:
            assert grey[int(y), int(x)] < 64
        for corners in drawing._corners(stroke * pixels):
            for x, y in corners:
                near |= np.hypot(columns - x, rows - y) < page.pen * pixels + 2
    assert (grey[~near] == 255).all()
    assert grey[near].min() == drawing.INK
    assert len(np.unique(grey)) > 8  # antialiased


def test_gif_writes_in_time_and_holds(tmp_path):
    drawing.write(tmp_path / "line.gif", [handwriting("on"), STROKES], seconds=2.0)
    with Image.open(tmp_path / "line.gif") as picture:
        assert picture.info["loop"] == 0
        amounts, durations = [], []
        for frame in ImageSequence.Iterator(picture):
            amounts.append(int(ink(frame).sum()))
            durations.append(frame.info["duration"])
    assert len(amounts) > 20
    assert (np.diff(amounts) >= 0).all()
    assert amounts[-1] > 5 * amounts[0]
    assert sum(durations) == 2000 + 1000 * drawing.HOLD_SECONDS
    assert durations[-1] >= 1000 * drawing.HOLD_SECONDS


def test_last_gif_frame_is_the_whole_page(tmp_path):
    lines = [handwriting("whole page"), STROKES]
    drawing.write(tmp_path / "page.gif", lines, seconds=0.2)
    with Image.open(tmp_path / "page.gif") as picture:
        picture.seek(picture.n_frames - 1)
        last = np.asarray(picture.convert("L"), float)
    page = drawing._lay_out([drawing.polylines(strokes) for strokes in lines])
    (whole,) = drawing._frames(page, page.inches * drawing.GIF_DPI, 1)
    np.testing.assert_allclose(last, np.asarray(whole, float), atol=8)


def test_suffix_may_be_upper_case_and_empty_lines_stay_empty(tmp_path):
    drawing.write(tmp_path / "a.SVG", [STROKES, np.zeros((0, 3)), STROKES])
    assert len(paths(tmp_path / "a.SVG")) == 2 * len(POINTS)
    drawing.write(tmp_path / "a.Animated.svg", [STROKES])
    assert "<animate " in (tmp_path / "a.Animated.svg").read_text()


@pytest.mark.parametrize("name", ["dot.svg", "dot.animated.svg", "dot.png", "dot.gif"])
def test_a_single_dot_is_drawn(tmp_path, name):
    drawing.write(tmp_path / name, [np.array([[5.0, 5.0, 1.0]])])
    if name.endswith("svg"):
        assert len(paths(tmp_path / name)) == 1
    else:
        with Image.open(tmp_path / name) as picture:
            dark = ink(picture)
        assert dark.any() and not dark.all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_pen_does_not_matter(tmp_path, scale):
    strokes = handwriting("unit").astype(float)
    drawing.write(tmp_path / "a.png", [strokes])
    drawing.write(tmp_path / "b.png", [strokes * [scale, scale, 1]])
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        # A side may be a pixel longer: lengths are rounded up.
        np.testing.assert_allclose(a.size, b.size, atol=1)
        np.testing.assert_allclose(ink(a).sum(), ink(b).sum(), rtol=0.01)


def test_a_runaway_sample_gives_a_page_of_limited_size(tmp_path, rng):
    wild = np.concatenate([rng.normal(size=(200, 2)) * 1e7, rng.random((200, 1)) < 0.1], axis=1)
    for name in ("wild.svg", "wild.png", "wild.gif"):
        drawing.write(tmp_path / name, [STROKES, wild, STROKES])
    with Image.open(tmp_path / "wild.png") as picture:
        assert picture.width <= 9 * 200 + 1 and picture.height <= 24 * 200 + 1


@pytest.mark.parametrize("name", ["line.svg", "line.animated.svg", "line.png", "line.gif"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_the_old_file_kept(tmp_path, name, value):
    (tmp_path / name).write_text("old")
    strokes = STROKES.copy()
    strokes[3, 1] = value
    with pytest.raises(ValueError, match=r"strokes\[3\].*not finite"):
        drawing.write(tmp_path / name, [STROKES, strokes])
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(name, "old")]


def test_writing_replaces_the_file_and_leaves_no_other(tmp_path):
    (tmp_path / "line.svg").write_text("old")
    drawing.write(tmp_path / "line.svg", [STROKES])
    assert [f.name for f in tmp_path.iterdir()] == ["line.svg"]
    assert len(paths(tmp_path / "line.svg")) == len(POINTS)


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    (tmp_path / "line.svg").write_text("old")
    monkeypatch.setattr(drawing.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        drawing.write(tmp_path / "line.svg", [STROKES])
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("line.svg", "old")]


@pytest.mark.parametrize(
    ("name", "lines", "options", "message"),
    [
        ("line.pdf", [STROKES], {}, r"\.animated\.svg, \.svg, \.png, \.gif"),
        ("line", [STROKES], {}, r"the suffixes are"),
        ("line.svg", [], {}, "nothing to draw"),
        ("line.svg", [np.zeros((0, 3))], {}, "nothing to draw"),
        ("line.svg", [STROKES[:, :2]], {}, r"\(T, 3\), not \(6, 2\)"),
        ("line.svg", STROKES, {}, r"\(T, 3\), not \(3,\)"),
        ("line.svg", [STROKES], {"texts": ["a", "b"]}, "1 strings"),
        ("line.svg", [STROKES], {"texts": "a"}, "1 strings"),
        ("line.svg", [STROKES], {"seconds": 2.0}, "still picture"),
        ("line.png", [STROKES], {"seconds": 2.0}, "still picture"),
        ("line.gif", [STROKES], {"seconds": 0.0}, "must be positive"),
        ("line.animated.svg", [STROKES], {"seconds": float("nan")}, "must be positive"),
    ],
)
def test_errors(tmp_path, name, lines, options, message):
    with pytest.raises(ValueError, match=message):
        drawing.write(tmp_path / name, lines, **options)
    assert not list(tmp_path.iterdir())


def attention(text: str, strokes: np.ndarray) -> np.ndarray:
    """A window that moves along the text at an even pace, (U, T)."""
    centres = np.linspace(0, len(text), len(strokes))
    return np.exp(-np.square(centres - np.arange(len(text))[:, None]))


def test_sheet_has_ink_for_every_row(tmp_path):
    texts = ["first line", "and the second", "third $x^2$"]
    rows = [drawing.Row(f"caption {text}", handwriting(text)) for text in texts]
    sizes = []
    for count in range(1, 4):
        drawing.sheet(tmp_path / "sheet.png", rows[:count], title="step 200")
        with Image.open(tmp_path / "sheet.png") as picture:
            assert picture.info["Title"] == "step 200"
            dark = ink(picture)
        sizes.append((dark.sum(), dark.shape[0]))
        # Rows of pixels with ink, in runs: title, then caption and line each time. A letter's dot
        # may stand above its line.
        runs = np.count_nonzero(np.diff(dark.any(axis=1).astype(int)) == 1)
        assert runs >= 1 + 2 * count
    assert sizes == sorted(sizes)
    assert [f.name for f in tmp_path.iterdir()] == ["sheet.png"]


def test_rows_of_a_sheet_share_their_scale_but_for_a_runaway(tmp_path):
    rows = [("", np.array([[0, 0, 0], [0, height, 1]])) for height in (100, 50, 1e6)]
    drawing.sheet(tmp_path / "sheet.png", rows, title="")
    with Image.open(tmp_path / "sheet.png") as picture:
        edges = np.diff(ink(picture).any(axis=1).astype(int))
    heights = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)  # of ink, top to bottom
    whole = drawing.LINE_INCHES * drawing.PNG_DPI
    np.testing.assert_allclose(heights, [whole, whole / 2, whole], atol=whole * drawing.PEN + 2)


def test_sheet_with_attention_shows_it_as_it_is(tmp_path):
    text = "abcdefghij"
    strokes = handwriting(text)
    phi = np.zeros((len(text), len(strokes)))
    phi[2] = 1.0  # all the time on one character: a black bar
    drawing.sheet(tmp_path / "a.png", [("x", strokes)], title="t")
    drawing.sheet(tmp_path / "b.png", [drawing.Row("x", strokes, text, phi)], title="t")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        plain, shown = ink(a), ink(b)
    below = shown[plain.shape[0] - drawing.SPACE :]
    bar = np.flatnonzero(below.mean(axis=1) > 0.5)
    assert 0 < len(bar) == bar[-1] - bar[0] + 1
    pitch = len(bar)
    assert bar[0] - 2 * pitch in range(0, 2 * drawing.SPACE)  # third from the top
    assert below.shape[0] >= pitch * len(text)


def test_sheet_is_fast_and_survives_an_untrained_model(tmp_path, rng):
    texts = ["Layer normalization & co", "in the year 2016", "quick brown foxes"]
    rows = []
    for text in texts:
        strokes = handwriting(text)
        rows.append(drawing.Row(text, strokes, text, attention(text, strokes)))
    wild = np.concatenate([rng.normal(size=(600, 2)) * 1e6, rng.random((600, 1)) < 0.02], axis=1)
    rows.append(drawing.Row("untrained", wild, "ab", np.zeros((2, 600))))
    rows.append(drawing.Row("nothing", np.zeros((0, 3))))
    drawing.sheet(tmp_path / "sheet.png", rows, title="step 0")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width < 2000 and picture.height < 5000


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("sheet.svg", [("a", STROKES)], r"suffix is \.png"),
        ("sheet.png", [], "at least one row"),
        ("sheet.png", [("a", STROKES * np.nan)], "not finite"),
        ("sheet.png", [("a", STROKES, "ab", np.zeros((3, 6)))], r"shape \(2, 6\)"),
        ("sheet.png", [("a", STROKES, "ab", np.zeros((2, 5)))], r"shape \(2, 6\)"),
        ("sheet.png", [("a", STROKES, "ab", np.full((2, 6), np.nan))], "finite"),
    ],
)
def test_sheet_errors(tmp_path, name, rows, message):
    with pytest.raises(ValueError, match=message):
        drawing.sheet(tmp_path / name, rows, title="t")
    assert not list(tmp_path.iterdir())

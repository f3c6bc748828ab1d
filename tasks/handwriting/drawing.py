"""Pen strokes as pictures: SVG and PNG, written in time as animated SVG and GIF, sample sheets.

Strokes are a float array (T, 3) of `[dx, dy, end_of_stroke]` in raw pen units, y growing downward:
the pen's offset from the point before, and 1 where the point reached is the last of its stroke (the
pen lifts after it). The pen starts at the origin: T rows are T + 1 points. They are joined by a
centripetal Catmull-Rom spline, which passes through all of them without loops: a pen is sampled too
sparsely for straight segments to look like ink.

The proportions of the writing are kept and nothing is deskewed. What cannot be drawn, a NaN for
one, is a ValueError, and the file that was there before is untouched.
"""

import io
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from lnjax.training.manifest import write_bytes
from lnjax.training.pictures import png

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".animated.svg", ".svg", ".png", ".gif")  # a longer one before its own ending

# Proportions of a page, in heights of a typical line from its highest to its lowest point.
PEN = 0.04
MARGIN = 0.35
GAP = 0.2  # between the lowest point of a line and the highest of the next
LINE_INCHES = 0.5
MAX_INCHES = (9.0, 24.0)  # a page that would be larger is drawn smaller

INK = 27  # grey levels, 0 black to 255 white
GREY = 112
PNG_DPI = 200
SHEET_WIDTH = round(MAX_INCHES[0] * PNG_DPI)
SPACE = 24  # pixels
GIF_DPI = 90
GIF_FRAMES_PER_SECOND = 20
GIF_MAX_FRAMES = 150
GIF_MAX_PIXELS = 60_000_000  # of all frames together: a large page gets fewer
POINTS_PER_SECOND = 120  # about the rate of an electronic whiteboard
HOLD_SECONDS = 1.5  # the finished page, before the animation starts again
SUBSAMPLES = 4  # per pixel and direction, averaged: the antialiasing

# Characters that XML 1.0 cannot hold, escaped or not.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Row(NamedTuple):
    """One row of a sample sheet.

    `caption` is printed in small grey letters above the strokes (T, 3). `attention` are the window
    weights phi over the characters of `text`, (U, T): U = len(text), one column per point.
    """

    caption: str
    strokes: np.ndarray
    text: str = ""
    attention: np.ndarray | None = None


class _Page(NamedTuple):
    """Strokes of several lines placed on paper, in pen units with the origin at the upper left."""

    lines: list[list[np.ndarray]]
    width: float
    height: float
    pen: float
    inches: float  # on paper, per pen unit

    @property
    def strokes(self) -> list[np.ndarray]:
        """All strokes in the order of writing."""
        return [points for line in self.lines for points in line]


def polylines(strokes: np.ndarray) -> list[np.ndarray]:
    """Absolute points of every stroke.

    Args:
      strokes: (T, 3), see the module's docstring; an `end_of_stroke` above 0.5 counts as 1.

    Returns:
      One float64 array (n, 2) per stroke, n >= 1, the first point of all being (0, 0); none for
      T = 0. Points after the last `end_of_stroke` are a stroke too.

    Raises:
      ValueError: wrong shape, or a NaN or infinite number.
    """
    strokes = np.asarray(strokes, np.float64)  # float64: offsets add up over a long line
    if strokes.ndim != 2 or strokes.shape[1] != 3:
        raise ValueError(f"strokes must have shape (T, 3), not {strokes.shape}")
    if not np.isfinite(strokes).all():
        bad = int(np.flatnonzero(~np.isfinite(strokes).all(axis=1))[0])
        raise ValueError(f"strokes[{bad}] = {strokes[bad]} is not finite")
    if not len(strokes):
        return []
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(strokes[:, :2], axis=0)])
    return np.split(points, np.flatnonzero(strokes[:-1, 2] > 0.5) + 2)


def write(
    path: str | os.PathLike[str],
    lines: Iterable[np.ndarray],
    *,
    texts: Sequence[str] | None = None,
    seconds: float | None = None,
) -> None:
    """Draws lines of handwriting below each other, in the format that the file's suffix names.

    `.svg` is a still drawing with one path per stroke; `.animated.svg` and `.gif` show the pen
    writing the lines in order, again and again; `.png` has 200 dots per inch.

    Args:
      path: file to write, in a directory that exists; replaced in one step.
      lines: strokes (T, 3) of each line, all to the same scale. A line with T = 0 stays empty.
      texts: what each line says, one string per line. Not drawn: the description of a line in
        an SVG file, of the whole picture in a PNG or GIF file.
      seconds: how long the pen writes, without the pause at the end; by default as long as a person
        would need, but 1 to 12 seconds. Only for the animated formats.

    Raises:
      ValueError: unknown suffix, no lines or none with a point, bad strokes (see `polylines`),
        another number of texts than lines, `seconds` not positive or given for a still picture.
    """
    path = Path(path)
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(f"cannot draw to {path.name!r}: the suffixes are {', '.join(SUFFIXES)}")
    drawn = [polylines(strokes) for strokes in lines]
    if not any(drawn):
        raise ValueError("there is nothing to draw: no lines, or none with a point")
    page = _lay_out(drawn)
    texts = [""] * len(page.lines) if texts is None else texts
    if isinstance(texts, str) or len(texts) != len(page.lines):
        raise ValueError(f"texts must be {len(page.lines)} strings, one per line, not {texts!r}")
    texts = [_NOT_XML.sub("\ufffd", text) for text in texts]
    title = "\n".join(text for text in texts if text)
    if suffix in (".svg", ".png") and seconds is not None:
        raise ValueError(f"{path.name!r} is a still picture: it takes no seconds")
    if seconds is None:
        points = sum(len(points) for points in page.strokes)
        seconds = min(max(points / POINTS_PER_SECOND, 1.0), 12.0)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds must be positive, not {seconds}")
    if suffix == ".png":
        picture = _frames(page, page.inches * PNG_DPI, 1)[0]
        content = png(picture, title, keyword="Description", dpi=(PNG_DPI, PNG_DPI))
    elif suffix == ".gif":
        content = _gif(page, title, seconds)
    else:
        content = _svg(page, texts, title, None if suffix == ".svg" else seconds)
    write_bytes(path, content)


def sheet(path: str | os.PathLike[str], rows: Iterable[tuple], *, title: str) -> None:
    """Draws a sheet of samples as PNG: each row a caption, a line and, if given, its attention.

    The attention is an image with time to the right and the text's characters downward; the darkest
    twentieth of the points is black. A row far larger than the others (an untrained model's, say)
    is drawn smaller; all others share their scale.

    Args:
      path: file to write, ending in `.png`, in a directory that exists; replaced in one step.
      rows: at least one `Row`, or tuples of its fields: `(caption, strokes)`.
      title: printed above the rows.

    Raises:
      ValueError: another suffix, no rows, bad strokes (see `polylines`), or an attention that is
        not finite or not of shape (len(text), T).
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot draw a sheet to {path.name!r}: the suffix is .png")
    samples = [Row(*row) for row in rows]
    if not samples:
        raise ValueError("a sheet needs at least one row")
    pages = [_lay_out([polylines(row.strokes)]) for row in samples]
    shared = sorted(page.inches for page in pages)[(len(pages) - 1) // 2]
    blocks = [_words(title, 30, INK)]
    for row, page in zip(samples, pages, strict=True):
        blocks.append(_words(row.caption, 20, GREY))
        blocks.extend(_frames(page, min(page.inches, shared) * PNG_DPI, 1))
        if row.attention is None:
            continue
        shape = (len(row.text), len(row.strokes))
        if np.shape(row.attention) != shape or not np.isfinite(row.attention).all():
            raise ValueError(f"attention of {row.caption!r} must be finite, of shape {shape}")
        if np.size(row.attention):
            blocks.append(_matrix(row.attention, row.text))
    from PIL import Image

    height = SPACE + sum(block.height + SPACE for block in blocks)
    paper = Image.new("L", (SHEET_WIDTH + 2 * SPACE, height), 255)
    top = SPACE
    for block in blocks:
        paper.paste(block, (SPACE, top))
        top += block.height + SPACE
    write_bytes(path, png(paper, _NOT_XML.sub("\ufffd", title), dpi=(PNG_DPI, PNG_DPI)))


def _box(strokes: list[np.ndarray]) -> np.ndarray:
    """The least and the greatest coordinates of the strokes' smooth line, (2, 2)."""
    # A Bezier curve stays inside the hull of its control points.
    points = [p.reshape(-1, 2) for s in strokes for p in (s, _curves(s))]
    points = np.concatenate(points or [np.zeros((1, 2))])
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _lay_out(lines: list[list[np.ndarray]]) -> _Page:
    """Places the lines below each other, evenly spaced by the height of their middles."""
    low, high = np.stack([_box(strokes) for strokes in lines], axis=1)  # each (line, 2)
    # A single dash has no height; its width is no measure of a line's either.
    heights = np.maximum(high[:, 1] - low[:, 1], (high[:, 0] - low[:, 0]) / 30)
    size = float(np.median(heights[heights > 0])) if heights.any() else 1.0
    # The median point lies between the lines that small letters stand on and reach up to, whatever
    # long strokes a line happens to have: a page looks evenly spaced if these are.
    middles = np.array([np.median(np.concatenate(s)[:, 1]) if s else 0.0 for s in lines])
    ascents, descents = middles - low[:, 1], high[:, 1] - middles
    pitch = max(size, GAP * size + np.max(descents[:-1] + ascents[1:], initial=0.0))
    margin = MARGIN * size
    centres = margin + ascents[0] + pitch * np.arange(len(lines))
    offsets = np.stack([margin - low[:, 0], centres - middles], axis=1)
    placed = [[p + offset for p in s] for s, offset in zip(lines, offsets, strict=True)]
    width = float(2 * margin + np.max(high[:, 0] - low[:, 0]))
    height = float(centres[-1] + descents[-1] + margin)
    inches = min(LINE_INCHES / size, MAX_INCHES[0] / width, MAX_INCHES[1] / height)
    return _Page(placed, width, height, PEN * size, inches)


def _curves(points: np.ndarray) -> np.ndarray:
    """Bezier curves through the points (n, 2) of a stroke.

    Returns:
      (m, 3, 2): two control points and the end of each curve, which starts where the one before
      ends. Points that repeat the one before add no curve: m <= n - 1, and 0 for a dot.
    """
    steps = np.diff(points, axis=0)
    moved = np.any(steps != 0, axis=1)
    points, steps = np.concatenate([points[:1], points[1:][moved]]), steps[moved]
    if not len(steps):
        return np.zeros((0, 3, 2))
    # The tangent at a point, from the steps before and after it, by the centripetal rule; at the
    # ends, the one step there is.
    before, after = np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]])
    length_before, length_after = (np.hypot(*s.T)[:, None] for s in (before, after))
    root = np.sqrt(length_before) * np.sqrt(length_after)
    slope = length_before * after + length_after * before
    leaving = slope / (3 * (length_before + root))
    arriving = slope / (3 * (length_after + root))
    return np.stack([points[:-1] + leaving[:-1], points[1:] - arriving[1:], points[1:]], axis=1)


def _times(strokes: list[np.ndarray]) -> list[tuple[float, float]]:
    """When each stroke begins and ends, 0 to 1: a pen is sampled evenly in time."""
    stops = np.cumsum([len(points) for points in strokes]) - 1
    last = max(stops, default=0) or 1
    return [((b + 1 - len(p)) / last, b / last) for p, b in zip(strokes, stops, strict=True)]


def _svg(page: _Page, texts: Sequence[str], title: str, seconds: float | None) -> bytes:
    """SVG; with `seconds` every stroke appears in its turn."""
    digits = max(0, 2 - math.floor(math.log10(page.pen)))

    def numbers(*values: float) -> str:
        written = (f"{value:.{digits}f}" for value in values)
        return " ".join(w.rstrip("0").rstrip(".") if "." in w else w for w in written)

    body = []
    intervals = iter(_times(page.strokes))
    for strokes, text in zip(page.lines, texts, strict=True):
        body.append("<g>" + (f"<desc>{escape(text)}</desc>" if text else ""))
        for points in strokes:
            curves = "".join(f"C{numbers(*curve.ravel())}" for curve in _curves(points))
            path = f'<path d="M{numbers(*points[0])}{curves or "h0"}"'
            if seconds is None:
                body.append(f"{path}/>")
                continue
            cycle = seconds + HOLD_SECONDS
            start, stop = (at * seconds / cycle for at in next(intervals))
            if curves:
                # A dash longer than the path: where it ends exactly, it would show its round cap.
                lengths = np.linalg.norm(np.diff(_corners(points), axis=1), axis=-1)
                dash = numbers(1.1 * float(lengths.sum()) + page.pen)
                path += f' stroke-dasharray="{dash}"'
                change, keys = f'"stroke-dashoffset" values="{dash};{dash};0;0"', (start, stop)
            else:  # a dot has no length to be drawn along
                change, keys = '"opacity" values="0;1;1" calcMode="discrete"', (start,)
            times = ";".join(f"{key:.5f}" for key in (0, *keys, 1))
            rhythm = f'keyTimes="{times}" dur="{cycle:.2f}s" repeatCount="indefinite"'
            body.append(f"{path}><animate attributeName={change} {rhythm}/></path>")
        body.append("</g>")
    width, height = (96 * page.inches * side for side in (page.width, page.height))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}"'
        f' height="{height:.0f}" viewBox="0 0 {numbers(page.width, page.height)}">',
        f"<title>{escape(title) or 'Handwriting'}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<g fill="none" stroke="rgb({INK},{INK},{INK})" stroke-width="{numbers(page.pen)}"'
        ' stroke-linecap="round" stroke-linejoin="round">',
    )
    return "\n".join([*head, *body, "</g>", "</svg>", ""]).encode()


def _corners(points: np.ndarray) -> np.ndarray:
    """The curves of a stroke as short straight lines, (m, 9, 2); of a dot, (1, 1, 2)."""
    curves = _curves(points)
    if not len(curves):
        return points[None, :1]
    starts = np.concatenate([points[:1], curves[:-1, 2]])
    controls = np.concatenate([starts[:, None], curves], axis=1)
    t = np.linspace(0, 1, 9)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    return weights @ controls


def _frames(page: _Page, scale: float, count: int) -> "list[Image]":
    """The page as grey levels, ever more written, the last one whole; `scale` in pixels."""
    from PIL import Image, ImageDraw

    width, height = (SUBSAMPLES * math.ceil(x * scale) for x in (page.width, page.height))
    paper = Image.new("L", (width, height), 255)
    scale *= SUBSAMPLES
    draw = ImageDraw.Draw(paper)
    pen = max(page.pen * scale, SUBSAMPLES)  # a line thinner than a pixel would be grey
    frames = []
    for points, (start, stop) in zip(page.strokes, _times(page.strokes), strict=True):
        pieces = _corners(points * scale)
        for time, corners in zip(np.linspace(start, stop, len(pieces)), pieces, strict=True):
            while len(frames) + 1 < count and time > (len(frames) + 1) / count:
                frames.append(paper.reduce(SUBSAMPLES))
            draw.line([(x, y) for x, y in corners], fill=INK, width=round(pen))
            for x, y in corners:  # round joints and ends
                draw.circle((x, y), pen / 2, fill=INK)
    return [*frames, *(paper.reduce(SUBSAMPLES) for _ in range(count - len(frames)))]


def _gif(page: _Page, title: str, seconds: float) -> bytes:
    scale = page.inches * GIF_DPI
    count = min(GIF_MAX_FRAMES, int(GIF_MAX_PIXELS / (page.width * page.height * scale**2)))
    count = max(2, min(count, round(seconds * GIF_FRAMES_PER_SECOND)))
    frames = _frames(page, scale, count)
    # GIF counts hundredths of a second, and viewers slow down what is shown for less than two.
    ends = np.round(np.arange(count + 1) * 100 * seconds / count)
    durations = [10 * max(2, int(hundredths)) for hundredths in np.diff(ends)]
    durations[-1] += round(1000 * HOLD_SECONDS)
    options = {"duration": durations, "loop": 0, "comment": title.encode()}
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def _words(text: str, size: int, grey: int) -> "Image":
    """One line of text as grey levels; `size` in pixels."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("L", (SHEET_WIDTH, size + size // 3), 255)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((0, 0), " ".join(text.split()), fill=grey, font=font)
    return picture


def _matrix(attention: np.ndarray, text: str) -> "Image":
    """Grey levels of attention (U, T), each row named by its character."""
    from PIL import Image, ImageDraw, ImageFont

    attention = np.asarray(attention, np.float64)
    black = float(np.quantile(attention.max(axis=0), 0.95))
    levels = 255 * (1 - np.clip(attention / (black if black > 0 else 1.0), 0, 1))
    image = Image.fromarray(levels.astype(np.uint8))
    image = image.resize((SHEET_WIDTH - 30, 18 * len(text)), Image.Resampling.NEAREST)
    picture = Image.new("L", (SHEET_WIDTH, image.height), 255)
    picture.paste(image, (30, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for row, letter in enumerate(text):
        draw.text((12, 18 * row + 9), letter, fill=GREY, font=font, anchor="mm")
    return picture

"""Pictures of how images were drawn: a sheet of glimpses as PNG, the canvas over time as GIF.

A pixel is as black as the canvas holds it for likely. Where the network read is framed in blue,
where it wrote in red: a frame goes through the outermost filters, and its line is as thick as they
are wide. What cannot be drawn, a NaN for one, is a ValueError, and the file that was there before
is untouched.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lnjax.training.manifest import write_bytes
from lnjax.training.pictures import png

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".gif")

SCALE = 4  # pixels of a picture for one of an image
SPACE = 8
COLUMNS = 8  # of glimpses on a sheet
MAX_SIDE = 1200  # of an animation; more images are drawn smaller
GIF_SECONDS = 4.0
HOLD_SECONDS = 1.5  # the finished images, before the animation starts again

# A picture is made of palette entries: greys, and last the two colours.
RED, BLUE = 254, 255
WHITE = 253
GREY = 112
PALETTE = [level for grey in range(WHITE) for level in 3 * [round(255 * grey / WHITE)]]
PALETTE += [255, 255, 255, 213, 60, 0, 0, 114, 178]


class Drawn(NamedTuple):
    """How one image was drawn in T glimpses. Frames as `attention.frame` gives them."""

    pictures: np.ndarray  # (T, B, A) float32, probability of ink after each glimpse
    write: np.ndarray | None  # (T, 5) where it wrote; None without attention
    read: np.ndarray | None  # (T, 5) where it read; None without attention or original
    original: np.ndarray | None  # (B, A) of 0 and 1: what it saw; None if drawn out of nothing


def write(path: str | os.PathLike[str], drawn: Sequence[Drawn], *, title: str) -> None:
    """Draws images in the format that the file's suffix names.

    `.png` is a `sheet`, `.gif` an `animation`.

    Raises:
      ValueError: another suffix; see `sheet` and `animation`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        name = Path(path).name
        raise ValueError(f"cannot draw to {name!r}: the suffixes are {', '.join(SUFFIXES)}")
    (sheet if suffix == ".png" else animation)(path, drawn, title=title)


def sheet(path: str | os.PathLike[str], drawn: Sequence[Drawn], *, title: str) -> None:
    """Draws a PNG with a row for each image: what it saw, if anything, glimpses, the last canvas.

    Args:
      path: file to write, in a directory that exists; replaced in one step.
      drawn: at least one, all with the same number of glimpses and of one size.
      title: printed above the rows.

    Raises:
      ValueError: none, several sizes, or probabilities that are none.
    """
    num_glimpses, height, width = _check(drawn)
    shown = np.unique(np.round(np.linspace(0, num_glimpses - 1, COLUMNS)).astype(int))
    seen = any(one.original is not None for one in drawn)
    heads = (["seen"] if seen else []) + [str(t + 1) for t in shown] + ["drawn"]
    across, down, top = width * SCALE + SPACE, height * SCALE + SPACE, 64
    size = (max(SPACE + across * len(heads), 480), top + down * len(drawn))
    from PIL import Image, ImageDraw, ImageFont

    paper = Image.new("P", size, WHITE)
    paper.putpalette(PALETTE)
    draw = ImageDraw.Draw(paper)
    draw.text((SPACE, SPACE), " ".join(title.split()), WHITE // 10, ImageFont.load_default(20))
    for column, head in enumerate(heads):
        place = (SPACE + across * column + width * SCALE // 2, top - SPACE)
        draw.text(place, head, GREY, ImageFont.load_default(16), anchor="mb")
    for row, one in enumerate(drawn):
        tiles = [_tile(one.original, SCALE) if one.original is not None else None] if seen else []
        tiles += [_tile(one.pictures[t], SCALE, _frames(one, t)) for t in shown]
        tiles += [_tile(one.pictures[-1], SCALE)]
        for column, tile in enumerate(tiles):
            if tile is not None:
                paper.paste(tile, (SPACE + across * column, top + down * row))
    write_bytes(path, png(paper, title))


def animation(path: str | os.PathLike[str], drawn: Sequence[Drawn], *, title: str) -> None:
    """Draws a GIF of all images side by side as they are drawn, again and again.

    Beside a canvas that had an original stands that original, with what was read of it framed.

    Args, Raises: as `sheet`; the title becomes the comment of the file.
    """
    num_glimpses, height, width = _check(drawn)
    pair = 2 if any(one.original is not None for one in drawn) else 1
    columns = math.ceil(math.sqrt(len(drawn) / pair))
    rows = math.ceil(len(drawn) / columns)
    scale = max(1, min(SCALE, MAX_SIDE // max(columns * pair * width, rows * height)))
    across, down = pair * width * scale + SPACE, height * scale + SPACE
    from PIL import Image

    frames = []
    for t in [*range(num_glimpses), None]:  # at the end without frames
        paper = Image.new("P", (SPACE + columns * across, SPACE + rows * down), GREY)
        paper.putpalette(PALETTE)
        for place, one in enumerate(drawn):
            left, top = SPACE + place % columns * across, SPACE + place // columns * down
            if one.original is not None:
                at = [] if t is None else _frames(one._replace(write=None), t)
                paper.paste(_tile(one.original, scale, at), (left, top))
            at = [] if t is None else _frames(one._replace(read=None), t)
            picture = _tile(one.pictures[-1 if t is None else t], scale, at)
            paper.paste(picture, (left + (pair - 1) * width * scale, top))
        frames.append(paper)
    # GIF counts hundredths of a second, and viewers slow down what is shown for less than two.
    each = 10 * max(2, round(100 * GIF_SECONDS / num_glimpses))
    durations = [each] * num_glimpses + [round(1000 * HOLD_SECONDS)]
    buffer = io.BytesIO()
    options = {"duration": durations, "loop": 0, "comment": title.encode(), "optimize": False}
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
    write_bytes(path, buffer.getvalue())


def _check(drawn: Sequence[Drawn]) -> tuple[int, int, int]:
    """The shape (T, B, A) that all of them have."""
    if not drawn:
        raise ValueError("there is nothing to draw: no images")
    shapes = {one.pictures.shape for one in drawn}
    if len(shapes) > 1:
        raise ValueError(f"images that are drawn together must be of one shape, not {shapes}")
    for number, one in enumerate(drawn):
        for name, values in (("write", one.write), ("read", one.read)):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"image {number}: a frame of {name} is not finite")
        if not (0 <= one.pictures.min() and one.pictures.max() <= 1):  # so is no NaN
            raise ValueError(f"image {number} must hold probabilities between 0 and 1")
    return drawn[0].pictures.shape


def _frames(one: Drawn, t: int) -> list[tuple[np.ndarray, int]]:
    """What was read and written at glimpse t, with its colour."""
    pairs = ((one.read, BLUE), (one.write, RED))
    return [(frames[t], colour) for frames, colour in pairs if frames is not None]


def _tile(
    picture: np.ndarray, scale: int, frames: Sequence[tuple[np.ndarray, int]] = ()
) -> "Image":
    """An image (B, A) of ink between 0 and 1, enlarged, with frames around parts of it."""
    from PIL import Image, ImageDraw

    levels = np.round(WHITE * (1 - np.asarray(picture, np.float64))).astype(np.uint8)
    levels = np.kron(levels, np.ones((scale, scale), np.uint8))
    tile = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    draw = ImageDraw.Draw(tile)
    for frame, colour in frames:
        # Beyond the tile one place is as good as another.
        reach = 2 * max(tile.size)
        left, top, right, bottom = np.clip(np.round(frame[:4] * scale), -reach, reach).tolist()
        thickness = int(np.clip(round(float(frame[4]) * scale / 2), 1, scale))
        draw.rectangle((left, top, right, bottom), outline=colour, width=thickness)
    return tile

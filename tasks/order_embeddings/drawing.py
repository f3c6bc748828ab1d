"""A sheet of found images as PNG: a row for each query, the best on the left."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lnjax.training.manifest import write_bytes
from lnjax.training.pictures import png

SCALE = 2  # pixels of the sheet for one of an image
SPACE = 10
LINE = 24  # height of a line of text
WHITE, GREY, BLACK = 255, 112, 0


class Found(NamedTuple):
    """One of the images that a query found."""

    id: str
    row: int  # of its features
    distance: float  # 0 is a perfect match
    image: np.ndarray | None  # (H, W) uint8; None where there are features only


class Query(NamedTuple):
    """A sentence and what it found, best first."""

    text: str
    found: list[Found]


def sheet(path: str | os.PathLike[str], queries: Sequence[Query], *, title: str) -> None:
    """Draws what each query found, with the distance below every image.

    Args:
      path: file to write, in a directory that exists; replaced in one step.
      queries: at least one; all images of one size, ink is 255.
      title: printed above the rows, and the title of the file.

    Raises:
      ValueError: there is nothing to draw, images differ in size, or a distance is no number.
    """
    images = [found.image for query in queries for found in query.found]
    sizes = {image.shape for image in images if image is not None}
    if len(sizes) != 1 or any(image is None for image in images):
        raise ValueError(f"images of one size are needed to draw a sheet, got the sizes {sizes}")
    if not all(np.isfinite(found.distance) for query in queries for found in query.found):
        raise ValueError("a distance is not finite")
    ((height, width),) = sizes
    across, down = width * SCALE + SPACE, height * SCALE + 2 * LINE + SPACE
    columns = max(len(query.found) for query in queries)
    from PIL import Image, ImageDraw, ImageFont

    paper = Image.new("L", (SPACE + across * columns, 2 * LINE + down * len(queries)), WHITE)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(16)
    draw.text((SPACE, SPACE), " ".join(title.split()), GREY, font)
    for row, query in enumerate(queries):
        top = 2 * LINE + down * row
        draw.text((SPACE, top), " ".join(query.text.split()), BLACK, font)
        for column, found in enumerate(query.found):
            left = SPACE + across * column
            pixels = np.kron(WHITE - np.asarray(found.image), np.ones((SCALE, SCALE), np.uint8))
            paper.paste(Image.fromarray(pixels.astype(np.uint8)), (left, top + LINE))
            box = (left - 1, top + LINE - 1, left + width * SCALE, top + LINE + height * SCALE)
            draw.rectangle(box, outline=GREY)
            draw.text((left, top + down - LINE - SPACE // 2), f"{found.distance:.4f}", GREY, font)
    write_bytes(path, png(paper, title))

"""The embedded scenes: two to four handwritten digits in a 2 x 2 grid, with five captions each.

The digits are real (`embedded_digits`), the scenes and the sentences are made. A split's scenes are
composed of that split's digits, so no image of a digit is in two splits. The scenes of validation
and test all differ in what stands where, so that a caption that lists everything means one of them.
What is known of a scene are features, as of a photograph in the paper: each cell through one fixed
random projection and a rectifier.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lnjax.data import embedded_digits

SEED = 0
NUM_SCENES = {"train": 8000, "validation": 500, "test": 500}
NUM_CAPTIONS = 5
SIDE = 28  # of a cell, in pixels
SHAPE = (2 * SIDE, 2 * SIDE, 1)
WIDTH = 256  # features of a cell

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CELLS = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = {  # of the first cell to the second; the second to the first
    (0, 1): ("left of", "right of"),
    (2, 3): ("left of", "right of"),
    (0, 2): ("above", "below"),
    (1, 3): ("above", "below"),
    (0, 3): ("above and left of", "below and right of"),
    (1, 2): ("above and right of", "below and left of"),
}


def make() -> dict[str, list[dict[str, Any]]]:
    """By split the scenes: `image` (56, 56, 1) uint8 and `captions`, five sentences.

    Raises: DataError as `embedded_digits.read`.
    """
    return {
        split: make_split(digits, NUM_SCENES[split], np.random.default_rng([SEED, number]), split)
        for number, (split, digits) in enumerate(embedded_digits.read().items())
    }


def make_split(
    digits: Mapping[str, np.ndarray], number: int, rng: np.random.Generator, split: str
) -> list[dict[str, Any]]:
    """`number` scenes of `digits` (image (N, 28, 28, 1) uint8, label (N,)); but for the split
    "train" no two with the same digits in the same cells."""
    scenes: list[dict[str, Any]] = []
    seen: set[tuple] = set()
    while len(scenes) < number:
        cells = np.sort(rng.permutation(len(CELLS))[: rng.integers(2, 5)])
        chosen = rng.integers(len(digits["label"]), size=len(cells))
        placed = {int(cell): int(digits["label"][i]) for cell, i in zip(cells, chosen, strict=True)}
        layout = tuple(placed.items())
        if layout in seen and split != "train":
            continue
        seen.add(layout)
        image = np.zeros((2, SIDE, 2, SIDE, 1), np.uint8)
        for cell, i in zip(cells, chosen, strict=True):
            image[cell // 2, :, cell % 2] = digits["image"][i]
        scenes.append({"image": image.reshape(SHAPE), "captions": describe(placed, rng)})
    return scenes


def describe(placed: Mapping[int, int], rng: np.random.Generator) -> list[str]:
    """Five sentences about a scene of digits by cell: all of it in reading order, in another order,
    without the places, in coarser words; and how two of its digits stand to each other."""
    cells = sorted(placed)
    others = cells
    while others == cells:
        others = rng.permutation(cells).tolist()
    first, second = sorted(rng.permutation(cells)[:2].tolist())
    one, other = (_named(placed[cell]) for cell in (first, second))
    there, back = RELATIONS[first, second]
    return [
        _listed(f"{_named(placed[cell])} {CELLS[cell]}" for cell in cells),
        _listed(f"{_named(placed[cell])} {CELLS[cell]}" for cell in others),
        f"{WORDS[len(cells)]} digits in reading order "
        + " ".join(WORDS[placed[cell]] for cell in cells),
        f"{one} {there} {other}" if rng.integers(2) else f"{other} {back} {one}",
        _listed(f"{_coarse(placed[cell])} {CELLS[cell]}" for cell in cells),
    ]


def _named(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {WORDS[digit]}"


def _coarse(digit: int) -> str:
    return f"{'big' if digit >= 5 else 'small'} {'odd' if digit % 2 else 'even'}"


def _listed(parts: Any) -> str:
    *rest, last = parts
    return f"{' '.join(rest)} and {last}"


def features(images: np.ndarray) -> np.ndarray:
    """What a model sees of scenes: (N, 56, 56, 1) uint8 -> (N, 1024) float32, none negative.

    Each cell, a row of 784 pixels p, becomes max(0, p R) with a fixed R of +1 and -1. All sums are
    integers below 2^24, so that every machine computes the same.
    """
    projection = np.random.default_rng(SEED).integers(0, 2, (SIDE * SIDE, WIDTH)) * 2 - 1
    projection = projection.astype(np.float32)
    out = np.empty((len(images), len(CELLS) * WIDTH), np.float32)
    for first in range(0, len(images), 1000):  # not all pixels as floats at once
        part = images[first : first + 1000].reshape(-1, 2, SIDE, 2, SIDE).swapaxes(2, 3)
        cells = part.reshape(-1, SIDE * SIDE).astype(np.float32)
        out[first : first + 1000] = np.maximum(cells @ projection, 0).reshape(len(part), -1)
    return out

"""A synthetic pen: writes a text as pen offsets with the joined script of the Hershey fonts.

The font gives every character as polylines in font units (a capital is 21 units high). A line is
laid out, strokes that touch are joined (the pen stays down between most letters), the writer's
slant, aspect, size and baseline wave are applied, each stroke is resampled at equal arc length, and
smoothed noise is added to every point. These are strokes of a font from 1967 and no handwriting:
say "synthetic pen". Everything is a function of the text and of the generator.
"""

import dataclasses
import functools

import numpy as np

from lnjax.data.errors import DataError
from lnjax.data.offsets import to_offsets

FONT = "scripts"
SPACING = 3.6  # font units between neighbouring points of one stroke, before the size is applied
JITTER = 0.2  # font units, standard deviation of the noise before smoothing
SMOOTHING = (0.25, 0.5, 0.25)  # taps of the smoothing of the noise along the pen's path
JOIN = (
    0.75  # font units: strokes whose ends are nearer than this are written without lifting the pen
)
RESOLUTION = 64  # positions a font unit: a machine's last bits of sin or log are rounded away
SLANT = (-0.15, 0.3)  # horizontal shift per unit of height
ASPECT = (0.85, 1.15)  # horizontal stretch
SIZE = (0.85, 1.15)  # overall scale
WAVE_HEIGHT = (0.0, 1.5)  # font units, amplitude of the baseline wave
WAVE_LENGTH = (150.0, 400.0)  # font units, period of the baseline wave


@dataclasses.dataclass(frozen=True)
class Style:
    """How one line is written; the wave is in font units and radians, the rest are pure numbers."""

    slant: float = 0.0
    aspect: float = 1.0
    size: float = 1.0
    wave_height: float = 0.0
    wave_length: float = 200.0
    wave_phase: float = 0.0


def draw_style(rng: np.random.Generator) -> Style:
    """Draws a style uniformly from the ranges of this module."""
    return Style(
        slant=rng.uniform(*SLANT),
        aspect=rng.uniform(*ASPECT),
        size=rng.uniform(*SIZE),
        wave_height=rng.uniform(*WAVE_HEIGHT),
        wave_length=rng.uniform(*WAVE_LENGTH),
        wave_phase=rng.uniform(0.0, 2.0 * np.pi),
    )


@functools.cache
def _glyphs() -> dict[str, tuple[tuple[np.ndarray, ...], float]]:
    """Every character of the font: its strokes, (n, 2) float64 each, and its width."""
    from HersheyFonts import HersheyFonts

    font = HersheyFonts()
    font.load_default_font(FONT)
    return {
        character: (
            tuple(np.array(s, np.float64) - (glyph.left_offset, 0.0) for s in glyph.strokes),
            float(glyph.char_width),
        )
        for character, glyph in font.all_glyphs.items()
    }


def layout(text: str) -> list[np.ndarray]:
    """Places the strokes of `text` side by side and joins those that touch.

    Returns: strokes in writing order, each (n >= 2, 2) float64 in font units, y downward, baseline
        at y = 9.
    Raises: DataError for a character that the font does not have and for a text without any stroke.
    """
    strokes: list[np.ndarray] = []
    x = 0.0
    for character in text:
        if character not in _glyphs():
            raise DataError(
                f"text {text!r}: the font {FONT!r} has no character {character!r}; leave it out"
            )
        glyph, width = _glyphs()[character]
        for stroke in glyph:
            stroke = stroke + np.array((x, 0.0))
            if strokes and np.hypot(*(strokes[-1][-1] - stroke[0])) < JOIN:
                strokes[-1] = np.concatenate([strokes[-1], stroke[1:]])
            else:
                strokes.append(stroke)
        x += width
    if not strokes:
        raise DataError(f"text {text!r}: nothing to write; give a text with a visible character")
    return strokes


def resample(strokes: list[np.ndarray], spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Walks along each stroke in equal steps of about `spacing`, end points included.

    Returns: points (n, 2) float64 and last (n,) bool, True at the last point of its stroke.
    """
    corners = np.concatenate(strokes)
    ends = np.cumsum([len(stroke) for stroke in strokes]) - 1
    starts = np.append(0, ends[:-1] + 1)
    steps = np.hypot(*np.diff(corners, axis=0).T)
    steps[starts[1:] - 1] = 1.0  # pen up: any positive length keeps the path increasing
    path = np.append(0.0, np.cumsum(steps))
    lengths = path[ends] - path[starts]
    pieces = np.maximum(1, np.rint(lengths / spacing)).astype(np.int64)
    last = np.cumsum(pieces + 1) - 1
    stroke_of = np.repeat(np.arange(len(strokes)), pieces + 1)
    position = np.arange(last[-1] + 1) - np.append(0, last[:-1] + 1)[stroke_of]
    where = path[starts][stroke_of] + position * (lengths / pieces)[stroke_of]
    points = np.stack([np.interp(where, path, corners[:, k]) for k in (0, 1)], axis=1)
    return points, np.isin(np.arange(len(points)), last)


def write(text: str, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Writes `text` once.

    Args:
        text: characters of the font; spaces only move the pen.
        style: the writer.
        rng: source of the jitter.

    Returns: offsets (T, 3) float32 as in `to_offsets`, in font units times the style's size.
    Raises: DataError as in `layout`.
    """
    shear = np.array(
        [[style.aspect, 0.0], [-style.slant, 1.0]]
    )  # y is downward: up leans to the right
    points, last = resample([stroke @ shear for stroke in layout(text)], SPACING)
    wave = 2.0 * np.pi * points[:, 0] / style.wave_length + style.wave_phase
    points[:, 1] += style.wave_height * np.sin(wave)
    noise = rng.normal(0.0, JITTER, (len(points) + len(SMOOTHING) - 1, 2))
    points += np.stack([np.convolve(noise[:, k], SMOOTHING, mode="valid") for k in (0, 1)], axis=1)
    return to_offsets(np.rint(style.size * points * RESOLUTION) / RESOLUTION, last)

"""The synthetic pen: geometry, styles, determinism."""

import dataclasses

import numpy as np
import pytest

from lnjax.data import DataError, synthetic_pen
from lnjax.data.offsets import to_offsets
from lnjax.data.scripture import ALPHABET
from lnjax.data.synthetic_pen import Style, draw_style, layout, resample, write


@pytest.fixture
def steady(monkeypatch):
    """A pen without jitter."""
    monkeypatch.setattr(synthetic_pen, "JITTER", 0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def path(strokes):
    return np.cumsum(strokes[:, :2].astype(np.float64), axis=0)


def test_every_character_but_space_leaves_strokes():
    for character in ALPHABET.replace(" ", ""):
        assert all(len(stroke) >= 2 for stroke in layout(character)), character
        assert len(layout(character)) >= 1
    with pytest.raises(DataError, match="nothing to write"):
        layout("  ")
    with pytest.raises(DataError, match="no character 'é'"):
        layout("né")


def test_space_moves_the_pen():
    (first,), (second,) = layout("ll"), layout("l l")[1:]
    assert len(layout("ll")) == 1 and len(layout("l l")) == 2
    assert second[0, 0] > first[:, 0].max() / 2 + 5


def test_letters_are_joined():
    assert len(layout("mellow")) < sum(len(layout(character)) for character in "mellow")


def test_steps_are_equal_within_a_stroke_and_ends_are_kept():
    strokes = [np.array([[0, 0], [3, 4], [3, 10.0]]), np.array([[20, 0], [20.5, 0]])]
    points, last = resample(strokes, 2.0)
    assert last.sum() == 2 and last[-1] and np.flatnonzero(last).tolist() == [6, 8]
    assert np.allclose(points[[0, 6, 7, 8]], [[0, 0], [3, 10], [20, 0], [20.5, 0]])
    # the path of 11 is cut into 6 pieces; only across the corner is the chord shorter than the arc
    chords = np.hypot(*np.diff(points[:7], axis=0).T)
    assert np.allclose(np.delete(chords, 2), 11 / 6) and chords[2] < 11 / 6


def test_offsets_reproduce_the_points():
    points = np.array([[5, 1], [6, 3], [9, 3], [9, 2.5]])
    offsets = to_offsets(points, np.array([True, False, True, True]))
    assert offsets.dtype == np.float32 and offsets.shape == (3, 3)
    assert np.allclose(points[0] + path(offsets), points[1:])
    assert offsets[:, 2].tolist() == [0, 1, 1]


def test_offsets_of_a_written_line_follow_the_font(steady):
    text = "God said, Let"
    strokes = layout(text)
    offsets = write(text, Style(), rng())
    assert offsets.dtype == np.float32 and np.isin(offsets[:, 2], [0, 1]).all()
    assert offsets[:, 2].sum() == len(strokes) and offsets[-1, 2] == 1
    ends = strokes[0][0] + path(offsets)[offsets[:, 2] == 1]
    assert np.allclose(ends, [stroke[-1] for stroke in strokes], atol=0.02)


def test_capitals_rise_and_tails_hang(steady):
    """y grows downward: from its start on the middle of the line, l goes up, j goes down."""
    assert path(write("l", Style(), rng()))[:, 1].min() < -8
    assert path(write("j", Style(), rng()))[:, 1].max() > 8


def test_styles_do_what_they_say(steady):
    text = "hill"
    plain = path(write(text, Style(), rng()))
    large = path(write(text, Style(size=2.0), rng()))
    assert np.allclose(large, 2 * plain, atol=0.05)
    wide = path(write(text, Style(aspect=1.5), rng()))
    assert np.ptp(wide[:, 0]) == pytest.approx(1.5 * np.ptp(plain[:, 0]), rel=0.01)
    assert np.ptp(wide[:, 1]) == pytest.approx(np.ptp(plain[:, 1]), rel=0.02)

    def lean(points):  # how far right the upper half of the line lies of the lower half
        upper = points[:, 1] < np.median(points[:, 1])
        return points[upper, 0].mean() - points[~upper, 0].mean()

    right, left = (path(write(text, Style(slant=slant), rng())) for slant in (0.4, -0.4))
    assert lean(right) > lean(plain) + 1 > lean(left) + 2
    waved = path(write("mmmmmmmmmm", Style(wave_height=5.0, wave_length=150.0), rng()))
    flat = path(write("mmmmmmmmmm", Style(), rng()))
    assert np.ptp(waved[:, 1]) > np.ptp(flat[:, 1]) + 4


def test_points_lie_on_a_grid():
    """So that the digest of the set does not hang on the last bit of a machine's sine."""
    scaled = write("and it was so.", draw_style(rng(1)), rng(2))[:, :2] * 64
    assert np.array_equal(scaled, np.rint(scaled)) and np.any(scaled % 2)


def test_deterministic_and_jittered():
    style = draw_style(rng(1))
    assert style == draw_style(rng(1)) != draw_style(rng(2))
    one, same, other = (write("and it was so.", style, rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert one.shape == other.shape and np.array_equal(one[:, 2], other[:, 2])
    spread = np.std(path(one) - path(other))
    assert 0.1 < spread < 1.0


def test_drawn_styles_stay_in_their_ranges():
    styles = [dataclasses.asdict(draw_style(rng(seed))) for seed in range(200)]
    for name in ("slant", "aspect", "size", "wave_height", "wave_length"):
        low, high = getattr(synthetic_pen, name.upper())
        values = np.array([style[name] for style in styles])
        assert low <= values.min() < values.max() <= high
        assert np.ptp(values) > 0.8 * (high - low)

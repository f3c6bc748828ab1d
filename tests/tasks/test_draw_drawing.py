"""Pictures of digits being drawn: what stands where on sheets and in animations."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tasks import draw
from tasks.draw import drawing
from tasks.draw.drawing import SCALE, SPACE, Drawn

T, SHAPE = 5, (6, 9)
RED, BLUE = (213, 60, 0), (0, 114, 178)


def make(rng, original=False, windows=True):
    frames = np.tile(np.float32([2, 1, 5, 4, 0.1]), (T, 1))  # left, top, right, bottom, deviation
    return Drawn(
        pictures=rng.random((T, *SHAPE)).astype(np.float32),
        write=frames if windows else None,
        read=frames + np.float32([2, 1, 2, 1, 0]) if windows and original else None,
        original=rng.integers(0, 2, SHAPE).astype(np.uint8) if original else None,
    )


def pixels(picture):
    return np.asarray(picture.convert("RGB"), np.int64)


def tile(picture, left, top):
    """An enlarged image on a picture, at that place."""
    height, width = SHAPE
    return pixels(picture)[top : top + height * SCALE, left : left + width * SCALE]


def grey(image):
    """What a tile of probabilities looks like, to the rounding of the greys."""
    return np.repeat(np.repeat(255 * (1 - np.asarray(image, float)), SCALE, 0), SCALE, 1)[..., None]


def is_colour(shown, colour):
    return (shown == np.array(colour)).all(axis=-1)


def border(left, top, right, bottom):
    """Where the frame through these pixels of an enlarged image is."""
    inside = np.zeros((SHAPE[0] * SCALE, SHAPE[1] * SCALE), bool)
    inside[top : bottom + 1, left : right + 1] = True
    inside[top + 1 : bottom, left + 1 : right] = False
    return inside


def test_a_sheet_has_a_row_for_each_image(rng, tmp_path):
    drawn = [make(rng), make(rng, original=True), make(rng, original=True)]
    draw.draw_samples(tmp_path / "sheet.png", drawn, title="embedded, step 7")
    across, down = SHAPE[1] * SCALE + SPACE, SHAPE[0] * SCALE + SPACE
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.info["Title"] == "embedded, step 7"
        top = sheet.height - 3 * down
        for row, one in enumerate(drawn):
            seen = tile(sheet, SPACE, top + row * down)
            if one.original is None:
                assert (seen == 255).all()
            else:
                np.testing.assert_allclose(seen, seen * 0 + grey(one.original), atol=1)
            for t in range(T):
                shown = tile(sheet, SPACE + (1 + t) * across, top + row * down)
                red, blue = is_colour(shown, RED), is_colour(shown, BLUE)
                assert (red == border(8, 4, 20, 16)).all()
                # The frame that was read lies below the one that was written.
                want = border(16, 8, 28, 20) & ~red
                assert (blue == (want if one.original is not None else False)).all()
                plain = ~red & ~blue
                want = np.broadcast_to(grey(one.pictures[t]), shown.shape)
                np.testing.assert_allclose(shown[plain], want[plain], atol=2)
            last = tile(sheet, SPACE + (1 + T) * across, top + row * down)
            np.testing.assert_allclose(last, last * 0 + grey(one.pictures[-1]), atol=2)


def test_many_glimpses_are_thinned_out(rng, tmp_path):
    long = make(rng, windows=False)._replace(pictures=rng.random((64, *SHAPE)))
    drawing.sheet(tmp_path / "a.png", [long], title="")
    across, top = SHAPE[1] * SCALE + SPACE, 64
    with Image.open(tmp_path / "a.png") as sheet:
        for column, t in enumerate([0, 9, 18, 27, 36, 45, 54, 63, 63]):
            shown = tile(sheet, SPACE + column * across, top)
            np.testing.assert_allclose(shown, shown * 0 + grey(long.pictures[t]), atol=2)


@pytest.mark.parametrize("original", [False, True])
def test_an_animation_shows_every_glimpse(rng, tmp_path, original):
    drawn = [make(rng, original=original) for _ in range(3)]
    drawing.animation(tmp_path / "a.gif", drawn, title="seed 1")
    columns = 2
    width = SHAPE[1] * SCALE * (2 if original else 1)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == T + 1 and gif.info["loop"] == 0
        assert gif.info["comment"] == b"seed 1"
        for t, frame in enumerate(ImageSequence.Iterator(gif)):
            assert frame.info["duration"] == (800 if t < T else 1500)
            for place, one in enumerate(drawn):
                left = SPACE + place % columns * (width + SPACE)
                top = SPACE + place // columns * (SHAPE[0] * SCALE + SPACE)
                canvas = tile(frame, left + width - SHAPE[1] * SCALE, top)
                red = is_colour(canvas, RED)
                assert (red == (border(8, 4, 20, 16) if t < T else False)).all()
                want = np.broadcast_to(grey(one.pictures[min(t, T - 1)]), canvas.shape)
                np.testing.assert_allclose(canvas[~red], want[~red], atol=2)
                if original:
                    seen = tile(frame, left, top)
                    blue = is_colour(seen, BLUE)
                    assert (blue == (border(16, 8, 28, 20) if t < T else False)).all()
                    want = np.broadcast_to(grey(one.original), seen.shape)
                    np.testing.assert_allclose(seen[~blue], want[~blue], atol=2)


def test_many_images_are_drawn_smaller(rng, tmp_path):
    drawing.animation(tmp_path / "a.gif", [make(rng)] * 900, title="")
    with Image.open(tmp_path / "a.gif") as gif:
        assert max(gif.size) <= drawing.MAX_SIDE + 31 * SPACE


def test_the_line_is_as_thick_as_the_filters_are_wide(rng, tmp_path):
    counts = []
    for deviation in (0.1, 1.0, 50.0):
        one = make(rng)
        one.write[:, 4] = deviation
        drawing.sheet(tmp_path / "a.png", [one], title="")
        with Image.open(tmp_path / "a.png") as sheet:
            counts.append(int(is_colour(tile(sheet, SPACE, 64), RED).sum()))
    sides = [[13 - 2 * n, 13] for n in (1, 2, 4)]
    assert counts == [outer**2 - inner**2 for inner, outer in sides]


def test_windows_far_outside_are_drawn_nowhere(rng, tmp_path):
    one = make(rng)
    one.write[:] = [1e6, 1e6, 3e8, 3e8, 100]
    drawing.sheet(tmp_path / "a.png", [one], title="")
    one.write[:] = [-1e9, -1e9, 1e9, 1e9, 100]  # around everything
    drawing.sheet(tmp_path / "b.png", [one], title="")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as sheet:
            assert not is_colour(pixels(sheet), RED).any()


def test_the_suffix_chooses(rng, tmp_path):
    for name, kind in (("a.png", "PNG"), ("a.GIF", "GIF")):
        drawing.write(tmp_path / name, [make(rng)], title="")
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("a.svg", lambda one: [one], r"cannot draw to 'a.svg': the suffixes are .png, .gif"),
        ("a.png", lambda one: [], "no images"),
        ("a.gif", lambda one: [one, one._replace(pictures=one.pictures[1:])], "of one shape"),
        ("a.png", lambda one: [one._replace(pictures=one.pictures * np.nan)], "image 0 must hold"),
        ("a.gif", lambda one: [one, one._replace(pictures=one.pictures + 1)], "image 1 must hold"),
        ("a.png", lambda one: [one._replace(write=one.write * np.inf)], "image 0.*write.*finite"),
    ],
)
def test_what_cannot_be_drawn(rng, tmp_path, name, change, message):
    (tmp_path / name).write_text("old")
    with pytest.raises(ValueError, match=message):
        drawing.write(tmp_path / name, change(make(rng)), title="")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "old")]

"""DRAW's windows: filters, what they read and write, and extreme places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.draw import attention
from tests.tasks import draw_oracle

SHAPE = (5, 7)
LN = np.log

# g~X, g~Y, log s2, log d~, log gamma
PLACES = {
    "start": [0, 0, 0, 0, 0],
    "usual": [0.3, -0.4, -1.0, -0.7, 0.4],
    "wide": [0.1, 0.2, 4.0, 1.0, -1.0],
    "outside": [-6.0, 7.0, -1.0, -1.0, 0.0],
    "between two pixels": [1 / 8, 1 / 6, -7.0, -9.0, 0.0],
    "far and narrow": [-9.5, 9.5, -9.5, -2.0, 9.0],
}


@jax.jit
def look(places, images):
    """Filters in both directions, what is read, and what of it is written."""
    at = attention.window(places, 3, SHAPE)
    rows = attention.filters(at.y, at.stride, at.variance, 3, SHAPE[0])
    columns = attention.filters(at.x, at.stride, at.variance, 3, SHAPE[1])
    seen = attention.read(images, at, 3)
    written = attention.write(seen[:, 0], at, SHAPE)
    return rows, columns, seen, written, attention.frame(at, 3)


def test_filters_reading_and_writing_are_the_equations(x64, rng):
    places = np.array(list(PLACES.values()), np.float64)
    images = rng.normal(size=(len(places), 2, *SHAPE))
    rows, columns, seen, written, frame = look(places, images)
    assert rows.dtype == jnp.float64
    for n, place in enumerate(places):
        at = draw_oracle.banks(place, 3, SHAPE)
        near = {"rtol": 1e-10, "atol": 1e-12}
        np.testing.assert_allclose(rows[n], at.rows, **near)
        np.testing.assert_allclose(columns[n], at.columns, **near)
        patches = [at.gamma * at.rows @ image @ at.columns.T for image in images[n]]
        np.testing.assert_allclose(seen[n], patches, **near)
        back = at.rows.T @ patches[0] @ at.columns / at.gamma
        np.testing.assert_allclose(written[n], back, **near)
        np.testing.assert_allclose(frame[n], at.frame, **near)
    # Only filters that see nothing are alike.
    assert len(np.unique(np.round(rows[:, 0], 6), axis=0)) >= 4


def test_filters_inside_sum_to_one_and_outside_to_nothing(rng):
    numbers = [*PLACES.values(), *rng.normal(0, 30, (40, 5))]
    rows, columns, *_ = look(jnp.float32(numbers), jnp.ones((len(numbers), 2, *SHAPE)))
    for bank in (rows, columns):
        sums = np.sum(bank, axis=-1)
        assert sums.min() >= 0 and sums.max() <= 1
        by_name = dict(zip(PLACES, sums, strict=False))
        for name in ("start", "usual", "wide"):
            np.testing.assert_allclose(by_name[name], 1, rtol=2e-3)
        for name in ("outside", "between two pixels", "far and narrow"):
            np.testing.assert_allclose(by_name[name], 0, atol=1e-6)


def test_a_constant_image_is_read_as_gamma_times_it():
    names = ("start", "usual", "wide")
    places = jnp.float32([PLACES[name] for name in names])
    _, _, seen, _, _ = look(places, jnp.full((len(names), 2, *SHAPE), 0.5))
    for patch, name in zip(seen, names, strict=True):
        np.testing.assert_allclose(patch, 0.5 * np.exp(PLACES[name][-1]), rtol=2e-3)


def test_what_is_written_adds_up_to_the_patch_over_gamma(rng):
    places = jnp.float32([PLACES[name] for name in ("start", "usual", "wide")])
    patch = jnp.float32(rng.normal(size=(3, 3, 3)))
    added = attention.write(patch, attention.window(places, 3, SHAPE), SHAPE)
    want = patch.sum(axis=(1, 2)) / np.exp(places[:, -1])
    np.testing.assert_allclose(added.sum(axis=(1, 2)), want, rtol=5e-3)


def test_narrow_filters_on_the_pixels_copy_the_image(rng):
    """With as many filters as pixels, each on its own, reading is copying: pixels count from 1."""
    image = np.float32(rng.normal(size=(1, 1, 6, 6)))
    at = attention.window(jnp.float32([[0, 0, -8, 0, LN(2)]]), 6, (6, 6))
    np.testing.assert_allclose(attention.read(image, at, 6)[0], 2 * image[0], rtol=3e-4)
    np.testing.assert_allclose(attention.write(image[:, 0], at, (6, 6)), image[0] / 2, rtol=3e-4)
    # To the right and down: what lies beyond the border is nothing, read or written.
    moved = attention.window(jnp.float32([[6 / 7, 2 / 7, -8, 0, 0]]), 6, (6, 6))
    seen = np.pad(image[0, 0, 1:, 3:], ((0, 1), (0, 3)))
    np.testing.assert_allclose(attention.read(image, moved, 6)[0, 0], seen, rtol=3e-4)
    added = np.pad(image[0, 0, :-1, :-3], ((1, 0), (3, 0)))
    np.testing.assert_allclose(attention.write(image[:, 0], moved, (6, 6))[0], added, rtol=3e-4)


def test_a_window_outside_sees_and_paints_nothing(rng):
    """Where every term of Z underflows: exp(-(a - mu)^2 / 2 s2) is zero in float32 here."""
    image = rng.normal(size=(1, 1, *SHAPE))
    at = attention.window(jnp.float32([[-8, 8, -2, -2, 0]]), 3, SHAPE)
    assert np.exp(-np.square(np.float32(at.x[0] - 1)) / (2 * at.variance[0])) == 0
    assert not np.any(attention.read(jnp.float32(image), at, 3))
    assert not np.any(attention.write(jnp.ones((1, 3, 3)), at, SHAPE))


@jax.jit
def value_and_gradients(places, images):
    def value(places, images):
        at = attention.window(places, 3, SHAPE)
        seen = attention.read(images, at, 3)
        added = attention.write(jnp.cos(jnp.arange(9.0)).reshape(1, 3, 3), at, SHAPE)
        weight = jnp.sin(jnp.arange(1.0, 10)).reshape(1, 1, 3, 3)
        return jnp.sum(weight * seen) + jnp.sum(jax.nn.sigmoid(added) * images[:, 0])

    return jax.value_and_grad(value, argnums=(0, 1))(places, images)


@pytest.mark.parametrize("extreme", [9.9, 50.0, 1e4, 1e30, 3e38])
def test_extreme_numbers_give_no_nan(rng, extreme):
    """exp of the raw numbers would be infinite from 89 on, and inf - inf or 0 * inf is NaN."""
    image = jnp.float32(rng.normal(size=(1, 2, *SHAPE)))
    for signs in np.ndindex((3,) * 5):
        place = np.float32(extreme) * (np.float32(signs) - 1)
        value, gradients = value_and_gradients(place[None], image)
        found = [value, *jax.tree.leaves(gradients)]
        assert all(np.isfinite(leaf).all() for leaf in found), place


def test_numbers_within_the_limit_are_taken_as_they_are(x64):
    places = jnp.array([[0.5, -9.9, 9.9, -9.9, 9.9]])
    at = attention.window(places, 3, SHAPE)
    want = [4 * 1.5, 3 * -8.9, 3 * np.exp(-9.9), np.exp(9.9), np.exp(9.9)]
    np.testing.assert_allclose(np.array(at)[:, 0], want, rtol=1e-12)
    assert attention.window(places + 0.2, 3, SHAPE).variance[0] == np.exp(10)

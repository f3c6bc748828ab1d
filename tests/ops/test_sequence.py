import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.ops import flip_rows, lengths_to_mask, scan_chunks, scan_sequence, zero_padding

# Rows of a (T, B) = (5, 6) mask: full, front, empty, gap, late start, one step in the middle.
ROWS = np.array(
    [
        [1, 1, 1, 1, 1],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 1, 0, 0],
    ],
    bool,
)
MASK = ROWS.T


def decay(carry, x):
    """A recurrence that tells order and number of steps: c -> c / 2 + x, output 10 c + x."""
    new = {"c": carry["c"] / 2 + x["a"].sum(-1), "n": carry["n"] + 1}
    return new, (10 * new["c"] + x["b"], new["n"])


def decay_by_hand(carry, x, mask, reverse):
    """`decay` over one row at a time, the steps that are not real left out before it starts."""
    c, n = carry["c"].copy(), carry["n"].copy()
    first, second = np.zeros(mask.shape), np.zeros(mask.shape, n.dtype)
    for b in range(mask.shape[1]):
        real = np.flatnonzero(mask[:, b])
        for t in real[::-1] if reverse else real:
            c[b] = c[b] / 2 + x["a"][t, b].sum()
            n[b] = n[b] + 1
            first[t, b], second[t, b] = 10 * c[b] + x["b"][t, b], n[b]
    return {"c": c, "n": n}, (first, second)


@pytest.fixture
def inputs(rng):
    batch = MASK.shape[1]
    carry = {"c": rng.normal(size=batch).astype(np.float32), "n": np.arange(batch, dtype=np.int32)}
    x = {
        "a": rng.normal(size=(*MASK.shape, 3)).astype(np.float32),
        "b": rng.normal(size=MASK.shape).astype(np.float32),
    }
    return carry, x


def test_lengths_to_mask():
    mask = lengths_to_mask(jnp.array([0, 2, 3, 5]), 3)
    assert mask.dtype == jnp.bool_
    expected = [[False] * 3, [True, True, False], [True] * 3, [True] * 3]
    np.testing.assert_array_equal(mask.T, expected)
    np.testing.assert_array_equal(lengths_to_mask(np.array([1]), 2), [[True], [False]])


def test_zero_padding_replaces_nan_and_stops_its_gradient(rng):
    x = rng.normal(size=(5, 6, 2)).astype(np.float32)
    x[~MASK] = np.nan
    clean = zero_padding(jnp.asarray(x), MASK)
    np.testing.assert_array_equal(clean, np.where(MASK[:, :, None], x, 0))
    # The derivative of the square root at 0 is infinite, of NaN is NaN: neither may pass.
    gradient = jax.grad(lambda x: jnp.square(zero_padding(x, MASK)).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, np.where(MASK[:, :, None], 2 * x, 0))


def test_zero_padding_without_a_mask_is_the_identity():
    x = jnp.ones((2, 3, 4))
    assert zero_padding(x, None) is x


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
@pytest.mark.parametrize("unroll", [1, 3])
def test_scan_sequence_equals_the_loop_over_real_steps(inputs, mask, reverse, unroll):
    carry, x = inputs
    expected = decay_by_hand(carry, x, np.ones_like(MASK) if mask is None else mask, reverse)
    got = scan_sequence(decay, carry, x, mask, reverse=reverse, unroll=unroll)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, strict=False),
        got,
        expected,
    )


def test_scan_sequence_holds_the_carry_of_empty_rows_exactly(inputs):
    carry, x = inputs
    final, ys = scan_sequence(decay, carry, x, MASK)
    empty = ~ROWS.any(1)
    assert empty.any()
    np.testing.assert_array_equal(final["c"][empty], carry["c"][empty])
    np.testing.assert_array_equal(final["n"][empty], carry["n"][empty])
    assert not np.asarray(ys[0])[:, empty].any()


def test_scan_sequence_sends_nothing_back_through_steps_that_are_not_real(inputs):
    carry, x = inputs

    def loss(a):
        final, (y, _) = scan_sequence(decay, carry, {"a": a, "b": x["b"]}, MASK)
        return jnp.square(y).sum() + jnp.square(final["c"]).sum()

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(x["a"])))
    assert not gradient[~MASK].any()
    assert gradient[MASK].all()


def test_flip_rows_reverses_each_row_up_to_its_last_real_step():
    y = np.arange(1, 31, dtype=np.float32).reshape(MASK.shape) * MASK
    expected = np.zeros_like(y)
    for b, row in enumerate(ROWS):
        extent = row.nonzero()[0].max() + 1 if row.any() else 0
        expected[:extent, b] = y[:extent, b][::-1]
    np.testing.assert_array_equal(flip_rows(jnp.asarray(y), MASK), expected)


def test_flip_rows_puts_zeros_where_nothing_was_made():
    # The outputs of a row of length 0 and of padding are zero, whatever stands in the array.
    y = jnp.ones((3, 2))
    mask = lengths_to_mask(jnp.array([0, 2]), 3)
    np.testing.assert_array_equal(flip_rows(y, mask).T, [[0, 0, 0], [1, 1, 0]])


def test_flip_rows_is_its_own_inverse_without_gaps(rng):
    mask = lengths_to_mask(jnp.array([0, 1, 3, 4]), 4)
    y = zero_padding(jnp.asarray(rng.normal(size=(4, 4, 2, 3)).astype(np.float32)), mask)
    np.testing.assert_array_equal(flip_rows(flip_rows(y, mask), mask), y)


def test_flip_rows_without_a_mask_turns_time(rng):
    y = rng.normal(size=(4, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(flip_rows(jnp.asarray(y), None), y[::-1])


def test_no_steps_at_all():
    mask = jnp.zeros((0, 2), bool)
    carry = {"c": jnp.ones(2), "n": jnp.zeros(2, jnp.int32)}
    x = {"a": jnp.zeros((0, 2, 3)), "b": jnp.zeros((0, 2))}
    final, (y, _) = scan_sequence(decay, carry, x, mask)
    np.testing.assert_array_equal(final["c"], carry["c"])
    assert flip_rows(y, mask).shape == (0, 2)


@pytest.mark.parametrize("length", [1, 3, 4, 7, 100])
@pytest.mark.some(3)
def test_scan_chunks_is_the_scan(rng, length):
    """Values and gradients, for chunks that fit seven steps and for those that do not."""
    xs = {"x": rng.normal(size=(7, 2, 3)).astype(np.float32)}
    start, cotangent = rng.normal(size=(2, 3)), rng.normal(size=(7, 2, 3))

    def step(carry, x):
        carry = jnp.sin(carry + x["x"])
        return carry, (carry * 2, jnp.sum(carry, axis=1))

    def chunk(carry, xs):
        return jax.lax.scan(step, carry, xs)

    def value(run, start, xs):
        carry, (ys, totals) = run(start, xs)
        return jnp.sum(carry) + jnp.sum(ys * cotangent) + jnp.sum(totals**2), (carry, ys, totals)

    def both(run):
        return jax.jit(jax.value_and_grad(lambda *a: value(run, *a), (0, 1), has_aux=True))(
            start.astype(np.float32), xs
        )

    got, want = both(lambda c, x: scan_chunks(chunk, c, x, length)), both(chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_scan_chunks_needs_steps():
    with pytest.raises(ValueError, match="length=0 must be at least 1"):
        scan_chunks(lambda c, x: (c, x), 0.0, jnp.ones(3), 0)

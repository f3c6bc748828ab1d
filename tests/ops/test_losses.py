"""The loss of classification: one case at a time in float64, masks, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.ops.losses import classification


def loop(logits, labels, mask):
    nats, errors, number = 0.0, 0, 0
    for case in np.ndindex(mask.shape):
        if mask[case]:
            a = np.asarray(logits[case], np.float64)
            nats -= np.log(np.exp(a[labels[case]]) / np.exp(a).sum())
            errors += int(labels[case] != next(k for k in range(len(a)) if a[k] == a.max()))
            number += 1
    return nats, errors, number


@pytest.mark.parametrize("shape", [(6,), (2, 5), ()])
def test_is_the_loop(shape, rng):
    logits = rng.integers(-3, 4, (*shape, 4)).astype(np.float32)  # some tie
    labels = rng.integers(0, 4, shape)
    for mask in (rng.random(shape) < 0.6, None):
        (nats, n), (errors, m) = classification(
            jnp.asarray(logits), jnp.asarray(labels), None if mask is None else jnp.asarray(mask)
        )
        want = loop(logits, labels, np.ones(shape, bool) if mask is None else np.asarray(mask))
        np.testing.assert_allclose([nats, errors, n], want, rtol=1e-6)
        assert n == m and all(leaf.shape == () for leaf in (nats, n, errors, m))


def test_the_gradient_is_probability_minus_truth(rng):
    logits = rng.normal(size=(5, 3)).astype(np.float32)
    labels, mask = np.array([0, 2, 1, 1, 7]), np.array([True, True, False, True, False])
    logits[2], logits[4] = np.nan, np.inf
    gradient = jax.grad(lambda a: classification(a, labels, jnp.asarray(mask))[0][0])(logits)
    for row, label, real, got in zip(logits, labels, mask, gradient, strict=True):
        want = np.zeros(3)
        if real:
            want = np.exp(np.float64(row)) / np.exp(np.float64(row)).sum()
            want[label] -= 1
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_large_and_half_precision_logits():
    labels = jnp.array([1, 0])
    logits = jnp.array([[1e4, 0.0], [30.0, 0.0]])
    (nats, _), (errors, _) = classification(logits, labels)
    # float32 keeps digits of a likelihood that is nearly one
    np.testing.assert_allclose(nats, 1e4 + np.log1p(np.exp(-30)), rtol=1e-6)
    (small, _), _ = classification(logits[1:], labels[1:])
    assert small.dtype == jnp.float32 and 0 <= small < 1e-6 and errors == 1
    (half, number), _ = classification(jnp.ones((300, 4), jnp.bfloat16), jnp.zeros(300, int))
    assert half.dtype == jnp.float32 and number == 300  # bfloat16 counts to 256
    np.testing.assert_allclose(half, 300 * np.log(4), rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "mask", "message"),
    [
        (np.zeros(3, int), np.ones(4, bool), r"labels \(3,\) must have the shape .* \(4, 2\)"),
        (np.zeros((4, 1), int), np.ones(4, bool), r"labels \(4, 1\)"),
        (np.zeros(4, int), np.ones((4, 2), bool), r"mask \(4, 2\) must have"),
        (np.zeros(4, int), np.ones(4), "mask must be bool"),
    ],
)
def test_shapes_that_do_not_fit(labels, mask, message):
    with pytest.raises(ValueError, match=message):
        classification(jnp.zeros((4, 2)), jnp.asarray(labels), jnp.asarray(mask))

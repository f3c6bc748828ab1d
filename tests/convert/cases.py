"""What the tests of all conversions share: random weights, a sequence, a run of what comes out."""

import jax
import jax.numpy as jnp
import numpy as np

from lnjax import GRUCell, GRUParams, LSTMCell, LSTMParams, SimpleCell, SimpleParams
from lnjax.convert import Converted

D, H, T, B = 3, 4, 6, 5


def arrays(rng, dtype=np.float64, **shapes):
    """Random weights of both signs by name, far from 0 and 1 in the mean: no gain is neutral."""
    return {name: rng.normal(0, 1, shape).astype(dtype) for name, shape in shapes.items()}


def sequence(rng, dtype=np.float64):
    """xs (T, B, D) and a state (B, H) for each of c and h."""
    xs = rng.normal(0, 1, (T, B, D)).astype(dtype)
    return xs, rng.normal(0, 1, (B, H)).astype(dtype), rng.normal(0, 0.5, (B, H)).astype(dtype)


def outputs(converted, xs, *carry):
    """The outputs (T, B, H) of a converted cell from this carry, as NumPy."""
    cell, params = converted
    carry = tuple(jnp.asarray(leaf) for leaf in carry)
    run = jax.jit(lambda *arrays: cell.run(*arrays, implementation="scan"))
    _, ys = run(params, carry if len(carry) > 1 else carry[0], jnp.asarray(xs))
    return np.asarray(ys)


def assert_outputs(converted, expected, xs, *carry, tolerance=1e-10):
    assert np.ptp(expected) > 0.1  # an output that is constant would show nothing
    np.testing.assert_allclose(
        outputs(converted, xs, *carry), expected, rtol=tolerance, atol=tolerance
    )


def lstm(rng, norm=None, **choices):
    """An LSTM of lnjax with random parameters of its sites."""
    cell = LSTMCell(features=H, norm=norm, **choices)
    shapes = {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": 4 * H}
    if norm is not None:
        shapes |= {"scale_x": 4 * H} if "input" in cell.sites else {}
        shapes |= {"scale_h": 4 * H} if "recurrent" in cell.sites else {}
        shapes |= {"scale_c": H, "bias_c": H}
    return Converted(cell, LSTMParams(**arrays(rng, **shapes)))


def gru(rng, norm=None, **choices):
    """A GRU of lnjax with random parameters."""
    shapes = {"kernel": (D, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": 3 * H, "bias_h": H}
    if norm is not None:
        shapes |= {"scale_x": 3 * H, "scale_h": 3 * H}
    return Converted(GRUCell(features=H, norm=norm, **choices), GRUParams(**arrays(rng, **shapes)))


def simple(rng, norm=None, **choices):
    """A simple RNN of lnjax with random parameters, with one norm of the sum if any."""
    shapes = {"kernel": (D, H), "recurrent_kernel": (H, H), "bias": H}
    if norm is not None:
        shapes |= {"scale": H}
    cell = SimpleCell(features=H, norm=norm, **choices)
    return Converted(cell, SimpleParams(**arrays(rng, **shapes)))

"""Random recurrent cells: what is exact, what is computed, and what is measured of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.analysis.recurrent_stability import growth_by_gain, predicted_growth, stability
from lnjax.cells import GRUCell, LSTMCell, SimpleCell

H = 32
SIZES = {"num_steps": 200, "batch": 4}


def gauss(function, variance):
    """E[f(z)], z of N(0, variance), by Gauss and Hermite: for smooth functions."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    return np.sum(weights * function(nodes * variance**0.5)) / np.sum(weights)


def test_growth_of_relu_is_known_in_closed_form():
    # E[relu(z)^2] = v / 2, E[relu'(z)^2] = 1 / 2
    for gain in (0.5, 1.0, 3.0):
        log = np.log10(gain**2 / 2) / 2
        assert predicted_growth(jax.nn.relu, gain, 0.1) == pytest.approx(log, abs=1e-5)
        sum_ = gain**2 / 2 / (gain**2 / 2 + 0.3**2)
        of_sum = predicted_growth(jax.nn.relu, gain, 0.3, norm="layer")
        assert of_sum == pytest.approx(np.log10(sum_) / 2, abs=1e-5)
        sites = ("recurrent", "input")
        apart = predicted_growth(jax.nn.relu, gain, 0.3, norm="layer", sites=sites)
        assert apart == pytest.approx(np.log10(0.5) / 2, abs=1e-5)


def test_growth_of_tanh_is_that_of_gaussian_integrals():
    units, slopes = gauss(lambda z: np.tanh(z) ** 2, 1), gauss(lambda z: np.cosh(z) ** -4.0, 1)
    expected = np.log10(1.5**2 * slopes / (1.5**2 * units + 0.2**2)) / 2
    for norm in ("layer", "rms"):
        assert predicted_growth(jnp.tanh, 1.5, 0.2, norm=norm) == pytest.approx(expected, abs=1e-3)
    # Without inputs it is positive whatever the gain: the dynamics of LN are chaotic
    assert predicted_growth(jnp.tanh, 0.01, 0.0, norm="layer") > 0.03
    variance = 1.0
    for _ in range(500):
        variance = 1.2**2 * gauss(lambda z: np.tanh(z) ** 2, variance) + 0.5**2
    chi = 1.2**2 * gauss(lambda z: np.cosh(z) ** -4.0, variance)
    assert predicted_growth(jnp.tanh, 1.2, 0.5) == pytest.approx(np.log10(chi) / 2, abs=1e-3)


def test_one_site_alone_has_no_prediction():
    with pytest.raises(ValueError, match="expected"):
        predicted_growth(jnp.tanh, 1.0, 1.0, norm="layer", sites=("recurrent",))


@pytest.mark.parametrize("norm", [None, "layer"])
def test_measured_growth_is_near_the_prediction(norm):
    cell = SimpleCell(features=H, norm=norm)
    gains = (0.7, 1.5, 4.0)
    for scale in (0.3, 1.0):
        measured = growth_by_gain(cell, gains, input_scale=scale, **SIZES)
        predicted = [
            predicted_growth(jnp.tanh, gain, scale, norm=norm, features=H) for gain in gains
        ]
        # H is 32 and not infinite, and at gain 4 without a norm the network is chaotic: from 0.142
        # to 0.158 were measured for 0.187, as the machine rounds.
        np.testing.assert_allclose(measured, predicted, atol=0.06)


def test_layer_norm_is_invariant_to_rescaling_all_summed_inputs():
    """The sentence of Section 3.1: gain and inputs by one factor."""
    cell = SimpleCell(features=H, epsilon=0.0)
    plain, scaled = (
        # not chaotic: what rounding differs in does not grow
        stability(cell, 0.7 * factor, 1.0 * factor, **SIZES)
        for factor in (1.0, 8.0)
    )
    np.testing.assert_allclose(scaled.hidden, plain.hidden, rtol=1e-4)
    np.testing.assert_allclose(scaled.gradient, plain.gradient, atol=1e-2)
    np.testing.assert_allclose(scaled.deviation, 8 * plain.deviation, rtol=1e-4)
    without = [stability(cell.clone(norm=None), 0.7 * f, f, **SIZES).hidden for f in (1.0, 8.0)]
    assert np.abs(without[1] / without[0] - 1).mean() > 0.05


@pytest.mark.parametrize("kind", [GRUCell, LSTMCell])
def test_gated_cells_do_not_depend_on_gain_and_scale(kind):
    """Each side has a norm of its own, so g and s drop out, but for epsilon and rounding."""
    cell = kind(features=16, epsilon=0.0)
    sizes = {"num_steps": 30, "batch": 2}
    plain, scaled = stability(cell, 1.0, 1.0, **sizes), stability(cell, 4.0, 0.25, **sizes)
    np.testing.assert_allclose(scaled.hidden, plain.hidden, rtol=1e-3)
    np.testing.assert_allclose(scaled.gradient, plain.gradient, atol=1e-2)
    np.testing.assert_allclose(scaled.saturation, plain.saturation, atol=0.02)


def test_a_state_that_explodes_is_followed_to_its_end():
    cell = SimpleCell(features=H, norm=None, activation=lambda a: a)
    result = stability(cell, 2.0, 0.1, **SIZES)
    steps = int(result.num_steps)
    assert steps == pytest.approx(np.log2(1e15 / np.sqrt(H)), abs=2)
    assert np.isfinite(result.hidden[:steps]).all() and np.isnan(result.hidden[steps + 2 :]).all()
    # and the gradient doubles with each step
    assert float(result.growth) == pytest.approx(np.log10(2), abs=1e-4)
    bounded = stability(cell.clone(norm="layer"), 2.0, 0.1, **SIZES)
    assert int(bounded.num_steps) == SIZES["num_steps"]
    np.testing.assert_allclose(bounded.hidden, np.sqrt(H), rtol=1e-3)

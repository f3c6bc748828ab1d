r"""Hidden states and gradients of random recurrent cells over thousands of steps (Section 3.1).

The paper: "In a standard RNN, there is a tendency for the average magnitude of the summed inputs to
the recurrent units to either grow or shrink at every time-step, leading to exploding or vanishing
gradients. In a layer normalized RNN, the normalization terms make it invariant to re-scaling all of
the summed inputs to a layer, which results in much more stable hidden-to-hidden dynamics."

Here a cell has orthogonal recurrent blocks times a gain g, inputs of independent Gaussians whose
summed inputs have the deviation s (`input_scale`), and starts from a random state with units of
variance 1. What can be computed for the simple RNN, where it is wide (H to infinity), is computed
too: `predicted_growth`. A state whose length leaves `LARGEST` has exploded: from there on steps
count as not real, and gradients go back from the last one before.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.probes import gradient_norms, mean_over_rows, probe
from lnjax.cells.lstm import LSTMCell
from lnjax.cells.running import Norm
from lnjax.cells.simple_rnn import SimpleCell
from lnjax.typing import Array, PyTree

LARGEST = 1e15  # of float32, which ends at 3e38, and squares


class Stability(NamedTuple):
    """One cell over T steps; means over the rows, NaN after the state has exploded."""

    hidden: Array  # (T,) Euclidean norm of h
    deviation: Array  # (T,) sigma of the summed inputs: of their sum, or of a gated cell's h W_h
    saturation: Array  # (T,) the share of gates and candidates in saturation; NaN with no such
    gradient: Array  # (T,) log10 of the norm of dL/dh_t, L of the last step in a random direction
    growth: Array  # () by how much log10 of the gradient grows for each step that it goes back
    num_steps: Array  # () how many steps there are before the state explodes


def stability(
    cell: Any,
    gain: float = 1.0,
    input_scale: float = 1.0,
    *,
    num_steps: int = 2000,
    batch: int = 4,
    in_features: int = 32,
    seed: int = 0,
) -> Stability:
    """Runs a random cell and measures it.

    Args:
      cell: a `SimpleCell`, `GRUCell` or `LSTMCell`, whose initializers draw the parameters.
      gain: g, a factor on the recurrent kernel.
      input_scale: s, a factor on the inputs.
      num_steps, batch, in_features: T, B, D.
      seed: of parameters, inputs, state and the direction of the loss.

    Returns:
      A `Stability`. `growth` leaves out the tenth of the steps at either end. A second gain or
      scale of the same cell and sizes takes no second compilation.

    >>> from lnjax.cells import SimpleCell
    >>> result = stability(SimpleCell(features=16), 2.0, 0.5, num_steps=50)
    >>> result.hidden.shape, int(result.num_steps)
    ((50,), 50)
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    xs = jax.random.normal(keys[0], (num_steps, batch, in_features))
    carry = cell.initialize_carry(keys[1], xs.shape[1:])
    variables = cell.init(keys[2], carry, xs[0])
    params = cell.apply(variables, in_features, method="parameters")
    leaves, structure = jax.tree.flatten(carry)
    leaves[-1] = jax.random.normal(keys[3], leaves[-1].shape, leaves[-1].dtype)  # which is h
    return _measure(cell, params, structure.unflatten(leaves), xs, gain, input_scale)


@partial(jax.jit, static_argnames="cell")
def _measure(
    cell: Any, params: Any, carry: PyTree, xs: Array, gain: Array, input_scale: Array
) -> Stability:
    params = params._replace(recurrent_kernel=params.recurrent_kernel * gain)
    xs = xs * input_scale
    record = probe(cell, params, xs, carry)
    finite = jnp.cumprod(record.norms["h"] < LARGEST, axis=0).astype(bool)
    gradients = gradient_norms(cell, params, xs, carry, mask=finite)
    log10 = _mean_log10(gradients.log10["h"], finite)
    steps = jnp.min(jnp.sum(finite, axis=0))
    first, last = steps // 10, steps - 1 - steps // 10
    growth = (log10[first] - log10[last]) / jnp.maximum(last - first, 1)
    recurrent = [name for name in record.deviation if name == "sum" or name.startswith("h")]
    name = "sum" if "sum" in recurrent else recurrent[0]
    shares = list(record.saturation.values())
    share = jnp.mean(jnp.stack(shares), axis=0) if shares else jnp.full(finite.shape, jnp.nan)
    return Stability(
        hidden=mean_over_rows(record.norms["h"], finite),
        deviation=mean_over_rows(record.deviation[name], finite),
        saturation=mean_over_rows(share, finite),
        gradient=log10,
        growth=jnp.where(last > first, growth, jnp.nan),
        num_steps=steps,
    )


def growth_by_gain(cell: Any, gains: Sequence[float], **arguments: Any) -> Array:
    """`Stability.growth` for each of the gains, (len(gains),).

    Args:
      cell: see `stability`, as `arguments` are.
      gains: g.
    """
    return jnp.stack([stability(cell, gain, **arguments).growth for gain in gains])


def predicted_growth(
    activation: Callable[[Array], Array],
    gain: float,
    input_scale: float,
    *,
    norm: Norm = None,
    sites: Sequence[str] = ("sum",),
    features: int | None = None,
) -> float:
    r"""`Stability.growth` of a wide simple RNN, from Gaussian integrals.

    The summed inputs of a wide random network are Gaussian, with the variance
    :math:`v = g^2 q + s^2` where :math:`q = E[\phi(z)^2]` is that of the units. Without a norm
    :math:`z \sim N(0, v)`, and a step back multiplies the squared gradient by

    .. math:: \chi = g^2 \, E[\phi'(z)^2].

    LN (or RMS norm) of the sum divides by :math:`\sqrt v`: then :math:`z \sim N(0, 1)` and
    :math:`\chi = g^2 E[\phi'(z)^2] / v`. It holds the forward pass, and the gain acts through
    :math:`g / s` alone; :math:`\chi` is not 1. With a norm on each side apart z has the variance 2,
    and in :math:`\chi = E[\phi'(z)^2] / q` there is neither g nor s. The derivative of LN takes two
    of H directions away, that of RMS norm one; `features` says H.

    Args:
      activation: phi, elementwise, such that jax can differentiate it.
      gain, input_scale: g and s.
      norm, sites: as of `SimpleCell`; sites are ("sum",) or ("recurrent", "input").
      features: H; None is infinitely many.

    Returns:
      Half the logarithm of chi, base 10.

    Raises:
      ValueError: the sites are others.

    >>> import jax
    >>> round(10 ** (2 * predicted_growth(jax.nn.relu, 1.0, 0.0, norm="layer")), 3)
    1.0
    """
    units_of, slopes_of = _second_moment(activation), _second_moment(jax.grad(activation))
    separate = tuple(sorted(sites)) == ("input", "recurrent")
    if norm is not None and not separate and tuple(sites) != ("sum",):
        raise ValueError(f"sites={sites!r}: expected ('sum',) or ('recurrent', 'input')")
    if norm is None:
        old, variance = 0.0, 1.0
        while 1e-9 < abs(variance / max(old, 1e-30) - 1) and 1e-30 < variance < 1e30:
            # to the fixed point, or away to where it is 0 or beyond a float
            old, variance = variance, gain**2 * units_of(variance) + input_scale**2
        chi = gain**2 * slopes_of(variance)
    else:
        variance = 2.0 if separate else 1.0
        units, slopes = units_of(variance), slopes_of(variance)
        chi = slopes / units if separate else gain**2 * slopes / (gain**2 * units + input_scale**2)
        if features is not None:
            chi *= 1 - (2 if norm == "layer" else 1) / features
    return float(np.log10(chi) / 2) if chi > 0 else -np.inf


def stability_experiment(smoke: bool = False) -> tuple[dict, Sequence[float], dict]:
    """What the figure of the notebook shows.

    A simple RNN with tanh, one with relu, and an LSTM; without a norm and with layer norm; weak
    inputs, s = 0.1.

    Args:
      smoke: tiny sizes.

    Returns:
      ``(runs, gains, growths)``: `Stability` of the relu cell by norm and gain; the gains of
      the growths; by the cell's name ``(measured, predicted)``, each by norm, one for each gain.
    """
    features, sizes = (8, {"num_steps": 40, "batch": 2}) if smoke else (64, {"num_steps": 2000})
    gains = (0.5, 2.0) if smoke else (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
    norms: tuple[Norm, ...] = (None, "layer")
    activations = {"relu": jax.nn.relu, "tanh": jnp.tanh}

    def cell(kind: str, norm: Norm) -> Any:
        if kind == "LSTM":
            return LSTMCell(features=features, norm=norm)
        return SimpleCell(features=features, norm=norm, activation=activations[kind])

    runs = {
        norm: {gain: stability(cell("relu", norm), gain, 0.1, **sizes) for gain in (0.9, 1.4, 1.6)}
        for norm in norms
    }
    growths = {}
    for kind in ("relu", "LSTM") if smoke else ("tanh", "relu", "LSTM"):
        measured = {
            norm: growth_by_gain(cell(kind, norm), gains, input_scale=0.1, **sizes)
            for norm in norms
        }
        predicted = {
            norm: [predicted_growth(activations[kind], gain, 0.1, norm=norm) for gain in gains]
            for norm in norms
            if kind in activations
        }
        growths[kind] = measured, predicted
    return runs, gains, growths


def _second_moment(function: Callable[[Array], Array]) -> Callable[[float], float]:
    """E[f(z)^2] for z of N(0, variance), by a rule that a kink at 0 does not disturb."""
    edges = np.linspace(-8, 8, 4001)
    z = (edges[1:] + edges[:-1]) / 2  # not at the kink itself
    weights = np.exp(-(z**2) / 2)
    values = jax.jit(jax.vmap(function))

    def moment(variance: float) -> float:
        of_z = np.asarray(values(jnp.asarray(z * np.sqrt(variance))), np.float64)
        return float(np.sum(weights * of_z**2) / np.sum(weights))

    return moment


def _mean_log10(log10: Array, real: Array) -> Array:
    """log10 of the geometric mean over rows, (T,): the typical row, not the largest."""
    return mean_over_rows(jnp.where(real, log10, 0), real)

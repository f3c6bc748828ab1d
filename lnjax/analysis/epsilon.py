r"""What epsilon does to the invariance of layer norm under a scale, as numbers.

With :math:`\epsilon` inside the root, summed inputs of variance :math:`\sigma^2` become
:math:`\bar a / \sqrt{1 + \epsilon / \sigma^2}`, where :math:`\bar a = (a - \mu) / \sigma` is the
paper's. Weights that are re-scaled by :math:`\delta` change that by

.. math::
    |\bar a| \left|\frac{1}{\sqrt{1 + \epsilon / \sigma^2}}
        - \frac{1}{\sqrt{1 + \epsilon / (\delta^2 \sigma^2)}}\right|
    = |\bar a| \left( \frac{\epsilon}{2 \sigma^2} \left|1 - \frac{1}{\delta^2}\right|
        + O(\epsilon^2 / \sigma^4) \right)

for :math:`\delta` that are not small. So the invariance is exact for epsilon 0, as good as exact
where the variance is far above epsilon, and gone where it is not: there the outputs shrink with the
summed inputs. Re-centering stays exact at any epsilon. The same holds for every norm that divides
by a root.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.invariance import check_epsilon, measure
from lnjax.analysis.tables import markdown, number, text
from lnjax.analysis.transformation import Transformation, check_delta, rescale_weight_matrix
from lnjax.ops import layer_norm
from lnjax.typing import Array, Params

EPSILONS = (0.0, 1e-5, 1e-3)  # none; that of lnjax and the authors' code; that of TF-Addons
VARIANCES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, eq=False, repr=False)
class EpsilonSweep:
    """The largest change of an output of layer norm, for each epsilon and variance.

    Attributes:
      epsilons: E of them.
      variances: V, those of the summed inputs before the weights are re-scaled.
      delta: by what these are re-scaled.
      change: (E, V) float64, measured.
      exact: (E, V) float64, by the formula at the head of this module.
      first_order: (E, V) float64, by its first term.
      largest: the largest |a_bar| of the data, which is a factor of all three.
    """

    epsilons: tuple[float, ...]
    variances: tuple[float, ...]
    delta: float
    change: np.ndarray
    exact: np.ndarray
    first_order: np.ndarray
    largest: float

    def _parts(self) -> tuple[list[str], list[str], list[list[str]]]:
        columns, values = [], []
        for e, epsilon in enumerate(self.epsilons):
            columns.append(f"epsilon {epsilon:g}")
            values.append(self.change[e])
            if epsilon:
                columns.append(f"first order, {epsilon:g}")
                values.append(self.first_order[e])
        rows = [f"variance {variance:g}" for variance in self.variances]
        return columns, rows, [[number(v[r]) for v in values] for r in range(len(rows))]

    def _note(self) -> str:
        return (
            f"Largest change of an output when all weights are re-scaled by {self.delta:g}; the"
            f" largest output is {self.largest:.3g}."
        )

    def __str__(self) -> str:
        return f"{text(*self._parts())}\n\n{self._note()}"

    def __repr__(self) -> str:
        return f"EpsilonSweep(epsilons={self.epsilons}, delta={self.delta:g})"

    def _repr_markdown_(self) -> str:
        return f"{markdown(*self._parts())}\n\n{self._note()}"


def epsilon_sweep(
    *,
    epsilons: Sequence[float] = EPSILONS,
    variances: Sequence[float] = VARIANCES,
    delta: float = 3.7,
    features: int = 240,
    seed: int = 0,
) -> EpsilonSweep:
    """How much layer norm changes when its weights are re-scaled, against epsilon and variance.

    Args:
      epsilons: of `lnjax.layer_norm`.
      variances: of the summed inputs of each of the 4 cases, before weights are re-scaled.
      delta: by what they are; above 0 and not 1.
      features: H, the units that are normalized together; at least 2.
      seed: of weights and data.

    Returns:
      An `EpsilonSweep`. In float32, changes below some 1e-6 are rounding; `jax.enable_x64` helps.

    Raises:
      ValueError: an epsilon is negative, a variance not above 0, one of them not finite, there is
        none of them, or `delta` or `features` is not as above.

    >>> print(epsilon_sweep(epsilons=[1e-3], variances=[1e-2, 1.0]))
                                  first order,
                   epsilon 0.001  0.001
    variance 0.01  0.15           0.16
    variance 1     0.002          0.002
    <BLANKLINE>
    Largest change of an output when all weights are re-scaled by 3.7; the largest output is 3.41.
    """
    check_delta(delta)
    for epsilon in epsilons:
        check_epsilon(epsilon)
    if not all(np.isfinite(v) and v > 0 for v in variances) or not (len(epsilons) * len(variances)):
        raise ValueError(f"variances={variances!r}, epsilons={epsilons!r}: expected some, above 0")
    if features < 2:
        raise ValueError(f"features={features}: of one unit, layer norm leaves 0")
    rng = np.random.default_rng(seed)
    kernel, xs = rng.normal(size=(32, features)), rng.normal(size=(4, 32))
    summed = xs @ kernel
    deviation = summed.std(axis=1, keepdims=True)
    xs = jnp.asarray(xs / deviation)  # every case of variance 1
    largest = float(abs((summed - summed.mean(axis=1, keepdims=True)) / deviation).max())
    rescale = Transformation(
        "weight matrix re-scaling", partial(rescale_weight_matrix, delta=delta), ("kernel",)
    )

    def change(epsilon: float, variance: float) -> float:
        def layer(params: Params, xs: Array) -> Array:
            return layer_norm(jnp.matmul(xs, params["kernel"]), epsilon=epsilon)

        weights = {"kernel": jnp.asarray(kernel * np.sqrt(variance))}
        return measure(layer, weights, xs, rescale)

    with jax.default_matmul_precision("highest"):
        measured = [[change(epsilon, variance) for variance in variances] for epsilon in epsilons]
    at = np.array(epsilons)[:, None], np.array(variances)[None]
    return EpsilonSweep(
        tuple(map(float, epsilons)),
        tuple(map(float, variances)),
        float(delta),
        np.array(measured),
        largest * expected_change(*at, delta),
        largest * at[0] / (2 * at[1]) * abs(1 - 1 / delta**2),
        largest,
    )


def expected_change(
    epsilon: float | np.ndarray, variance: float | np.ndarray, delta: float
) -> np.ndarray:
    """The formula at the head of this module, in units of |a_bar|; arrays of one shape broadcast.

    >>> print(f"{expected_change(1e-5, 1.0, 0.01):.4f}")
    0.0465
    """

    def shrinking(ratio: np.ndarray) -> np.ndarray:
        return np.expm1(-0.5 * np.log1p(ratio))  # 1 / sqrt(1 + ratio) - 1, with all its digits

    ratio = np.divide(epsilon, variance)
    return abs(shrinking(ratio) - shrinking(ratio / delta**2))

"""What a comparison says: final values, and how much sooner one arm is where another ends.

A curve is one metric of one run at its log points. The paper's claim is about the way there, "fewer
steps to the same loss", so the measure is the step at which the challenger's curve reaches the best
value that the rival's curve ever has, over the step at which the rival has it: 0.6 is "in 60 % of
the time". Seeds are compared in pairs, which see the same data in the same order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

Better = Literal["lower", "higher"]

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap


class Curve(NamedTuple):
    """One metric of one run, in the order of time; each (N,) float64."""

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray


class Mean(NamedTuple):
    """A mean over seeds."""

    value: float
    error: float  # standard error of the mean; NaN of one seed
    count: int


class Speed(NamedTuple):
    """How much of a rival's way a challenger needs to reach the rival's best value."""

    ratio: float  # median over the pairs; infinite if half of them never arrive
    low: float  # of the bootstrap interval
    high: float
    arrived: int  # pairs in which the challenger gets there
    pairs: int


def mean(values: Sequence[float]) -> Mean:
    """Mean and standard error, s / sqrt(n) with s over n - 1.

    >>> mean([1.0, 2.0, 3.0]).value, round(mean([1.0, 2.0, 3.0]).error, 3)
    (2.0, 0.577)
    """
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return Mean(math.nan, math.nan, 0)
    error = array.std(ddof=1) / math.sqrt(array.size) if array.size > 1 else math.nan
    return Mean(float(array.mean()), float(error), array.size)


def best(curve: Curve, better: Better) -> tuple[float, int]:
    """The best value of a curve, and where it first has it."""
    at = int(np.nanargmin(curve.values) if better == "lower" else np.nanargmax(curve.values))
    return float(curve.values[at]), at


def arrival(curve: Curve, target: float, better: Better) -> int | None:
    """Where a curve first is at `target` or beyond; None if it never is."""
    reached = curve.values <= target if better == "lower" else curve.values >= target
    return int(np.argmax(reached)) if reached.any() else None


def share(
    challenger: Curve, rival: Curve, better: Better, *, of: Literal["steps", "seconds"] = "steps"
) -> float:
    """Steps (or seconds) of the challenger to the rival's best value, over the rival's own.

    Infinite if it never arrives.

    >>> rival = Curve(np.array([10, 20, 30]), np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]))
    >>> round(share(rival._replace(values=np.array([2.0, 1.0, 0.5])), rival, "lower"), 3)
    0.667
    """
    target, at = best(rival, better)
    place = arrival(challenger, target, better)
    if place is None:
        return math.inf
    return float(getattr(challenger, of)[place] / getattr(rival, of)[at])


def speed(
    pairs: Sequence[tuple[Curve, Curve]],
    better: Better,
    *,
    of: Literal["steps", "seconds"] = "steps",
) -> Speed:
    """`share` over pairs (challenger, rival) of seeds: median, and its bootstrap interval.

    Pairs are drawn with replacement, `RESAMPLES` times and always the same. A challenger that never
    arrives counts as infinitely slow, so that an interval may end there: no pair is left out, which
    is why it is the median and not the mean.
    """
    if not pairs:
        return Speed(math.nan, math.nan, math.nan, 0, 0)
    shares = np.array([share(*pair, better, of=of) for pair in pairs])
    low, high = bootstrap(shares, _median)
    return Speed(float(_median(shares)), low, high, int(np.isfinite(shares).sum()), len(pairs))


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """The percentile interval of a statistic over the last axis of resampled values (n,)."""
    generator = np.random.default_rng(0)
    drawn = values[generator.integers(0, values.size, (RESAMPLES, values.size))]
    # "lower" and "higher" keep an infinite end infinite, where linear interpolation makes it NaN
    of = statistic(drawn)
    return (
        float(np.percentile(of, INTERVAL[0], method="lower")),
        float(np.percentile(of, INTERVAL[1], method="higher")),
    )


def _median(values: np.ndarray) -> np.ndarray:
    """The median over the last axis; of an even number the upper one of the middle two.

    Not their mean, since shares can be infinite: a half of the pairs that never arrives is told.
    """
    return np.sort(values, axis=-1)[..., values.shape[-1] // 2]

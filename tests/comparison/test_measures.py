"""Final values, and how much of a rival's way a challenger needs: against loops, and bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lnjax.comparison import measures
from lnjax.comparison.measures import Curve

finite = st.floats(-1e6, 1e6, allow_nan=False)
values = st.lists(finite, min_size=1, max_size=12)


def curve(of, every=10.0):
    steps = every * np.arange(1, len(of) + 1)
    return Curve(steps, steps / 4, np.array(of, np.float64))


@given(st.lists(finite, min_size=2, max_size=9))
def test_mean_and_standard_error(drawn):
    found = measures.mean(drawn)
    assert found.count == len(drawn)
    assert found.value == pytest.approx(sum(drawn) / len(drawn), abs=1e-6)
    assert found.error == pytest.approx(stats.sem(drawn), rel=1e-9, abs=1e-9)


def test_one_seed_has_no_error_and_none_no_mean():
    assert measures.mean([2.0])[0] == 2.0 and math.isnan(measures.mean([2.0]).error)
    assert math.isnan(measures.mean([]).value)


@given(values, values, st.sampled_from(["lower", "higher"]))
def test_share_is_that_of_a_loop(mine, theirs, better):
    sign = 1 if better == "lower" else -1
    target = min(sign * value for value in theirs)
    rival = next(i for i, value in enumerate(theirs, 1) if sign * value == target)
    own = next((i for i, value in enumerate(mine, 1) if sign * value <= target), math.inf)
    for of in ("steps", "seconds"):
        assert measures.share(curve(mine), curve(theirs), better, of=of) == own / rival


@given(values, st.integers(1, 5))
def test_a_curve_that_is_as_good_in_fewer_steps_has_that_share(drawn, factor):
    fast = curve(drawn, every=10.0 / factor)
    assert measures.share(fast, curve(drawn), "lower") == pytest.approx(1 / factor)


def test_speed_is_a_median_that_leaves_nobody_out():
    rival, twice, never = curve([3, 2, 1]), curve([1, 1, 1]), curve([9, 9, 9])
    of = measures.speed([(twice, rival)] * 3 + [(never, rival)], "lower")
    assert (of.ratio, of.arrived, of.pairs) == (1 / 3, 3, 4)
    assert of.low == 1 / 3 and math.isinf(of.high)
    half = measures.speed([(twice, rival), (never, rival)], "lower")
    assert math.isinf(half.ratio) and half.arrived == 1
    assert measures.speed([], "lower").pairs == 0


def test_the_interval_covers_the_median_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        low, high = measures.bootstrap(generator.exponential(size=25), measures._median)
        covered += low <= math.log(2) <= high
    # binomial(60, .95) is below 50 once in ten thousand
    assert covered >= 50


def test_the_interval_is_the_same_each_time():
    of = np.random.default_rng(1).normal(size=5)
    assert measures.bootstrap(of, measures._median) == measures.bootstrap(of, measures._median)

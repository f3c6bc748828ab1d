"""The relatedness of pairs: targets, features, the fit against a NumPy loop, correlations."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.stats
from sklearn.utils import shuffle

from lnjax.evaluation import relatedness
from lnjax.evaluation.relatedness import PROTOCOLS, Softmax, fit, predict, target_distributions


@pytest.fixture
def data(rng):
    """Features of 20 pairs to fit on (two full batches of 8 and one of 4), 9 for the trial."""
    truth = rng.normal(size=6)
    parts = []
    for number in (20, 9):
        features = rng.normal(size=(number, 6)).astype(np.float32)
        scores = np.clip(3 + features @ truth / 2 + 0.3 * rng.normal(size=number), 1, 5)
        parts += [features, scores]
    return parts


def test_targets_by_hand():
    want = {
        1.0: [1, 0, 0, 0, 0],
        5.0: [0, 0, 0, 0, 1],
        3.0: [0, 0, 1, 0, 0],
        3.4: [0, 0, 0.6, 0.4, 0],
        4.75: [0, 0, 0, 0.25, 0.75],
        1.1: [0.9, 0.1, 0, 0, 0],
    }
    got = target_distributions(np.array(list(want)))
    np.testing.assert_allclose(got, list(want.values()), atol=1e-12)


def test_targets_are_those_of_the_public_code():
    """Its rule, y - floor(y) at floor(y) + 1 and floor(y) - y + 1 at floor(y), for every score."""
    scores = np.round(np.arange(1.0, 5.0005, 0.005), 3)
    got = target_distributions(scores)
    for y, row in zip(scores, got, strict=True):
        want = np.zeros(5)
        for i in range(5):
            if i + 1 == np.floor(y) + 1:
                want[i] = y - np.floor(y)
            if i + 1 == np.floor(y):
                want[i] = np.floor(y) - y + 1
        np.testing.assert_allclose(row, want, atol=1e-9)
    np.testing.assert_allclose(got.sum(1), 1)
    np.testing.assert_allclose(got @ relatedness.SCORES, scores)


def test_features_by_hand():
    first, second = np.array([[1.0, -2.0], [0.0, 3.0]]), np.array([[3.0, 2.0], [1.0, -1.0]])
    got = relatedness.pair_features(first, second)
    np.testing.assert_array_equal(got, [[2, 4, 3, -4], [1, 4, 0, -3]])
    np.testing.assert_array_equal(got, relatedness.pair_features(second, first))


def loop(features, scores, trial_features, trial_scores, protocol, blocks):
    """The fit in float64 as the docstring of the protocol says it; also the trial's Pearson."""
    random = np.random.RandomState(protocol.seed)
    targets = target_distributions(scores)
    if not protocol.reshuffle:
        features, targets = shuffle(features, targets, random_state=protocol.seed)
    shape = (features.shape[1], 5)
    bound = np.sqrt(6 / (shape[0] + 5)) if not protocol.reshuffle else 1 / np.sqrt(shape[0])
    W = random.uniform(-bound, bound, shape)
    b = random.uniform(-bound, bound, 5) if protocol.reshuffle else np.zeros(5)
    X, m, v, t = features.astype(np.float64), np.zeros((shape[0] + 1, 5)), np.zeros(5), 0
    seen = []
    for _ in range(blocks):
        for _ in range(protocol.block):
            order = random.permutation(len(X)) if protocol.reshuffle else np.arange(len(X))
            for begin in range(0, len(X), protocol.batch_size):
                rows = order[begin : begin + protocol.batch_size]
                logits = X[rows] @ W + b
                p = np.exp(logits - logits.max(1, keepdims=True))
                p /= p.sum(1, keepdims=True)
                if protocol.loss == "cross_entropy":
                    d = p - targets[rows]
                else:
                    e = 2 * (p - targets[rows]) / 5
                    d = p * (e - (p * e).sum(1, keepdims=True))
                g = np.concatenate([X[rows].T @ d, d.sum(0)[None]]) / len(rows)
                t += 1
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                change = 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
                W, b = W - change[:-1], b - change[-1]
        logits = trial_features @ W + b
        p = np.exp(logits)
        yhat = (p / p.sum(1, keepdims=True)) @ [1, 2, 3, 4, 5]
        seen.append((scipy.stats.pearsonr(yhat, trial_scores)[0], W, b))
    return seen


@pytest.mark.parametrize("name", ["paper", "senteval"])
def test_the_fit_is_the_loop(data, name, monkeypatch):
    protocol = dataclasses.replace(PROTOCOLS[name], batch_size=8, block=3)
    calls = []

    def counted(*args, original=relatedness._fit_block, **keywords):
        calls.append(1)
        return original(*args, **keywords)

    monkeypatch.setattr(relatedness, "_fit_block", counted)
    one = dataclasses.replace(protocol, max_epochs=0)  # a single block
    model = fit(*data, protocol=one)
    (seen,) = loop(*data, protocol, 1)
    assert len(calls) == 1 and seen[0] > -1
    np.testing.assert_allclose(model.kernel, seen[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.bias, seen[2], rtol=1e-4, atol=1e-6)


def correlations(monkeypatch, values):
    """Makes the trial's correlations these, one after another; returns what was asked."""
    values = iter(values)
    asked = []

    def pearson(predicted, scores):
        asked.append(predicted)
        return next(values)

    monkeypatch.setattr(relatedness, "pearson", pearson)
    return asked


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("paper", [0.1, 0.2, 0.2], 2),  # the first that is no better ends it
        ("paper", [0.1, 0.2, 0.3, 0.25], 3),
        ("paper", [-1.0], 0),  # none was better: the start
        ("senteval", [0.1, 0.0, 0.0, 0.3, 0.2, 0.2], 4),  # misses count over the whole fit
        ("senteval", [0.01 * i for i in range(21)], 21),  # 1000 epochs, and the block at 1000
    ],
)
def test_when_it_stops_and_what_it_keeps(data, monkeypatch, name, values, best):
    asked = correlations(monkeypatch, values)
    block = relatedness._fit_block

    def counting(model, opt_state, *args, **keywords):
        return Softmax(model.kernel + 1, model.bias), opt_state

    monkeypatch.setattr(relatedness, "_fit_block", counting)
    model = fit(*data, protocol=PROTOCOLS[name])
    assert len(asked) == len(values)
    start = fit(*data, protocol=dataclasses.replace(PROTOCOLS[name], max_epochs=-1))
    np.testing.assert_allclose(model.kernel - start.kernel, best, rtol=1e-5)
    assert block is not relatedness._fit_block


def test_predictions_are_means_of_the_softmax(rng):
    model = Softmax(rng.normal(size=(3, 5)), rng.normal(size=5))
    features = 100 * rng.normal(size=(4, 3))  # beyond what exp takes
    want = scipy.special.softmax(features @ model.kernel + model.bias, axis=1) @ [1, 2, 3, 4, 5]
    np.testing.assert_allclose(predict(model, features), want, rtol=1e-10)


def test_correlations(rng):
    first = rng.normal(size=50)
    second = np.round(first + rng.normal(size=50), 1)  # with ties
    first[:5] = first[5]
    assert len(set(second)) < 50
    got = relatedness.agreement(first, second)
    assert got["pearson"] == pytest.approx(scipy.stats.pearsonr(first, second)[0], abs=1e-12)
    assert got["spearman"] == pytest.approx(scipy.stats.spearmanr(first, second)[0], abs=1e-12)
    assert got["mse"] == pytest.approx(np.mean((first - second) ** 2))


def test_correlations_by_hand():
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5).
    assert relatedness.spearman([1, 5, 5, 9], [0.1, 0.3, 0.2, 0.4]) == pytest.approx(0.9**0.5)
    assert relatedness.spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert relatedness.pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert relatedness.pearson([1, 2, 3], [2, 2, 2]) == relatedness.pearson([0, 0], [1, 2]) == 0
    assert relatedness.spearman([0.3, 0.3, 0.3], [1, 2, 3]) == 0


def test_quick_ends_where_the_trial_part_gets_better_for_ever(monkeypatch):
    found = itertools.count()
    monkeypatch.setattr(relatedness, "pearson", lambda *_: float(next(found)))
    features, scores = np.ones((4, 2)), np.arange(1.0, 5.0)
    protocol = PROTOCOLS["quick"]
    fit(features, scores, features, scores, protocol=protocol)
    assert next(found) * protocol.block == protocol.max_epochs + protocol.block

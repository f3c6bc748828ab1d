"""Nested cross-validation: folds by hand, the choice of C, each protocol against its own text."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from lnjax.evaluation import classification
from lnjax.evaluation.classification import PROTOCOLS, Protocol, fold_accuracies


@pytest.fixture
def items(rng):
    """60 sentences of 1 to 9 words, labels, features that say something of the labels."""
    labels = np.repeat([1, 0], 30)
    features = rng.normal(size=(60, 4)) + 0.7 * labels[:, None]
    sentences = [" ".join(["w"] * n) for n in rng.integers(1, 10, 60)]
    return sentences, labels, features.astype(np.float32)


def calls_of(monkeypatch, accuracy):
    """Replaces the fits by `accuracy(C, train, test)`; returns the list of what was asked."""
    asked = []

    def record(C, features, labels, train, test):
        rows = features[:, 0].astype(int)
        asked.append((C, rows[train].tolist(), rows[test].tolist()))
        return accuracy(C, rows[train], rows[test])

    monkeypatch.setattr(classification, "_accuracy", record)
    return asked


def test_folds_of_the_paper_by_hand(monkeypatch):
    """23 items: outer folds of 3, 3, 3, 2, ...; every inner fold inside its training part."""
    asked = calls_of(monkeypatch, lambda C, train, test: 0.5)
    features, labels = np.arange(23)[:, None], np.zeros(23)
    fold_accuracies(features, labels, PROTOCOLS["paper"])
    assert len(asked) == 10 * (10 * 9 + 1) == 910
    sizes, begin = [3, 3, 3] + [2] * 7, 0
    for fold, size in enumerate(sizes):
        outer = asked[91 * fold : 91 * fold + 91]
        test = list(range(begin, begin + size))
        train = [i for i in range(23) if i not in test]
        assert outer[-1] == (1.0, train, test)  # all equally good: the smallest C, refitted
        inner = outer[:-1]
        assert [C for C, _, _ in inner] == [2.0**power for power in range(9)] * 10
        held_out = [row for _, _, rows in inner[::9] for row in rows]
        assert held_out == train  # contiguous, each item once
        assert all(sorted(a + b) == train for _, a, b in inner)
        begin += size


def test_the_penalty_is_that_of_the_best_mean(monkeypatch):
    """C = 8 is best on the mean over the folds, though 64 is on most of them."""

    def accuracy(C, train, test):
        first = test[0] < 3
        return {8.0: 0.8, 64.0: 0.1 if first else 0.85}.get(C, 0.2)

    calls_of(monkeypatch, accuracy)
    features = np.arange(20)[:, None]
    assert classification.choose_penalty(features, np.zeros(20), PROTOCOLS["paper"]) == 8.0
    few = Protocol(PROTOCOLS["paper"].order, PROTOCOLS["paper"].folds, (4.0, 8.0, 64.0), 1)
    assert classification.choose_penalty(features, np.zeros(20), few) == 8.0


def test_quick_takes_one_inner_fold(monkeypatch):
    asked = calls_of(monkeypatch, lambda C, train, test: C / 1000)
    accuracies = fold_accuracies(np.arange(20)[:, None], np.zeros(20), PROTOCOLS["quick"])
    assert len(asked) == 5 * (9 + 1) and len(accuracies) == 5
    assert accuracies.tolist() == [0.256] * 5  # the best C is refitted


def test_orders(items):
    sentences, labels, _ = items
    order = PROTOCOLS["paper"].order(sentences, labels)
    indices = np.arange(60)
    np.random.RandomState(1234).shuffle(indices)
    assert (
        order.tolist() == indices.tolist() == PROTOCOLS["quick"].order(sentences, labels).tolist()
    )
    by_length = PROTOCOLS["senteval"].order(sentences, labels)
    want = sorted(range(60), key=lambda i: (len(sentences[i].split()), labels[i]))
    assert by_length.tolist() == want


def test_senteval_is_its_own_loop(items):
    """Stratified, shuffled folds in both loops, C from 1/4 to 8, figures rounded to 0.01 %."""
    sentences, labels, features = items
    order = PROTOCOLS["senteval"].order(sentences, labels)
    X, y = features[order], labels[order]
    folds = StratifiedKFold(n_splits=10, shuffle=True, random_state=1111)
    want = []
    for train, test in folds.split(X, y):
        scores = []
        for C in (0.25, 0.5, 1, 2, 4, 8):
            of_fold = []
            for inner, held_out in folds.split(X[train], y[train]):
                model = LogisticRegression(C=C, solver="liblinear", random_state=1111)
                model.fit(X[train][inner], y[train][inner])
                of_fold.append(model.score(X[train][held_out], y[train][held_out]))
            scores.append(round(100 * np.mean(of_fold), 2))
        C = (0.25, 0.5, 1, 2, 4, 8)[int(np.argmax(scores))]
        model = LogisticRegression(C=C, solver="liblinear", random_state=1111)
        want.append(round(100 * model.fit(X[train], y[train]).score(X[test], y[test]), 2))
    got = fold_accuracies(X, y, PROTOCOLS["senteval"])
    np.testing.assert_allclose(100 * got, want, atol=1e-9)
    assert len(set(want)) > 1


def test_the_regression_minimizes_its_objective(items):
    """liblinear's: |w|^2 / 2 + b^2 / 2 + C sum log(1 + exp(-y (w x + b))); its gradient is 0."""
    _, labels, features = items
    C = 2.0
    model = LogisticRegression(C=C, solver="liblinear", tol=1e-8).fit(features, labels)
    w, b, y = model.coef_[0], model.intercept_[0], 2 * labels - 1
    pull = C * y / (1 + np.exp(y * (features @ w + b)))
    np.testing.assert_allclose(w, pull @ features, atol=1e-3)
    np.testing.assert_allclose(b, pull.sum(), atol=1e-3)


def test_too_few_items():
    with pytest.raises(ValueError, match="n_splits=10"):
        fold_accuracies(np.zeros((4, 2)), np.array([0, 1, 0, 1]), PROTOCOLS["paper"])

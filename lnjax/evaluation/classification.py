"""Accuracy of a logistic regression on sentence vectors, by nested cross-validation.

The outer folds measure, the inner ones choose the strength of the L2 penalty for each outer fold;
then the regression is fitted on the whole training part of that fold. scikit-learn fits, by
liblinear, its default when both protocols were written: it is deterministic, and penalizes the
intercept too.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold


def _shuffled(sentences: Sequence[str], labels: np.ndarray) -> np.ndarray:
    order = np.arange(len(sentences))
    np.random.RandomState(1234).shuffle(order)  # the generator of the public code
    return order


def _by_length(sentences: Sequence[str], labels: np.ndarray) -> np.ndarray:
    keys = [(len(s.split()), int(label)) for s, label in zip(sentences, labels, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the items are ordered, divided, and the penalty chosen.

    Attributes:
        order: sentences and labels -> the order (N,) in which folds see them.
        folds: makes the folds, the outer and the inner ones.
        grid: the values of C, the inverse strength of the penalty, the smallest first; of equally
            good ones the first is taken.
        inner_folds: how many of the inner folds are fitted; None: all.
        digits: accuracies in per cent are rounded to so many before they are compared or averaged;
            None: not.
    """

    order: Callable[[Sequence[str], np.ndarray], np.ndarray]
    folds: Callable[[], Any]
    grid: tuple[float, ...]
    inner_folds: int | None = None
    digits: int | None = None


PAPER_GRID = tuple(2.0**power for power in range(9))  # 1 to 256

PROTOCOLS = {
    # Public code of skip-thoughts: one shuffle (RandomState(1234)), then ten contiguous folds, in
    # the training part of each ten contiguous folds again; neither is stratified.
    "paper": Protocol(_shuffled, lambda: KFold(10), PAPER_GRID),
    # SentEval with scikit-learn and kfold=10: sorted by length in words and label, ten stratified,
    # shuffled folds (seed 1111) outside and inside; C from 1/4 to 8; accuracies rounded.
    "senteval": Protocol(
        _by_length,
        lambda: StratifiedKFold(10, shuffle=True, random_state=1111),
        tuple(2.0**power for power in range(-2, 4)),
        digits=2,
    ),
    # For use during training: five folds, and one inner fold decides. 50 fits instead of 910.
    "quick": Protocol(_shuffled, lambda: KFold(5), PAPER_GRID, inner_folds=1),
}


def fold_accuracies(features: np.ndarray, labels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """The accuracy on each outer fold.

    Args:
        features: (N, D), in the order of `protocol.order`.
        labels: (N,), in the same order.
        protocol: one of PROTOCOLS, or one's own.

    Returns: (number of outer folds,) float64, from 0 to 1.
    Raises: ValueError if there are fewer items than folds, or a training part lacks a class.
    """
    accuracies = []
    for train, test in protocol.folds().split(features, labels):
        best = choose_penalty(features[train], labels[train], protocol)
        accuracy = _accuracy(best, features, labels, train, test)
        accuracies.append(_rounded(accuracy, protocol.digits))
    return np.array(accuracies)


def choose_penalty(features: np.ndarray, labels: np.ndarray, protocol: Protocol) -> float:
    """The value of C with the best mean accuracy over the inner folds of a training part."""
    inner = itertools.islice(protocol.folds().split(features, labels), protocol.inner_folds)
    scores = [
        [_accuracy(C, features, labels, train, test) for C in protocol.grid]
        for train, test in inner
    ]
    means = [_rounded(mean, protocol.digits) for mean in np.mean(scores, axis=0)]
    return protocol.grid[int(np.argmax(means))]


def _accuracy(
    C: float, features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> float:
    model = LogisticRegression(C=C, solver="liblinear").fit(features[train], labels[train])
    return float(np.mean(model.predict(features[test]) == labels[test]))


def _rounded(accuracy: float, digits: int | None) -> float:
    return accuracy if digits is None else round(100 * accuracy, digits) / 100

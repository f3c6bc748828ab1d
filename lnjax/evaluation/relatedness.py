"""Relatedness of two sentences from their vectors, as Tai, Socher and Manning (2015) fit it.

Features of a pair are |u - v| and u * v. A softmax over the scores 1 to 5 is fitted to soft
targets: a score y between two integers is the distribution on them with mean y. What is predicted
is the mean of the softmax. The fit has no penalty; it stops early, when the correlation on the
trial part is no longer better, so that the path of the optimizer is part of the protocol. This is
why it is a loop over Adam in optax, compiled for a block of epochs at once: scikit-learn has
neither soft targets nor this path.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

Array = jax.Array

SCORES = np.arange(1.0, 6.0)  # the classes, as numbers


class Softmax(NamedTuple):
    """Parameters of the softmax regression: `kernel` (F, 5), `bias` (5,)."""

    kernel: Array
    bias: Array


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the softmax is fitted.

    Attributes:
        loss: "cross_entropy" or "squared_error", between the softmax and the soft target.
        batch_size: rows of a step; the last of an epoch may have fewer.
        block: epochs between two looks at the trial part.
        patience: blocks without improvement that are forgiven, over the whole fit.
        max_epochs: no further block is begun beyond this; None: no end.
        reshuffle: the training part is mixed for every epoch, not once.
        init: "glorot_uniform", with no bias, or "torch": +-1/sqrt(F), the bias too.
        seed: of the order and the start.
    """

    loss: str
    batch_size: int
    block: int
    patience: int
    max_epochs: int | None
    reshuffle: bool
    init: str
    seed: int


PROTOCOLS = {
    # Public code of skip-thoughts, with Keras as it was: Adam at 1e-3, batches of 128 in one order
    # (a shuffle with seed 1234), blocks of 100 epochs, stop at the first that is no better.
    "paper": Protocol("cross_entropy", 128, 100, 0, None, False, "glorot_uniform", 1234),
    # SentEval: the squared error of the distributions, batches of 64 in a new order each epoch,
    # blocks of 50 epochs, stop at the fourth without improvement or after 1000 epochs, seed 1111.
    "senteval": Protocol("squared_error", 64, 50, 3, 1000, True, "torch", 1111),
}
# As "paper", which takes seconds, but with an end: vectors of an encoder that has hardly begun to
# learn are so small that the trial part gets better by a little for tens of thousands of epochs.
PROTOCOLS["quick"] = dataclasses.replace(PROTOCOLS["paper"], max_epochs=5000)

_ADAM = optax.adam(1e-3)


def pair_features(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[|u - v|, u * v] of each pair: two arrays (N, D) to (N, 2D)."""
    return np.concatenate([np.abs(first - second), first * second], axis=1)


def target_distributions(scores: np.ndarray) -> np.ndarray:
    """Scores (N,) from 1 to 5 as distributions (N, 5) over the integers beside them.

    With y = k + f, 0 <= f < 1: the probability f at k + 1 and 1 - f at k (Tai et al., Eq. 15).
    """
    distance = np.abs(np.asarray(scores, np.float64)[:, None] - SCORES)
    return np.maximum(0.0, 1.0 - distance)


def fit(
    features: np.ndarray,
    scores: np.ndarray,
    trial_features: np.ndarray,
    trial_scores: np.ndarray,
    *,
    protocol: Protocol,
) -> Softmax:
    """The softmax regression that was best on the trial part.

    Args:
        features, scores: to fit on, (N, F) and (N,).
        trial_features, trial_scores: to stop by, (M, F) and (M,).
        protocol: one of PROTOCOLS, or one's own.
    """
    rng = np.random.RandomState(protocol.seed)
    targets = target_distributions(scores)
    if not protocol.reshuffle:
        order = np.arange(len(features))
        np.random.RandomState(protocol.seed).shuffle(order)  # as sklearn.utils.shuffle
        features, targets = features[order], targets[order]
    rows = jnp.asarray(features, jnp.float32), jnp.asarray(targets, jnp.float32)
    model = best_model = _start(features.shape[1], protocol.init, rng)
    opt_state = _ADAM.init(model)
    best, misses, epochs = -1.0, 0, 0
    while misses <= protocol.patience:
        if protocol.max_epochs is not None and epochs > protocol.max_epochs:
            break
        orders = _epochs(len(features), protocol, rng)
        model, opt_state = _fit_block(model, opt_state, *rows, *orders, loss=protocol.loss)
        epochs += protocol.block
        found = pearson(predict(model, trial_features), trial_scores)
        if found > best:
            best, best_model = found, model
        else:
            misses += 1
    return best_model


def _start(num_features: int, init: str, rng: np.random.RandomState) -> Softmax:
    shape = (num_features, len(SCORES))
    bound = np.sqrt(6 / sum(shape)) if init == "glorot_uniform" else 1 / np.sqrt(num_features)
    kernel = rng.uniform(-bound, bound, shape)
    bias = rng.uniform(-bound, bound, shape[1:]) if init == "torch" else np.zeros(shape[1:])
    return Softmax(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))


def _epochs(
    number: int, protocol: Protocol, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every step of a block (S, B) int32, and which of them are real (S, B) float32."""
    size = protocol.batch_size
    padded = -(-number // size) * size
    orders = np.zeros((protocol.block, padded), np.int32)
    for order in orders:
        order[:number] = rng.permutation(number) if protocol.reshuffle else np.arange(number)
    real = np.broadcast_to(np.arange(padded) < number, orders.shape).astype(np.float32)
    return orders.reshape(-1, size), real.reshape(-1, size)


@functools.partial(jax.jit, static_argnames="loss")
def _fit_block(
    model: Softmax,
    opt_state: optax.OptState,
    features: Array,
    targets: Array,
    order: Array,
    real: Array,
    *,
    loss: str,
) -> tuple[Softmax, optax.OptState]:
    """One step of Adam for each row of `order`."""

    def batch_loss(model: Softmax, rows: Array, mask: Array) -> Array:
        logits = features[rows] @ model.kernel + model.bias[None, :]
        if loss == "cross_entropy":
            errors = -(targets[rows] * jax.nn.log_softmax(logits)).sum(axis=1)
        else:
            errors = ((jax.nn.softmax(logits) - targets[rows]) ** 2).mean(axis=1)
        return (errors * mask).sum() / mask.sum()

    def step(carry: tuple, batch: tuple[Array, Array]) -> tuple[tuple, None]:
        model, opt_state = carry
        updates, opt_state = _ADAM.update(jax.grad(batch_loss)(model, *batch), opt_state)
        return (optax.apply_updates(model, updates), opt_state), None

    return jax.lax.scan(step, (model, opt_state), (order, real))[0]


def predict(model: Softmax, features: np.ndarray) -> np.ndarray:
    """Scores (N,) float64 from 1 to 5: the mean of the softmax of each row of `features` (N, F)."""
    kernel, bias = (np.asarray(leaf, np.float64) for leaf in model)
    logits = np.asarray(features, np.float64) @ kernel + bias
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights @ SCORES / weights.sum(axis=1)


def agreement(predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """`pearson` and `spearman` correlation and mean squared error, `mse`, of predicted scores."""
    return {
        "pearson": pearson(predicted, scores),
        "spearman": spearman(predicted, scores),
        "mse": float(np.mean((np.asarray(predicted) - scores) ** 2)),
    }


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """The linear correlation of two arrays (N,); 0 where one is constant and it is undefined."""
    centred = [np.asarray(values, np.float64) - np.mean(values) for values in (first, second)]
    norms = [np.linalg.norm(values) for values in centred]
    sizes = [np.linalg.norm(values) for values in (first, second)]
    if any(norm <= 1e-12 * size for norm, size in zip(norms, sizes, strict=True)):
        return 0.0
    return float(centred[0] @ centred[1] / (norms[0] * norms[1]))


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of the ranks of two arrays (N,); equal values share the mean of theirs."""
    return pearson(rankdata(first), rankdata(second))

"""Normalized GLMs as plain NumPy in float64, and derivatives by finite differences."""

import itertools
import math

import numpy as np


def statistics(norm, kernel, xs, epsilon=0.0):
    """Mean and sigma (N, H) of each summed input."""
    summed = xs @ kernel
    mean, variance = np.zeros_like(summed), np.ones_like(summed)
    for n, i in np.ndindex(summed.shape):
        if norm == "layer":
            mean[n, i] = summed[n].mean()
            variance[n, i] = ((summed[n] - summed[n].mean()) ** 2).mean() + epsilon
        elif norm == "rms":
            variance[n, i] = (summed[n] ** 2).mean() + epsilon
        elif norm == "batch":
            mean[n, i] = summed[:, i].mean()
            variance[n, i] = ((summed[:, i] - summed[:, i].mean()) ** 2).mean() + epsilon
        elif norm == "weight":
            variance[n, i] = (kernel[:, i] ** 2).sum() + epsilon
    return mean, variance**0.5


def natural(norm, theta, xs, epsilon=0.0):
    """z (N, H) of theta (H, P): of each unit its weights, its bias, its gain if there is one."""
    inner = xs.shape[1]
    kernel, bias = theta[:, :inner].T, theta[:, inner]
    gain = theta[:, inner + 1] if norm else np.ones_like(bias)
    mean, sigma = statistics(norm, kernel, xs, epsilon)
    return gain * (xs @ kernel - mean) / sigma + bias


def pack(params):
    columns = [params.kernel.T, params.bias[:, None]]
    if params.scale is not None:
        columns.append(params.scale[:, None])
    return np.concatenate([np.asarray(column, np.float64) for column in columns], axis=1)


def differences(function, at, step=1e-5):
    """The derivative of an array (...) by every entry of `at` (flat, P), (..., P)."""
    at = np.asarray(at, np.float64)
    columns = []
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        columns.append((function(at + moved) - function(at - moved)) / (2 * step))
    return np.stack(columns, axis=-1)


def log_partition(family, z):
    """eta (N,) of z (N, H)."""
    each = {
        "gaussian": lambda: z**2 / 2,
        "bernoulli": lambda: np.log1p(np.exp(z)),
        "poisson": lambda: np.exp(z),
    }
    if family == "categorical":
        return np.log(np.exp(z).sum(axis=1))
    return each[family]().sum(axis=1)


def outcomes(family, z, phi=1.0):
    """All outcomes y (K, H) of one case z (H,), and their probabilities (K,)."""
    if family == "categorical":
        return np.eye(len(z)), np.exp(z) / np.exp(z).sum()
    if family == "gaussian":
        # Two points a deviation from the mean have the mean and covariance of the normal
        # distribution, and the score is linear in y: its second moment is the same.
        values = [[(m - phi**0.5, 0.5), (m + phi**0.5, 0.5)] for m in z]
    elif family == "bernoulli":
        values = [[(0.0, 1 / (1 + np.exp(m))), (1.0, 1 / (1 + np.exp(-m)))] for m in z]
    else:
        values = [
            [(k, math.exp(k * m - math.exp(m)) / math.factorial(k)) for k in range(30)] for m in z
        ]
    both = np.array(list(itertools.product(*values)))
    return both[:, :, 0], both[:, :, 1].prod(axis=1)


def fisher(norm, family, theta, xs, phi=1.0, epsilon=0.0):
    """Eq. 9 as it stands: the expected outer product of the gradient of log P(y|x), (HP, HP)."""
    z = natural(norm, theta, xs, epsilon)
    slopes = differences(lambda t: natural(norm, t, xs, epsilon), theta)
    partition = differences(lambda t: log_partition(family, natural(norm, t, xs, epsilon)), theta)
    total = np.zeros((theta.size, theta.size))
    for n in range(len(xs)):
        ys, probabilities = outcomes(family, z[n], phi)
        scores = (ys @ slopes[n] - partition[n]) / phi
        total += (scores * probabilities[:, None]).T @ scores
    return total / len(xs)


def covariance(family, z, phi=1.0):
    """Cov[y|x] (H, H) of one case."""
    ys, probabilities = outcomes(family, z, phi)
    centred = ys - probabilities @ ys
    return (centred * probabilities[:, None]).T @ centred


def paper_fisher(norm, family, theta, xs, phi=1.0):
    """Eq. 12, or Eq. 13 with the derivatives of Eq. 14 by finite differences, (HP, HP)."""
    cases, inner = xs.shape
    width, size = theta.shape
    kernel = theta[:, :inner].T
    mean, sigma = statistics(norm, kernel, xs)
    z = natural(norm, theta, xs)
    blocks = np.zeros((width, size, width, size))
    rows = np.zeros((cases, width, size))
    for i in range(width):

        def of_unit(weights, i=i):
            moved = kernel.copy()
            moved[:, i] = weights
            return np.stack([value[:, i] for value in statistics(norm, moved, xs)])

        d_mean, d_sigma = differences(of_unit, kernel[:, i])
        normalized = (xs @ kernel[:, i] - mean[:, i]) / sigma[:, i]
        chi = xs - d_mean - normalized[:, None] * d_sigma
        if norm:
            gain = theta[i, inner + 1]
            columns = [gain / sigma[:, i, None] * chi, np.ones((cases, 1)), normalized[:, None]]
        else:
            columns = [chi, np.ones((cases, 1))]
        rows[:, i] = np.concatenate(columns, axis=1)
    for n in range(cases):
        spread = covariance(family, z[n], phi) / phi**2
        for i, j in np.ndindex(width, width):
            blocks[i, :, j, :] += spread[i, j] * np.outer(rows[n, i], rows[n, j]) / cases
    return blocks.reshape(width * size, width * size)

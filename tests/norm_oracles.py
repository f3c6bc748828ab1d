"""Norms other than layer norm as plain NumPy loops in float64; channels are the last axis."""

import numpy as np


def standardize(values, epsilon, divisor=None):
    """The values minus their mean, over their deviation."""
    mu = values.sum() / values.size
    variance = ((values - mu) ** 2).sum() / (divisor or values.size)
    return (values - mu) / (variance + epsilon) ** 0.5


def affine(y, scale, bias):
    gain = 1.0 if scale is None else np.asarray(scale, np.float64)
    return y * gain + (0.0 if bias is None else np.asarray(bias, np.float64))


def batch_statistics(x, mask=None, unbiased=False):
    """Mean and variance (C,) of x (..., C) over the entries where mask (...) is True."""
    x = np.asarray(x, np.float64)
    real = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask)
    mean, variance = np.zeros((2, x.shape[-1]))
    for channel in range(x.shape[-1]):
        values = np.array([x[i][channel] for i in np.ndindex(real.shape) if real[i]])
        if values.size:
            mean[channel] = values.sum() / values.size
            divisor = max(values.size - 1, 1) if unbiased else values.size
            variance[channel] = ((values - mean[channel]) ** 2).sum() / divisor
    return mean, variance


def batch_norm(x, scale=None, bias=None, mask=None, epsilon=1e-5, unbiased=False, statistics=None):
    """Eq. 2 of the paper, for x (..., C); zero where mask (...) is False."""
    x = np.asarray(x, np.float64)
    mean, variance = statistics or batch_statistics(x, mask, unbiased)
    y = np.zeros_like(x)
    for i in np.ndindex(x.shape[:-1]):
        if mask is None or mask[i]:
            normalized = (x[i] - mean) / (np.asarray(variance) + epsilon) ** 0.5
            y[i] = affine(normalized, scale, bias)
    return y


def group_norm(x, scale=None, bias=None, num_groups=1, epsilon=1e-5):
    """x (B, ..., C): one group of channels of one case at a time, over all positions."""
    x = np.asarray(x, np.float64)
    width = x.shape[-1] // num_groups
    y = np.empty_like(x)
    for case in range(x.shape[0]):
        for group in range(num_groups):
            channels = slice(group * width, (group + 1) * width)
            y[case, ..., channels] = standardize(x[case, ..., channels], epsilon)
    return affine(y, scale, bias)


def weight_norm(kernel, scale=None, epsilon=0.0):
    """kernel (..., features): one unit at a time."""
    kernel = np.asarray(kernel, np.float64)
    normalized = np.empty_like(kernel)
    for unit in range(kernel.shape[-1]):
        weights = kernel[..., unit]
        normalized[..., unit] = weights / ((weights**2).sum() + epsilon) ** 0.5
    return affine(normalized, scale, None)

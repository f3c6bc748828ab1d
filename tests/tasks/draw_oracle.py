"""DRAW as its paper writes it: one image, one glimpse, one filter at a time, in NumPy float64."""

import math
from typing import NamedTuple

import numpy as np

from tests import oracles


def filter_bank(center, stride, variance, size, extent):
    """F[i, a] of one direction by three loops: filters, pixels, and the sum that divides."""
    bank = np.zeros((size, extent))
    for i in range(1, size + 1):
        mean = center + (i - size / 2 - 0.5) * stride
        total = 1e-4
        for a in range(1, extent + 1):
            total += math.exp(-((a - mean) ** 2) / (2 * variance))
        for a in range(1, extent + 1):
            bank[i - 1, a - 1] = math.exp(-((a - mean) ** 2) / (2 * variance)) / total
    return bank


class Banks(NamedTuple):
    rows: np.ndarray
    columns: np.ndarray
    gamma: float
    frame: list[float]


def banks(numbers, size, shape):
    """Both filter banks, gamma, and left, top, right, bottom, deviation in pixel coordinates."""
    (height, width), (x, y, log_variance, log_stride, log_gamma) = shape, numbers
    g_x, g_y = (width + 1) / 2 * (x + 1), (height + 1) / 2 * (y + 1)
    stride = (max(height, width) - 1) / (size - 1) * np.exp(log_stride)
    variance = np.exp(log_variance)
    first, last = (1 - size / 2 - 0.5) * stride, (size - size / 2 - 0.5) * stride
    corners = [g_x + first, g_y + first, g_x + last, g_y + last]
    return Banks(
        filter_bank(g_y, stride, variance, size, height),
        filter_bank(g_x, stride, variance, size, width),
        np.exp(log_gamma),
        [corner - 0.5 for corner in corners] + [variance**0.5],  # pixel 1 reaches from 0 to 1
    )


class Drawing(NamedTuple):
    """Of one image."""

    reconstruction: float
    kl: np.ndarray  # (T,)
    log_ratio: np.ndarray  # (T,)
    canvases: np.ndarray  # (T, B, A)
    read: list[list[float]]
    write: list[list[float]]


def draw(params, image, noise, *, norm, attention, read_size, write_size):
    """Gregor et al. (2015), Eq. 3-12, for image (B, A) and noise (T, Z).

    Without an image (None) the noise is z itself, and nothing is read.
    """
    shape = attention["shape"] if image is None else image.shape
    windows = attention["windows"]
    cells = {name: params[name] for name in ("encoder", "decoder") if name in params}
    features = params["write_kernel"].shape[0]

    def affine(name, h):
        return h @ params[f"{name}_kernel"] + params[f"{name}_bias"]

    def lstm(name, state, x):
        return oracles.lstm_step(cells[name], *state, x, norm, sites=("cell",))

    canvas = np.zeros(shape)
    encoder = decoder = (np.zeros(features), np.zeros(features))
    kl, ratio, canvases, reads, writes = [], [], [], [], []
    for epsilon in np.asarray(noise, np.float64):
        z = epsilon
        if image is not None:
            error = image - oracles.sigmoid(canvas)
            if windows:
                at = banks(affine("read_window", decoder[1]), read_size, shape)
                both = [at.gamma * at.rows @ x @ at.columns.T for x in (image, error)]
                reads.append(at.frame)
            else:
                both = [image, error]
            seen = np.concatenate([x.ravel() for x in both] + [decoder[1]])
            encoder = lstm("encoder", encoder, seen)
            mean, log_deviation = np.split(affine("posterior", encoder[1]), 2)
            deviation = np.exp(log_deviation)
            z = mean + deviation * epsilon
            terms = mean**2 + deviation**2 - np.log(deviation**2) - 1
            kl.append(terms.sum() / 2)
            log_p = -(z**2) / 2 - math.log(2 * math.pi) / 2
            log_q = -(((z - mean) / deviation) ** 2) / 2 - math.log(2 * math.pi) / 2
            ratio.append((log_p - log_q + log_deviation).sum())
        decoder = lstm("decoder", decoder, z)
        patch = affine("write", decoder[1])
        if windows:
            at = banks(affine("write_window", decoder[1]), write_size, shape)
            patch = patch.reshape(write_size, write_size)
            canvas = canvas + at.rows.T @ patch @ at.columns / at.gamma
            writes.append(at.frame)
        else:
            canvas = canvas + patch.reshape(shape)
        canvases.append(canvas)
    nats = 0.0
    if image is not None:
        p = oracles.sigmoid(canvas)
        nats = -(image * np.log(p) + (1 - image) * np.log(1 - p)).sum()
    return Drawing(nats, np.array(kl), np.array(ratio), np.array(canvases), reads, writes)

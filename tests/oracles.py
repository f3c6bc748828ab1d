"""What the paper's equations say, as plain NumPy loops in float64, and derivatives by differences.

Written from the equations and not from lnjax, one case and one time step at a time: nothing here is
vectorized, fused or shared with the code under test.
"""

import itertools

import numpy as np


def layer_norm(x, scale=None, bias=None, axis=-1, epsilon=1e-5):
    """Eq. 3 and 5 (15-16 in the appendix), epsilon inside the root, case by case."""
    x = np.asarray(x, np.float64)
    axes = sorted({a % x.ndim for a in np.atleast_1d(axis)})
    cases = [range(1) if a in axes else range(n) for a, n in enumerate(x.shape)]
    y = np.empty_like(x)
    for case in itertools.product(*cases):
        index = tuple(slice(None) if a in axes else i for a, i in enumerate(case))
        a = x[index]
        mu = a.sum() / a.size
        sigma_squared = ((a - mu) ** 2).sum() / a.size
        normalized = (a - mu) / (sigma_squared + epsilon) ** 0.5
        gain = 1.0 if scale is None else np.asarray(scale, np.float64)
        offset = 0.0 if bias is None else np.asarray(bias, np.float64)
        y[index] = normalized * gain + offset
    return y


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(params, c, h, x, norm="layer", epsilon=1e-5, rounded=lambda a: a):
    """Eq. 17-19, or 20-22 with norm="layer", for one case: c, h (H,), x (D,) -> new c, h.

    `params` is a dict; gates are stored i, f, g, o; `rounded` is applied to operands of products.
    """
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    from_h = rounded(h) @ rounded(p["recurrent_kernel"])
    from_x = rounded(x) @ rounded(p["kernel"])
    if norm == "layer":
        from_h = layer_norm(from_h, p["scale_h"], epsilon=epsilon)
        from_x = layer_norm(from_x, p["scale_x"], epsilon=epsilon)
    i, f, g, o = np.split(from_h + from_x + p["bias"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    seen = layer_norm(c, p["scale_c"], p["bias_c"], epsilon=epsilon) if norm == "layer" else c
    return c, sigmoid(o) * np.tanh(seen)


def lstm(params, xs, carry, mask=None, norm="layer", epsilon=1e-5, reverse=False, **options):
    """A sequence, xs (T, B, D): where mask (T, B) is False c and h are copied, the output is 0."""
    xs = np.asarray(xs, np.float64)
    num_steps, batch, _ = xs.shape
    c, h = (np.array(leaf, np.float64) for leaf in carry)
    ys = np.zeros((num_steps, batch, h.shape[-1]))
    for t in reversed(range(num_steps)) if reverse else range(num_steps):
        for b in range(batch):
            if mask is None or mask[t, b]:
                c[b], h[b] = lstm_step(params, c[b], h[b], xs[t, b], norm, epsilon, **options)
                ys[t, b] = h[b]
    return (c, h), ys


def numerical_gradients(function, arguments, h=1e-5):
    """Gradients of a scalar function of a dict of arrays, entry by entry, by central differences.

    Fourth order: the error is about 1e-16 / h of rounding, and h**4 times the fifth derivative.
    """
    arguments = {name: np.array(value, np.float64) for name, value in arguments.items()}
    gradients = {name: np.empty_like(value) for name, value in arguments.items()}
    for name, value in arguments.items():
        for index in np.ndindex(value.shape):
            original, at = value[index], {}
            for offset in (-2, -1, 1, 2):
                value[index] = original + offset * h
                at[offset] = function(**arguments)
            value[index] = original
            gradients[name][index] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    return gradients

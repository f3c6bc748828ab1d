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


def rms_norm(x, scale=1.0, bias=0.0, epsilon=1e-5):
    """Zhang and Sennrich (2019), one case: x (H,) over its root mean square; no mean is taken."""
    x = np.asarray(x, np.float64)
    return x / ((x**2).sum() / x.size + epsilon) ** 0.5 * scale + bias


def no_norm(x, scale=None, bias=None, epsilon=None):
    return x


NORMS = {"layer": layer_norm, "rms": rms_norm, None: no_norm}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def exact(a):
    return a


def lstm_step(
    params,
    c,
    h,
    x,
    norm="layer",
    epsilon=1e-5,
    rounded=exact,
    sites=("recurrent", "input", "cell"),
    dropout_h=1.0,
):
    """Eq. 17-19, or 20-22 with norm="layer", for one case: c, h (H,), x (D,) -> new c, h.

    `params` is a dict; gates are stored i, f, g, o; `rounded` is applied to operands of products.
    With sites=("cell",) Eq. 29-31; "carried_cell" hands the normalized c on to the next step.
    """
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    from_h = rounded(h * dropout_h) @ rounded(p["recurrent_kernel"])
    from_x = rounded(x) @ rounded(p["kernel"])
    if norm is not None and "recurrent" in sites:
        from_h = NORMS[norm](from_h, p["scale_h"], epsilon=epsilon)
    if norm is not None and "input" in sites:
        from_x = NORMS[norm](from_x, p["scale_x"], epsilon=epsilon)
    i, f, g, o = np.split(from_h + from_x + p["bias"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    seen = c
    if norm is not None and ("cell" in sites or "carried_cell" in sites):
        seen = NORMS[norm](c, p["scale_c"], p["bias_c"], epsilon=epsilon)
    return seen if "carried_cell" in sites else c, sigmoid(o) * np.tanh(seen)


def gru_step(params, h, x, norm="layer", epsilon=1e-5, rounded=exact, dropout_h=1.0):
    """Eq. 23-25, or 26-28 with norm="layer", for one case: h (H,), x (D,) -> new h.

    Columns are stored r, z, n. The paper's betas of the gates and of the input's candidate are
    `bias`; that of the recurrent candidate, inside the bracket that r multiplies, is `bias_h`.
    """
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    normalize, width = NORMS[norm], len(h)
    gates, candidate = slice(0, 2 * width), slice(2 * width, 3 * width)
    gains_h, gains_x = (p.get(name, np.ones(3 * width)) for name in ("scale_h", "scale_x"))

    def from_h(part):
        product = rounded(h * dropout_h) @ rounded(p["recurrent_kernel"][:, part])
        return normalize(product, gains_h[part], epsilon=epsilon)

    def from_x(part):
        product = rounded(x) @ rounded(p["kernel"][:, part])
        return normalize(product, gains_x[part], epsilon=epsilon) + p["bias"][part]

    r, z = np.split(from_h(gates) + from_x(gates), 2)
    n = np.tanh(from_x(candidate) + sigmoid(r) * (from_h(candidate) + p["bias_h"]))
    return (1 - sigmoid(z)) * h + sigmoid(z) * n


def simple_step(
    params,
    h,
    x,
    norm="layer",
    epsilon=1e-5,
    rounded=exact,
    sites=("sum",),
    activation=np.tanh,
    dropout_h=1.0,
):
    """Eq. 4 for one case, or with other sites each projection normalized apart: h, x -> new h."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    a_h = rounded(h * dropout_h) @ rounded(p["recurrent_kernel"])
    a_x = rounded(x) @ rounded(p["kernel"])
    if norm is not None and "recurrent" in sites:
        a_h = NORMS[norm](a_h, p["scale_h"], epsilon=epsilon)
    if norm is not None and "input" in sites:
        a_x = NORMS[norm](a_x, p["scale_x"], epsilon=epsilon)
    a = a_h + a_x
    if norm is not None and "sum" in sites:
        a = NORMS[norm](a, p["scale"], epsilon=epsilon)
    return activation(a + p["bias"])


def sequence(
    step,
    params,
    xs,
    carry,
    mask=None,
    norm="layer",
    epsilon=1e-5,
    dropout_h=None,
    hold=None,
    reverse=False,
    **options,
):
    """A sequence of `step`: xs (T, B, D), carry a tuple of (B, H) with h last -> carry, ys.

    Where mask (T, B) is False the carry is copied and the output is 0. `dropout_h` (B, H)
    multiplies h in the recurrent products. `hold` has an entry for each leaf of the carry: the
    share of its old value that it keeps (True is all of it), which the output shows too.
    """
    xs = np.asarray(xs, np.float64)
    num_steps, batch, _ = xs.shape
    carry = [np.array(leaf, np.float64) for leaf in carry]
    shape = (num_steps, *carry[-1].shape)
    hold = hold or (None,) * len(carry)
    shares = [np.broadcast_to(0.0 if a is None else np.asarray(a, float), shape) for a in hold]
    dropout_h = np.ones(shape[1:]) if dropout_h is None else np.asarray(dropout_h, np.float64)
    ys = np.zeros(shape)
    for t in reversed(range(num_steps)) if reverse else range(num_steps):
        for b in range(batch):
            if mask is None or mask[t, b]:
                old = [leaf[b].copy() for leaf in carry]
                new = step(params, *old, xs[t, b], norm, epsilon, dropout_h=dropout_h[b], **options)
                for n, value in enumerate(new if isinstance(new, tuple) else (new,)):
                    share = shares[n][t, b]
                    carry[n][b] = share * old[n] + (1 - share) * value
                ys[t, b] = carry[-1][b]
    return tuple(carry), ys


def lstm(params, xs, carry, *arguments, **options):
    """`sequence` of `lstm_step`, with the carry (c, h)."""
    return sequence(lstm_step, params, xs, carry, *arguments, **options)


def gru(params, xs, carry, *arguments, **options):
    """`sequence` of `gru_step`, with the carry h."""
    (h,), ys = sequence(gru_step, params, xs, (carry,), *arguments, **options)
    return h, ys


def simple_rnn(params, xs, carry, *arguments, **options):
    """`sequence` of `simple_step`, with the carry h."""
    (h,), ys = sequence(simple_step, params, xs, (carry,), *arguments, **options)
    return h, ys


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

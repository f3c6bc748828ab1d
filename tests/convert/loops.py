"""Other frameworks' layers as NumPy loops in float64, written from their sources, not from lnjax.

Each takes the weights under their names in the source, xs (T, B, D) and the initial states (B, H),
and returns the outputs (T, B, H). Commits and versions are those that the loops were written from.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normalized(x, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def theano_ln(x, b, s):
    return s * normalized(x, 1e-5) + b


def theano_lstm(p, xs, c, h, norm=False):
    """lstm_layer, lnlstm_layer of ryankiros/layer-norm, layers.py, at d415153fd6eb."""
    below, ys = xs @ p["W"] + p["b"], []
    for x in below:
        before = h @ p["U"]
        if norm:
            x = theano_ln(x, p["b1"], p["s1"])
            before = theano_ln(before, p["b2"], p["s2"])
        i, f, o, g = np.split(before + x + p["b"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(theano_ln(c, p["b3"], p["s3"]) if norm else c)
        ys.append(h)
    return np.stack(ys)


def theano_gru(p, xs, h, norm=False):
    """gru_layer, lngru_layer of ryankiros/layer-norm, layers.py, at d415153fd6eb."""
    below, below_x, ys = xs @ p["W"] + p["b"], xs @ p["Wx"] + p["bx"], []
    for x, xx in zip(below, below_x, strict=True):
        preact, preact_x = h @ p["U"], h @ p["Ux"]
        if norm:
            x, xx = theano_ln(x, p["b1"], p["s1"]), theano_ln(xx, p["b2"], p["s2"])
            preact = theano_ln(preact, p["b3"], p["s3"])
            preact_x = theano_ln(preact_x, p["b4"], p["s4"])
        r, u = np.split(sigmoid(preact + x), 2, axis=-1)
        h = u * h + (1 - u) * np.tanh(preact_x * r + xx)
        ys.append(h)
    return np.stack(ys)


def keras_lstm(kernel, recurrent_kernel, bias, xs, c, h):
    """LSTMCell.call of keras 3.15.1, keras/src/layers/rnn/lstm.py."""
    ys = []
    for x in xs:
        i, f, g, o = np.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys)


def keras_gru(kernel, recurrent_kernel, bias, xs, h):
    """GRUCell.call of keras 3.15.1 with reset_after, keras/src/layers/rnn/gru.py."""
    ys = []
    for x in xs:
        x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3, axis=-1)
        h_z, h_r, h_h = np.split(h @ recurrent_kernel + bias[1], 3, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_h + r * h_h)
        ys.append(h)
    return np.stack(ys)


def keras_simple_rnn(kernel, recurrent_kernel, bias, xs, h, activation=np.tanh):
    """SimpleRNNCell.call of keras 3.15.1, keras/src/layers/rnn/simple_rnn.py."""
    ys = []
    for x in xs:
        h = activation(x @ kernel + bias + h @ recurrent_kernel)
        ys.append(h)
    return np.stack(ys)


def tfa_layer_norm_lstm(p, xs, c, h, epsilon):
    """LayerNormLSTMCell.call of tensorflow/addons, at 386d685d6d7e."""

    def norm(x, name):
        return normalized(x, epsilon) * p[f"{name}/gamma"] + p[f"{name}/beta"]

    ys = []
    for x in xs:
        z = norm(x @ p["kernel"], "kernel_norm")
        z = z + norm(h @ p["recurrent_kernel"], "recurrent_norm") + p["bias"]
        i, f, g, o = np.split(z, 4, axis=-1)
        c = norm(sigmoid(f) * c + sigmoid(i) * np.tanh(g), "state_norm")
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys)


def tfa_layer_norm_simple_rnn(p, xs, h, epsilon, activation=np.tanh):
    """LayerNormSimpleRNNCell.call of tensorflow/addons, at 15609b2c8299."""
    ys = []
    for x in xs:
        net = x @ p["kernel"] + h @ p["recurrent_kernel"]
        h = activation(normalized(net, epsilon) * p["layernorm/gamma"] + p["bias"])
        ys.append(h)
    return np.stack(ys)


def haste_lstm(p, xs, c, h, norm=False):
    """LSTMScript of lmnt-com/haste at ed8cdec96b10, LayerNormLSTMScript at 440d57fccc4a."""
    ys = []
    for x in xs:
        from_x, from_h = x @ p["kernel"], h @ p["recurrent_kernel"]
        if norm:
            from_x = normalized(from_x, 1e-5) * p["gamma"][0]
            from_h = normalized(from_h, 1e-5) * p["gamma"][1]
        i, g, f, o = np.split(from_h + from_x + p["bias"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        seen = normalized(c, 1e-5) * p["gamma_h"] + p["beta_h"] if norm else c
        h = sigmoid(o) * np.tanh(seen)
        ys.append(h)
    return np.stack(ys)


def haste_gru(p, xs, h):
    """GRUScript of lmnt-com/haste at ed8cdec96b10."""
    ys = []
    for x in xs:
        vx = np.split(x @ p["kernel"] + p["bias"], 3, axis=-1)
        vh = np.split(h @ p["recurrent_kernel"] + p["recurrent_bias"], 3, axis=-1)
        z, r = sigmoid(vx[0] + vh[0]), sigmoid(vx[1] + vh[1])
        h = z * h + (1 - z) * np.tanh(vx[2] + r * vh[2])
        ys.append(h)
    return np.stack(ys)

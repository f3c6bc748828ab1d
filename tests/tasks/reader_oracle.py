"""The attentive reader from its equations: NumPy float64, one question and one step at a time."""

import numpy as np

from tests.oracles import lstm_step, sigmoid

EPSILON = 1e-5


def softmax(scores):
    weights = np.exp(np.asarray(scores) - max(scores))
    return weights / weights.sum()


def double(tree):
    if hasattr(tree, "items"):
        return {name: double(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def standardized(values, scale):
    """Batch norm of the rows of `values`, each unit by its mean and deviation over them."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / np.sqrt(variance + EPSILON) * scale for value in values]


def batch_norm_lstm(p, rows, h0):
    """Every row's states h, time step by time step, over the rows that have the step."""
    h = [h0 for _ in rows]
    c = [np.zeros_like(h0) for _ in rows]
    states = [[] for _ in rows]
    for t in range(max(map(len, rows))):
        real = [n for n, row in enumerate(rows) if t < len(row)]
        from_h = standardized([h[n] @ p["recurrent_kernel"] for n in real], p["scale_h"])
        from_x = standardized([rows[n][t] @ p["kernel"] for n in real], p["scale_x"])
        for place, n in enumerate(real):
            i, f, g, o = np.split(from_h[place] + from_x[place] + p["bias"], 4)
            c[n] = sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g)
            h[n] = sigmoid(o)  # times what follows
        seen = standardized([c[n] for n in real], p["scale_c"])
        for place, n in enumerate(real):
            h[n] = h[n] * np.tanh(seen[place] + p["bias_c"])
            states[n].append(h[n])
    return states


def lstm(p, rows, h0, norm):
    states = []
    for row in rows:
        c, h, of_row = np.zeros_like(h0), h0, []
        for x in row:
            c, h = lstm_step(p, c, h, x, norm=norm)
            of_row.append(h)
        states.append(of_row)
    return states


def logits_and_attention(params, batch, *, norm):
    """By row of the batch, without dropout: logits over all answers, attention over real steps."""
    p = double(params)
    table = p["embedding"]["embedding"]

    def read(name):
        rows = [
            [table[token] for token in row[:length]]
            for row, length in zip(batch[name], batch[f"{name}_length"], strict=True)
        ]
        cell, h0 = p[f"{name}_lstm"]["cell"], p[f"{name}_lstm_h"]
        if norm.startswith("batch"):
            return batch_norm_lstm(cell, rows, h0)
        return lstm(cell, rows, h0, None if norm == "none" else norm)

    def affine(name, values):
        """Of a list of vectors, normalized over the list if the norm says so."""
        layer = p[name]
        summed = [value @ layer["kernel"] for value in values]
        if norm == "batch_everywhere":
            summed = standardized(summed, layer["scale"])
        return [value + layer.get("bias", 0) for value in summed]

    states, questions = read("passage"), [row[-1] for row in read("question")]
    flat = affine("attention_passage", [h for row in states for h in row])
    asked = affine("attention_question", questions)
    both = p["similarity_kernel"]
    attention, attended, means = [], [], []
    for row, q, from_q in zip(states, questions, asked, strict=True):
        scores = []
        for h in row:
            s = (h @ both) @ (q @ both)
            scores.append(p["attention_kernel"] @ np.tanh(flat.pop(0) + from_q + s))
        alpha = softmax(scores)
        attention.append(alpha)
        attended.append(sum(a * h for a, h in zip(alpha, row, strict=True)))
        means.append(sum(row) / len(row))
    parts = (
        affine("output_attended", attended),
        affine("output_question", questions),
        affine("output_mean", means),
    )
    readout = p["logits"]
    logits = [
        np.tanh(sum(of_row)) @ readout["kernel"] + readout["bias"]
        for of_row in zip(*parts, strict=True)
    ]
    return logits, attention

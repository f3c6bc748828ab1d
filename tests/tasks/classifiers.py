"""Small pi_mnist and convnet tasks, and what their tests share: batches, parameters, an oracle.

The oracle is NumPy in float64, written from the equations and sharing nothing with lnjax.
"""

import dataclasses
from functools import cache, partial

import jax
import numpy as np

from tasks.convnet import ConvNetTask
from tasks.pi_mnist import PiMnistTask
from tests import norm_oracles, oracles

B, REAL, CLASSES = 7, 5, 3
MOMENTUM, EPSILON = 0.8, 1e-5
IMAGES = {"pi_mnist": (2, 3, 1), "convnet": (5, 4, 2)}
NORMS = ("layer", "rms", "batch", "weight", None)


def pi_mnist_task(norm="layer", **changes):
    task = PiMnistTask(
        num_classes=CLASSES,
        features=5,
        num_layers=2,
        norm=norm,
        norm_logits=True,
        momentum=MOMENTUM,
        unbiased=False,
        dtype="float32",
    )
    return dataclasses.replace(task, **changes)


def convnet_task(norm="layer", **changes):
    task = ConvNetTask(
        num_classes=CLASSES,
        features=2,
        num_layers=2,
        kernel_size=3,
        norm=norm,
        momentum=MOMENTUM,
        unbiased=False,
        dtype="float32",
    )
    return dataclasses.replace(task, **changes)


def make_batch(task, rng, rows=B, real=REAL):
    """Random images and labels, in the rows that are not real too."""
    return {
        "image": rng.integers(0, 256, (rows, *IMAGES[task.name])).astype(np.uint8),
        "label": rng.integers(0, CLASSES, rows).astype(np.int32),
        "mask": np.arange(rows) < real,
    }


@cache
def shapes(task):
    batch = make_batch(task, np.random.default_rng(0))
    return jax.eval_shape(task.init, jax.random.key(0), batch)


def random_variables(task, rng, dtype=np.float32):
    """Parameters and running statistics, none with a value (0 or 1) that could hide its absence."""
    variables = jax.tree.map(
        lambda leaf: rng.normal(0.1, 0.6, leaf.shape).astype(dtype), shapes(task)
    )
    state = {name: leaves for name, leaves in variables.items() if name != "params"}
    for layer in state.get("batch_stats", {}).values():
        layer["var"] = np.abs(layer["var"]) + dtype(0.3)
    return variables["params"], state


@partial(jax.jit, static_argnames=("task", "train"))
def loss_and_gradients(task, params, state, batch, train):
    """((loss, aux), gradients), compiled once for each task, for training and for evaluation."""

    def loss(params):
        return task.loss(params, state, batch, {}, train=train)

    return jax.value_and_grad(loss, has_aux=True)(params)


# ---- the oracle ------------------------------------------------------------------------------


def weights(norm, p):
    kernel = np.asarray(p["kernel"], np.float64)
    if norm == "weight":
        return norm_oracles.weight_norm(kernel, p["scale"], epsilon=EPSILON)
    return kernel


def normalize(task, norm, summed, p, mask, running):
    """The norm of `summed` (B, ..., C), gain and bias; and the new running statistics.

    `running` is what evaluation normalizes with; None in training.
    """
    bias = np.asarray(p["bias"], np.float64)
    if norm == "layer":
        return norm_oracles.group_norm(summed, p["scale"], bias, 1, EPSILON), None
    if norm == "rms":
        rows = [oracles.rms_norm(row.reshape(-1)).reshape(row.shape) for row in summed]
        return norm_oracles.affine(np.array(rows), p["scale"], bias), None
    if norm == "batch":
        real = np.broadcast_to(mask.reshape(-1, *[1] * (summed.ndim - 2)), summed.shape[:-1])
        seen = norm_oracles.batch_statistics(summed, real, unbiased=task.unbiased)
        used = seen if running is None else (running["mean"], running["var"])
        y = norm_oracles.batch_norm(summed, p["scale"], bias, real, EPSILON, statistics=used)
        return y, seen
    return summed + bias, None


def moved(old, seen):
    """Running statistics after a training batch."""
    return {
        name: MOMENTUM * np.asarray(old[name], np.float64) + (1 - MOMENTUM) * value
        for name, value in zip(("mean", "var"), seen, strict=True)
    }


def perceptron(task, params, running, batch, train):
    """Logits (B, K) and new running statistics, layer by layer and unit by unit."""
    x = batch["image"].reshape(len(batch["image"]), -1) / 255.0
    new = {}
    for name in ("hidden_0", "hidden_1", "logits"):
        p, norm = params[name], task.norm
        if name == "logits" and (norm in ("layer", "rms") or not task.norm_logits):
            norm = None
        kernel = weights(norm, p)
        summed = np.array([[row @ unit for unit in kernel.T] for row in x])
        statistics = None if train else running.get(name)
        x, seen = normalize(task, norm, summed, p, batch["mask"], statistics)
        if seen is not None:
            new[name] = moved(running[name], seen) if train else running[name]
        if name != "logits":
            x = np.maximum(x, 0)
    return x, new


def convolve(images, kernel):
    """Stride 2, zeros around so that the output has half as many rows and columns, rounded up."""
    size = kernel.shape[0]
    out = [-(-n // 2) for n in images.shape[1:3]]
    around = [max((m - 1) * 2 + size - n, 0) for m, n in zip(out, images.shape[1:3], strict=True)]
    pads = [(total // 2, total - total // 2) for total in around]
    padded = np.pad(images, [(0, 0), *pads, (0, 0)])
    y = np.zeros((len(images), *out, kernel.shape[-1]))
    for b, i, j, c in np.ndindex(y.shape):
        patch = padded[b, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
        y[b, i, j, c] = (patch * kernel[..., c]).sum()
    return y


def convnet(task, params, running, batch, train):
    """Logits (B, K) and new running statistics."""
    x = batch["image"] / 255.0
    new = {}
    for name in ("conv_0", "conv_1"):
        p = params[name]
        summed = convolve(x, weights(task.norm, p))
        statistics = None if train else running.get(name)
        x, seen = normalize(task, task.norm, summed, p, batch["mask"], statistics)
        x = np.maximum(x, 0)
        if seen is not None:
            new[name] = moved(running[name], seen) if train else running[name]
    readout = params["logits"]
    return x.reshape(len(x), -1) @ np.float64(readout["kernel"]) + readout["bias"], new


ORACLES = {"pi_mnist": perceptron, "convnet": convnet}


def scores(logits, batch):
    """Nats and errors of the real rows, summed one by one."""
    nats, errors = 0.0, 0
    for row, label, real in zip(logits, batch["label"], batch["mask"], strict=True):
        if real:
            nats += np.log(np.exp(row - row.max()).sum()) + row.max() - row[label]
            errors += int(max(range(len(row)), key=lambda k: row[k]) != label)
    return nats, errors


def check_against_oracle(task, rng, *, train, tolerance=2e-5):
    """Sums, loss and running statistics are those of the equations."""
    params, state = random_variables(task, rng)
    batch = make_batch(task, rng)
    (loss, aux), _ = loss_and_gradients(task, params, state, batch, train)
    logits, new = ORACLES[task.name](task, params, state.get("batch_stats", {}), batch, train)
    nats, errors = scores(logits, batch)
    assert {name: float(n) for name, (_, n) in aux.sums.items()} == dict.fromkeys(
        ("loss", "nll", "error"), REAL
    )
    for name in ("loss", "nll"):
        np.testing.assert_allclose(aux.sums[name][0], nats, rtol=tolerance)
    assert aux.sums["error"][0] == errors
    np.testing.assert_allclose(loss, nats / REAL, rtol=tolerance)
    assert jax.tree.structure(aux.model_state) == jax.tree.structure(state)
    expected = {"batch_stats": new} if state else {}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-5),
        dict(aux.model_state),
        expected,
    )

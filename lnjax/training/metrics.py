"""Metrics are pairs (numerator, denominator): added over batches, divided once, on the host.

A mean of batch means is wrong as soon as batches have different numbers of real rows or points.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lnjax.training.task import Task
from lnjax.typing import Array, PyTree, Sums


@jax.jit
def add(a: Sums, b: Sums) -> Sums:
    """Adds two trees of sums on the device; nothing waits for the result."""
    return jax.tree.map(jnp.add, a, b)


@jax.jit
def all_finite(tree: PyTree) -> Array:
    """() bool: whether no leaf holds a NaN or an infinity."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def on_host(sums: Sums) -> dict[str, tuple[float, float]]:
    """Fetches sums; this waits for the device. float32 values become Python floats unchanged."""
    fetched = jax.device_get(sums)
    return {name: (float(n), float(d)) for name, (n, d) in fetched.items()}


def finalize(sums: Sums, task: Task, prefix: str) -> dict[str, float]:
    """Divides: ``{"<prefix>/<name>": value}``. Sums over nothing (denominator 0) are left out.

    Where the loss is over nothing, it is NaN, and there is nothing else.
    """
    real = {name: pair for name, pair in on_host(sums).items() if pair[1] != 0.0}
    if "loss" in sums and "loss" not in real:
        return named({"loss": math.nan}, prefix)
    return named(task.metrics(real), prefix)


def named(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """``{"<prefix>/<name>": value}``."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}

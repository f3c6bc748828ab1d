"""Drawings of `lnjax.analysis.learning_dynamics`."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lnjax.analysis.learning_dynamics import Comparison, Descent
from lnjax.analysis.plots import COLOURS, canvas, name
from lnjax.typing import Array


def dynamics_figure(result: Comparison) -> Figure:
    """Four panels: norm of the weights by norm; effective rate, direction, and decay by run."""
    figure, axes = canvas(2, 2, width=4.6, height=3.3)
    (growth, rate), (direction, decay) = axes
    _growth(growth, result)
    _by_scale(rate, result.scales, lambda run: run.effective_rate)
    rate.set(
        title="Weights k times as large: 1/k² of the rate",
        ylabel="effective learning rate  η / |W|²",
        xscale="log",
        yscale="log",
    )
    rate.legend(frameon=False, title="weights at the start times k", ncols=2)
    _by_scale(direction, result.scales, lambda run: jnp.degrees(run.travelled[:-1]))
    direction.set(
        title="… and their direction hardly turns",
        ylabel="angle from the first direction (degrees)",
        xscale="log",
    )
    for line in direction.get_lines():
        end = (line.get_xdata()[-1], line.get_ydata()[-1])
        offset = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right"}
        direction.annotate(line.get_label(), end, color=line.get_color(), **offset)
    _decay(decay, result)
    for ax in axes.flat:
        ax.set_xlabel("step of plain gradient descent")
    return figure


def _growth(ax: Axes, result: Comparison) -> None:
    for norm, run in result.norms.items():
        first = float(run.norm[0])
        added = np.cumsum((result.learning_rate * np.asarray(run.gradient_norm, float)) ** 2)
        steps = few(len(run.norm))
        law = np.sqrt(first**2 + np.concatenate([[0.0], added]))
        ax.plot(steps, np.asarray(run.norm)[steps - 1], color=COLOURS[norm], label=name(norm))
        ax.plot(
            steps,
            law[steps - 1],
            color="black",
            linestyle=(0, (1, 3)),
            linewidth=1.2,
            label="√(|W₀|² + Σ η²|∇|²)" if norm == list(result.norms)[-1] else None,
        )
    ax.set(
        title="Normalized weights can only grow", ylabel="norm of the weights  |W|", xscale="log"
    )
    ax.legend(frameon=False)


def _by_scale(ax: Axes, runs: Mapping[float, Descent], values: Callable[[Descent], Array]) -> None:
    colours = colormaps["viridis"](np.linspace(0, 0.8, len(runs)))
    for colour, (scale, run) in zip(colours, runs.items(), strict=True):
        steps = few(len(run.loss))
        ax.plot(steps, np.asarray(values(run))[steps - 1], color=colour, label=f"k = {scale:g}")


def _decay(ax: Axes, result: Comparison) -> None:
    colours = colormaps["plasma"](np.linspace(0, 0.75, len(result.decays)))
    for colour, (decay, run) in zip(colours, result.decays.items(), strict=True):
        steps, angle = medians(np.degrees(np.asarray(run.angle)))
        ax.plot(steps, angle, color=colour, label=f"λ = {decay:g}")
        if decay:
            level = np.degrees(np.sqrt(2 * result.learning_rate * decay))
            ax.axhline(level, color=colour, linestyle=":", linewidth=1.2)
    ax.plot([], [], color="black", linestyle=":", label="√(2ηλ)")
    ax.set(
        title="Weight decay keeps the direction turning",
        ylabel="angle of one step (degrees)",
        xscale="log",
        yscale="log",
    )
    ax.set_ylim(top=4 * ax.get_ylim()[1])
    ax.legend(frameon=False, title="weight decay", ncols=2, loc="upper right")


def few(length: int, count: int = 250) -> np.ndarray:
    """Steps, counted from 1, equally far apart in log: all that a picture can show."""
    return np.unique(np.geomspace(1, length, count).round().astype(int))


def medians(values: np.ndarray, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Step and median of a noisy series (T,) in up to `bins` stretches of equal length in log."""
    edges = np.unique(np.geomspace(1, len(values) + 1, bins + 1).astype(int))
    pairs = list(pairwise(edges))
    middle = np.array([np.sqrt(low * (high - 1)) for low, high in pairs])
    return middle, np.array([np.median(values[low - 1 : high - 1]) for low, high in pairs])

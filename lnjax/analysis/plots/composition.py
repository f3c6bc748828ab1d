"""Learning curves of the example in `lnjax.analysis.composition`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lnjax.analysis.composition import TRIVIAL, Curves
from lnjax.analysis.plots import COLOURS, canvas, name

SMOOTHED = 10  # steps


def learning_curves(results: Mapping[Any, Curves]) -> Figure:
    """The error of every batch, thin, and its running mean, by norm; and where it ends."""
    figure, axes = canvas(1, 3, width=3.7, height=3.1)
    whole, start, end = axes[0]
    for ax in (whole, start):
        _curves(ax, results)
    last = [
        np.mean(curves.losses[-max(len(curves.losses) // 10, 1) :]) for curves in results.values()
    ]
    colours = [COLOURS[norm] for norm in results]
    bars = end.bar([name(norm) for norm in results], last, width=0.6, color=colours)
    end.bar_label(bars, fmt="%.4f", fontsize=8)
    end.set_title("Mean of the last tenth")
    whole.set(title="Adding two marked numbers", ylabel="mean squared error", yscale="log")
    third = max(len(curves.losses) for curves in results.values()) // 3
    start.set(title="The first third", xlim=(0, max(third, 1)), ylim=(0, 2 * TRIVIAL))
    whole.legend(frameon=False, fontsize=8)
    return figure


def _curves(ax: Axes, results: Mapping[Any, Curves]) -> None:
    for norm, curves in results.items():
        window = min(SMOOTHED, len(curves.losses))
        smooth = np.convolve(curves.losses, np.full(window, 1 / window), mode="valid")
        ax.plot(curves.losses, color=COLOURS[norm], alpha=0.25, linewidth=0.7)
        steps = np.arange(window - 1, len(curves.losses))
        ax.plot(steps, smooth, color=COLOURS[norm], linewidth=1.6, label=name(norm))
    ax.axhline(TRIVIAL, color="black", linestyle=":", linewidth=1, label="always the mean")
    ax.set_xlabel("training step")

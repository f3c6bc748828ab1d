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
    """The error of every batch, thin, and its running mean, by norm."""
    figure, axes = canvas(1, 2, width=4.6, height=3.3)
    for ax in axes[0]:
        _curves(ax, results)
    whole, start = axes[0]
    whole.set(title="Adding two marked numbers", ylabel="mean squared error", yscale="log")
    third = max(len(curves.losses) for curves in results.values()) // 3
    start.set(title="The first third", xlim=(0, max(third, 1)), ylim=(0, 2 * TRIVIAL))
    whole.legend(frameon=False, ncols=2, fontsize=8)
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

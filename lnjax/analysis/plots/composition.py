"""Learning curves of the example in `lnjax.analysis.composition`."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lnjax.analysis.composition import TRIVIAL, Curves
from lnjax.analysis.plots import COLOURS, canvas, name

SMOOTHED = 10  # steps


def learning_curves(results: Mapping[str | None, Curves]) -> Figure:
    """The error of every batch, thin, and its running mean, by norm."""
    figure, axes = canvas(1, 1, width=6.0, height=3.4)
    ax = axes[0, 0]
    for norm, curves in results.items():
        window = min(SMOOTHED, len(curves.losses))
        smooth = np.convolve(curves.losses, np.full(window, 1 / window), mode="valid")
        ax.plot(curves.losses, color=COLOURS[norm], alpha=0.25, linewidth=0.7)
        steps = np.arange(window - 1, len(curves.losses))
        ax.plot(steps, smooth, color=COLOURS[norm], linewidth=1.6, label=name(norm))
    ax.axhline(TRIVIAL, color="black", linestyle=":", linewidth=1, label="always the mean")
    ax.set(
        title="Adding two marked numbers",
        xlabel="training step",
        ylabel="mean squared error",
        yscale="log",
    )
    ax.legend(frameon=False, ncols=2)
    return figure

"""Random recurrent cells over thousands of steps: norms, deviations, gradients, growth rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lnjax.analysis.plots import COLOURS, canvas, name
from lnjax.analysis.recurrent_stability import Stability

STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")


def runs(results: Mapping[str | None, Mapping[float, Stability]], title: str) -> Figure:
    """Norm of the state, deviation of the summed inputs, gradient, over time.

    Args:
      results: by norm (colours) and gain (strokes).
      title: of the cell.
    """
    saturates = any(
        np.isfinite(run.saturation).any()
        for by_gain in results.values()
        for run in by_gain.values()
    )
    rows, columns = (2, 2) if saturates else (1, 3)
    figure, axes = canvas(rows, columns, width=4.4 if saturates else 3.4, height=2.8)
    _runs(list(axes.flat), results)
    _legend(figure, results, "outside lower center")
    figure.suptitle(title)
    return figure


def growth(
    gains: Sequence[float],
    measured: Mapping[str | None, Sequence[float]],
    predicted: Mapping[str | None, Sequence[float]] | None = None,
    title: str = "",
) -> Figure:
    """How fast the gradient grows back in time, against the gain.

    Args:
      gains: of the recurrent kernel.
      measured: by norm, `growth_by_gain`.
      predicted: by norm, `predicted_growth`; dotted.
      title: of the cell.
    """
    figure, axes = canvas(1, 1, width=5.4, height=3.4)
    _growth(axes[0, 0], gains, measured, predicted or {})
    axes[0, 0].set_title(title)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def summary(
    results: Mapping[str | None, Mapping[float, Stability]],
    gains: Sequence[float],
    growths: Mapping[str, tuple[Mapping[str | None, Sequence[float]], Mapping]],
) -> Figure:
    """The figure of the notebook: `runs` of one cell above `growth` of three."""
    figure, axes = canvas(2, 3, width=3.9, height=3.1)
    _runs(axes[0], results)
    for ax, (title, (measured, predicted)) in zip(axes[1], growths.items(), strict=False):
        _growth(ax, gains, measured, predicted)
        ax.set_title(f"{title}: growth of the gradient")
    _legend(figure, results)
    return figure


def _runs(axes: Sequence[Axes], results: Mapping[str | None, Mapping[float, Stability]]) -> None:
    for norm, by_gain in results.items():
        for style, run in zip(STYLES, by_gain.values(), strict=False):
            line = {"color": COLOURS[norm], "linestyle": style, "linewidth": 1.1}
            values = [run.hidden, run.deviation, run.gradient, 100 * run.saturation]
            for ax, of_run in zip(axes, values, strict=False):
                ax.plot(np.asarray(of_run), **line)
            steps = int(run.num_steps)
            if 0 < steps < len(run.hidden):
                # Where the numbers of the float end
                axes[0].plot(steps - 1, run.hidden[steps - 1], "x", color=COLOURS[norm])
    axes[0].set(title="Hidden state", ylabel="Euclidean norm of h", yscale="log")
    axes[1].set(title="Summed inputs", ylabel="deviation over the units", yscale="log")
    axes[2].set(title="Gradient through time", ylabel=r"log$_{10}$ |dL/dh$_t$|")
    if len(axes) > 3:
        axes[3].set(title="Gates in saturation", ylabel="% of units", ylim=(0, None))
    for ax in axes:
        ax.set_xlabel("time step t")


def _growth(ax: Axes, gains: Sequence[float], measured: Mapping, predicted: Mapping) -> None:
    for norm, values in measured.items():
        ax.plot(
            gains, values, "o-", markersize=3, linewidth=1.1, color=COLOURS[norm], label=name(norm)
        )
    for norm, values in predicted.items():
        ax.plot(gains, values, ":", linewidth=1.1, color=COLOURS[norm])
    if predicted:
        ax.text(0.98, 0.1, "dotted: computed", transform=ax.transAxes, fontsize=8, ha="right")
    ax.axhline(0, color="black", linewidth=0.7)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.05 * (high - low))
    ax.text(0.02, 0.97, "explodes", transform=ax.transAxes, fontsize=8, va="top")
    ax.text(0.98, 0.03, "vanishes", transform=ax.transAxes, fontsize=8, ha="right")
    ax.set(
        xlabel="gain of the recurrent kernel",
        ylabel="decades per step, back in time",
        xscale="log",
        xticks=gains,
        xticklabels=[f"{gain:g}" for gain in gains],
    )
    ax.minorticks_off()


def _legend(
    figure: Figure,
    results: Mapping[str | None, Mapping[float, Stability]],
    place: Any = "outside upper center",
) -> None:
    lines = [Line2D([], [], color=COLOURS[norm], label=name(norm)) for norm in results]
    gains = list(next(iter(results.values())))
    lines += [
        Line2D([], [], color="black", linestyle=style, label=f"gain {gain:g}")
        for style, gain in zip(STYLES, gains, strict=False)
    ]
    figure.legend(handles=lines, loc=place, ncols=len(lines), frameon=False)

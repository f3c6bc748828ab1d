"""Table 1 of the paper as a picture of what was measured, and what epsilon does to it."""

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lnjax.analysis.epsilon import EpsilonSweep, expected_change
from lnjax.analysis.invariance import TABLE_1
from lnjax.analysis.plots import COLOURS, canvas, plain
from lnjax.analysis.tables import InvarianceTable, heading, number

# From rounding (blue) over a trace of epsilon (white) to another function (orange).
CHANGE = LinearSegmentedColormap.from_list("change", ["#6aaed6", "#f7f7f7", "#f0a26b"])
SCALE = LogNorm(1e-16, 1e1)
EPSILON_COLOURS = (COLOURS[None], COLOURS["layer"], COLOURS["batch"], COLOURS["rms"])


def invariance(table: InvarianceTable, sweep: EpsilonSweep) -> Figure:
    """Table 1, measured and extended, above what epsilon does to the invariance of layer norm."""
    heights = 0.5 * len(table.rows) + 1.1, 3.6
    figure = Figure(figsize=(9.5, sum(heights)), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=heights)
    grid(above, table, framed=TABLE_1)
    above.set_title(
        "What leaves the normalized summed inputs as they are: Table 1, measured\n"
        "(the number is the largest change; framed: the paper's 18 entries)",
        fontsize=11,
    )
    plain(below)
    against_variance(below, sweep)
    return figure


def table(table: InvarianceTable, *, title: str, framed: Collection[str] = ()) -> Figure:
    """One table as a picture by itself; the rows in `framed` get a frame."""
    size = (1.25 * len(table.columns) + 3.6, 0.52 * len(table.rows) + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    grid(ax, table, framed=framed)
    ax.set_title(title, fontsize=11)
    return figure


def epsilon(sweep: EpsilonSweep) -> Figure:
    """What epsilon does to the invariance of layer norm, by itself."""
    figure, axes = canvas(width=7.5, height=4.2)
    against_variance(axes[0, 0], sweep)
    return figure


def grid(ax: Axes, table: InvarianceTable, *, framed: Collection[str] = ()) -> None:
    """A cell for each entry: the paper's word, the largest change, and its colour.

    A row in `framed` gets a frame; where `framed` also says what is expected (as `TABLE_1` does), a
    cell that differs is crossed out.
    """
    columns = ["\n".join(heading(column)) for column in table.columns]
    seen = np.clip(table.change, SCALE.vmin, SCALE.vmax)
    image = ax.imshow(seen, cmap=CHANGE, norm=SCALE, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, fontsize=9)
    ax.set_yticks(range(len(table.rows)), table.rows, fontsize=10)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(table.rows) + 1) - 0.5, minor=True)
    ax.tick_params(which="both", length=0)
    ax.grid(which="minor", color="white", linewidth=2)
    for (r, c), change in np.ndenumerate(table.change):
        bold = "bold" if table.invariant[r, c] else "normal"
        ax.text(c, r - 0.16, table.word(r, c), ha="center", va="center", fontsize=9, weight=bold)
        ax.text(c, r + 0.24, number(change), ha="center", va="center", fontsize=8, color="#333")
    for r, row in enumerate(table.rows):
        if row not in framed:
            continue
        for c in range(len(columns)):
            box = Rectangle((c - 0.46, r - 0.44), 0.92, 0.88, fill=False, linewidth=1.3)
            ax.add_patch(box)
            expected = framed[row][c] if isinstance(framed, Mapping) else table.invariant[r, c]
            if expected != table.invariant[r, c]:
                ax.plot([c - 0.46, c + 0.46], [r + 0.44, r - 0.44], color="red", linewidth=2)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9, pad=0.01, extend="both")
    bar.set_label("largest change of an output", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def against_variance(ax: Axes, sweep: EpsilonSweep) -> None:
    """Measured changes as points on the lines of the formula, and its first term dashed."""
    delta, between = sweep.delta, np.geomspace(min(sweep.variances), max(sweep.variances), 200)
    for e, value in enumerate(sweep.epsilons):
        colour = EPSILON_COLOURS[e % len(EPSILON_COLOURS)]
        # what is exactly 0 has no place on a logarithmic axis
        seen = np.maximum(sweep.change[e], 1e-17)
        ax.plot(sweep.variances, seen, "o", color=colour, label=rf"$\epsilon$ = {value:g}")
        if value:
            ax.plot(between, sweep.largest * expected_change(value, between, delta), color=colour)
            term = sweep.largest * value / (2 * between) * abs(1 - 1 / delta**2)
            ax.plot(between[term < 30], term[term < 30], "--", color=colour, linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(1e-17, 1e2)
    ax.set_xlabel(r"variance $\sigma^2$ of the summed inputs of a case")
    ax.set_ylabel("largest change of an output")
    handles, _ = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color="#777", label="formula of lnjax.analysis.epsilon"))
    first = r"its first order, $|\bar a|\,\epsilon\,|1 - 1/\delta^2|\,/\,2\sigma^2$"
    handles.append(Line2D([], [], color="#777", linestyle="--", linewidth=1, label=first))
    ax.legend(handles=handles, fontsize=8, ncols=2, loc="center left", frameon=False)
    ax.set_title(
        f"Layer norm, weights re-scaled by {sweep.delta:g}:\n"
        "invariant for epsilon 0, else where the variance is far above it",
        fontsize=11,
    )

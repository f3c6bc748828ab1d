"""Drawings of `lnjax.analysis.fisher` and `lnjax.analysis.geometry`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lnjax.analysis.fisher import Discrepancy, Fisher
from lnjax.analysis.geometry import NormGrowth
from lnjax.analysis.plots import COLOURS, canvas, name
from lnjax.typing import Array


def growth_figure(
    factors: Sequence[float],
    growth: Sequence[NormGrowth],
    responses: Mapping[str | None, Array],
) -> Figure:
    """What scaling the weights does to the Fisher information, and scaling the inputs to the gain.

    Args:
      factors: E of them, of weights and of inputs.
      growth: of each factor.
      responses: by norm (E,), of `gain_response`.
    """
    figure, ((left, right),) = canvas(1, 2, width=4.6, height=3.4)
    k = np.asarray(factors)
    left.plot(k, 1 / k, color="black", linewidth=0.8, linestyle=":", label="1/k")
    left.plot(k, 1 / k**2, color="black", linewidth=0.8, linestyle="--", label="1/k²")
    for field, label, marker, colour in (
        ("gradient", "gradient of W", "o", COLOURS["instance"]),
        ("wb", "F between W and bias", "s", COLOURS["rms"]),
        ("wg", "F between W and gain", "x", COLOURS["weight"]),
        ("ww", "F of W", "D", COLOURS["layer"]),
    ):
        values = [float(getattr(each, field)) for each in growth]
        left.plot(k, values, marker=marker, linestyle="none", color=colour, label=label)
    left.set(
        title="Layer norm: the curvature of W falls as 1/k²",
        xlabel="weights times k",
        ylabel="size / that of k = 1",
        xscale="log",
        yscale="log",
    )
    left.legend(frameon=False)
    for place, (norm, values) in enumerate(responses.items()):
        style = {"color": COLOURS[norm], "marker": "os^v"[place % 4], "label": name(norm)}
        right.plot(k, values, linewidth=3 - 0.6 * place, markersize=9 - 1.5 * place, **style)
    right.set(
        title="Which gains ignore the size of the inputs",
        xlabel="inputs times k",
        ylabel="metric of the gain / that of k = 1",
        xscale="log",
        yscale="log",
    )
    right.legend(frameon=False)
    return figure


def beside_paper_figure(exact: Fisher, paper: Fisher) -> Figure:
    """The (w, w) part as it is, by Eq. 13, and the difference; unit after unit."""
    parts = [np.asarray(each.part("w", "w")) for each in (exact, paper)]
    units, inner = parts[0].shape[:2]
    matrices = [part.reshape(units * inner, units * inner) for part in parts]
    figure, axes = canvas(1, 3, width=3.6, height=3.4)
    limit = max(abs(matrix).max() for matrix in matrices)
    titles = ("exact", "as in Eq. 13", "the difference")
    image = None
    for ax, title, matrix in zip(
        axes[0], titles, (*matrices, matrices[0] - matrices[1]), strict=True
    ):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        middles = np.arange(units) * inner + (inner - 1) / 2
        ticks = {"ticks": middles, "labels": [f"w{i + 1}" for i in range(units)]}
        ax.grid(visible=False)
        ax.set_xticks(**ticks)
        ax.set_yticks(**ticks)
        ax.tick_params(length=0)
        for edge in np.arange(1, units) * inner - 0.5:
            ax.axhline(edge, color="0.8", linewidth=0.5)
            ax.axvline(edge, color="0.8", linewidth=0.5)
        ax.set_title(title)
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.8, label="Fisher information")
    return figure


def discrepancy_figure(norm: str | None, widths: Sequence[int], error: Discrepancy) -> Figure:
    """By how much Eq. 13 is off at which width; `error` of arrays (W,)."""
    figure, ((ax,),) = canvas(1, 1, width=5.4, height=3.6)
    width = np.asarray(widths, float)
    ax.plot(width, 2 / width, color="black", linewidth=0.8, linestyle=":", label="2/H")
    ax.plot(width, width**-0.5, color="black", linewidth=0.8, linestyle="--", label="1/√H")
    for field, label, marker, colour in (
        ("largest_eigenvalue", "worst direction", "^", COLOURS["weight"]),
        ("off_diagonal", "blocks of two units", "s", COLOURS["batch"]),
        ("diagonal", "blocks of a unit with itself", "o", COLOURS["layer"]),
    ):
        ax.plot(width, getattr(error, field), marker=marker, color=colour, label=label)
    ax.set(
        title=f"{name(norm).capitalize()}: how far Eq. 13 is from the Fisher information",
        xlabel="units H",
        ylabel="relative error of the (w, w) part",
        xscale="log",
        yscale="log",
    )
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    low, high = ax.get_ylim()
    ticks = [tick for tick in ticks if low < tick < high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks(width, [f"{value:g}" for value in width])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize="small")
    return figure

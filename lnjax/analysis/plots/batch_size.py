"""Drawings of `lnjax.analysis.batch_size` and `lnjax.analysis.companions`."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lnjax.analysis.batch_size import MODES, SETS, PerceptronCurves
from lnjax.analysis.companions import Influence
from lnjax.analysis.plots import COLOURS, canvas, name

DASHED = (0, (4, 1.5))


def curves(runs: Sequence[PerceptronCurves]) -> Figure:
    """Training NLL and test error over the epochs, at the chosen learning rate of each run.

    One column of panels per batch size, in order of appearance; two panels side by side if there is
    but one. Lines are means over seeds, bands reach from the least to the greatest.
    """
    sizes = list(dict.fromkeys(run.batch_size for run in runs))
    figure, axes = canvas(1, 2) if len(sizes) == 1 else canvas(2, len(sizes), width=2.9, height=2.6)
    axes = axes.reshape(2, len(sizes))
    for column, size in enumerate(sizes):
        nll, error = axes[:, column]
        for run in runs:
            if run.batch_size != size:
                continue
            for mode, label, style in _modes(run):
                colour = COLOURS[run.norm]
                _band(nll, run.epochs, _chosen(run, "nll", "train", mode), label, colour, style)
                of_test = 100 * _chosen(run, "error", "test", mode)
                _band(error, run.epochs, of_test, label, colour, style)
        nll.set_yscale("log")
        error.set_yscale("log")
        error.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        error.minorticks_off()
        error.set_ylim(1, 110)
        for ax, what in ((nll, "training NLL"), (error, "test error")):
            ax.set_title(f"{what}, batch {size}", fontsize="medium")
            ax.set_xlabel("passes through the digits")
    # One scale for all batch sizes
    low, high = np.transpose([ax.get_ylim() for ax in axes[0]])
    for ax in axes[0]:
        ax.set_ylim(low.min(), high.max())
    axes[0, 0].set_ylabel("nats per digit")
    axes[1, 0].set_ylabel("per cent of digits")
    _legend(figure, axes[0, 0], columns=2 if len(sizes) == 1 else 4)
    return figure


def by_batch_size(runs: Sequence[PerceptronCurves]) -> Figure:
    """Training NLL and test error after the last epoch against the batch size; points are seeds."""
    figure, axes = canvas(1, 2, width=4.4, height=3.4)
    panels = (("nll", "train", 1, "nats per digit"), ("error", "test", 100, "per cent of digits"))
    for ax, (what, which, factor, unit) in zip(axes[0], panels, strict=True):
        for norm in dict.fromkeys(run.norm for run in runs):
            own = sorted((r for r in runs if r.norm == norm), key=lambda run: run.batch_size)
            sizes = np.array([run.batch_size for run in own])
            for mode, label, style in _modes(own[0]):
                last = np.array([factor * _chosen(run, what, which, mode)[-1] for run in own])
                colour = COLOURS[norm]
                ax.plot(sizes, last.mean(axis=1), color=colour, linestyle=style, label=label)
                ax.plot(sizes, last, ".", color=colour, markersize=5, alpha=0.6)
        ax.set_yscale("log")
        _batch_sizes(ax, [run.batch_size for run in runs])
        ax.set_ylabel(unit)
    axes[0, 0].set_title("training NLL at the end", fontsize="medium")
    axes[0, 1].set_title("test error at the end", fontsize="medium")
    axes[0, 1].set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes[0, 1].minorticks_off()
    _legend(figure, axes[0, 0], columns=4)
    return figure


def rates(runs: Sequence[PerceptronCurves]) -> Figure:
    """Held-out NLL at the end (test mode) against the learning rate; the ring is the chosen one."""
    figure, axes = canvas(width=5.0)
    ax = axes[0, 0]
    for run in runs:
        nll = run.nll[-1, :, :, SETS.index("held_out"), MODES.index("test")].mean(axis=1)
        colour, i = COLOURS[run.norm], run.chosen
        ax.plot(run.learning_rates, nll, ".-", color=colour, label=name(run.norm))
        ax.plot(run.learning_rates[i], nll[i], "o", color=colour, fillstyle="none", markersize=11)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("held-out NLL, nats per digit")
    sizes = sorted({run.batch_size for run in runs})
    ax.set_title(f"batch {', '.join(map(str, sizes))}: which rate is taken", fontsize="medium")
    ax.legend(frameon=False)
    return figure


def influence(found: Sequence[Influence]) -> Figure:
    """What the case and what its companions decide of its logits, one panel per norm."""
    figure, axes = canvas(1, len(found), width=4.0)
    top = 1.15 * max(max(one.own.max(), one.companions.max()) for one in found)
    for ax, one in zip(axes[0], found, strict=True):
        colour = COLOURS[one.norm]
        ax.plot(one.batch_sizes, one.own, "o-", color=colour, label="the case itself")
        others = {"linestyle": DASHED, "marker": "s", "fillstyle": "none"}
        ax.plot(
            one.batch_sizes, one.companions, color=colour, label="the rest of its batch", **others
        )
        _batch_sizes(ax, one.batch_sizes.tolist())
        ax.set_ylim(-0.03 * top, top)
        ax.set_ylabel("rms deviation of the logits")
        ax.set_title(f"{name(one.norm)}: what decides a case's logits", fontsize="medium")
        ax.legend(frameon=False)
    return figure


def _modes(run: PerceptronCurves) -> Iterator[tuple[str, str, object]]:
    """Name of the mode, legend, line style: two for batch norm, one for the others."""
    if run.norm == "batch":
        yield "training", "batch norm, the batch's statistics", DASHED
        yield "test", "batch norm, running statistics", "-"
    else:
        yield "test", name(run.norm), "-"


def _chosen(run: PerceptronCurves, what: str, which: str, mode: str) -> np.ndarray:
    """(P, S) of the chosen learning rate."""
    return getattr(run, what)[:, run.chosen, :, SETS.index(which), MODES.index(mode)]


def _band(ax: Axes, x: np.ndarray, y: np.ndarray, label: str, colour: str, style: object) -> None:
    ax.plot(x, y.mean(axis=1), color=colour, linestyle=style, label=label)
    ax.fill_between(x, y.min(axis=1), y.max(axis=1), color=colour, alpha=0.15, linewidth=0)


def _legend(figure: Figure, ax: Axes, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _batch_sizes(ax: Axes, sizes: Sequence[int]) -> None:
    ticks = sorted(set(map(int, sizes)))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("batch size")

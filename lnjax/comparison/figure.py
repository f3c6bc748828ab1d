"""The figure of a comparison: every panel's curves, per step and per second, SVG and PNG.

A line is the mean over the seeds of an arm, the band around it reaches from the lowest seed to the
highest; seeds that were lost end where they were. Needs matplotlib, from the extra `tasks`.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from lnjax.comparison.colours import colour, dashes
from lnjax.comparison.results import Json, comparable, curve, spread
from lnjax.comparison.tables import NOT_COMPARABLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 160
COLUMNS = 3
PANEL_SIZE = (4.2, 3.2)  # inches


def draw(results: Json) -> "Figure":
    """One axes for each drawn panel of each part, and one for its first panel against seconds."""
    from matplotlib.figure import Figure

    wanted = [
        (part, panel, of)
        for part in results["parts"]
        for panel, of in [
            *((panel, "steps") for panel in part["panels"] if panel["drawn"]),
            *((panel, "seconds") for panel in part["panels"][:1]),
        ]
    ]
    columns = min(COLUMNS, len(wanted))
    rows = -(-len(wanted) // columns)
    size = (PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (part, panel, of) in zip(every, wanted, strict=False):
        _panel(ax, part, panel, of)
    for ax in every[len(wanted) :]:
        ax.remove()
    notes = {
        part["data"] + ("" if comparable(part) else f" ({NOT_COMPARABLE})")
        for part in results["parts"]
    }
    figure.suptitle(f"{results['title']}\n{', '.join(sorted(notes))}", fontsize=11)
    return figure


def write(folder: pathlib.Path, results: Json) -> None:
    """`figure.svg` and `figure.png` in `folder`; the same record gives the same bytes."""
    import matplotlib

    figure = draw(results)
    with matplotlib.rc_context({"svg.hashsalt": "compare"}):
        figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=PNG_DPI, metadata={"Software": None})


def _panel(ax: Any, part: Json, panel: Json, of: str) -> None:
    unit = part["axis"]["steps_per_x"] if of == "steps" else 1.0
    dashed = dashes(part["arms"])
    for index, arm in enumerate(part["arms"]):
        every = [(run, curve(run, panel["metric"])) for run in arm["runs"]]
        ours, whole = colour(arm, index), spread(arm, panel)
        if whole:
            x = getattr(whole, of) / unit
            line = (0, dashed[index]) if dashed[index] else "-"
            ax.plot(x, whole.mean, color=ours, linestyle=line, linewidth=1.8, label=arm["name"])
            ax.fill_between(x, whole.low, whole.high, color=ours, alpha=0.18, linewidth=0)
        for run, found in every:
            if found is not None and run["status"] != "done":
                label = None if whole else f"{arm['name']} ({run['status']})"
                x = getattr(found, of) / unit
                ax.plot(x, found.values, color=ours, linestyle=":", linewidth=1, label=label)
    ax.set_xlabel(part["axis"]["x"] if of == "steps" else "seconds of training")
    ax.set_ylabel(panel["label"])
    ax.set_yscale(panel["scale"])
    ax.set_xscale(panel["x_scale"])
    if panel["x_scale"] == "log":  # by itself it labels every tenth of less than a decade
        from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title(f"{part['config'].removeprefix('configs/')}", fontsize=9)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)

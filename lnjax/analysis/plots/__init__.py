"""Drawings of what lnjax.analysis measures, one file per subject; each function returns a Figure.

A Figure made here belongs to nobody else: pyplot, with its list of open figures, is not used. In a
notebook, after ``%matplotlib inline``, it shows when it is the last value of a cell.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lnjax.palette import NORMS

COLOURS = {**NORMS, None: NORMS["none"]}


def canvas(rows: int = 1, columns: int = 1, *, width: float = 4.0, height: float = 3.0) -> Any:
    """A Figure and its Axes (rows, columns), each of `width` x `height` inches, without a box.

    Returns:
      (figure, axes): axes is always an array of shape (rows, columns).
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        plain(ax)
    return figure, axes


def plain(ax: Axes) -> None:
    """Takes the upper and right side of the box away, and lays a light grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)


def name(norm: str | None) -> str:
    """How a norm is called in a legend."""
    names = {"layer": "layer norm", "rms": "RMS norm", "batch": "batch norm", None: "no norm"}
    return names.get(norm, f"{norm} norm")

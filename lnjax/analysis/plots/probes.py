"""What the probes of `lnjax.analysis.probes` recorded, over time."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lnjax.analysis.plots import COLOURS, canvas, name
from lnjax.analysis.probes import GradientNorms, Record, mean_over_rows


def over_time(
    records: Mapping[Any, Record],
    gradients: Mapping[Any, GradientNorms] | None = None,
    *,
    site: str = "h",
) -> Figure:
    """Summed inputs, hidden state, saturation and gradient of several runs, means over rows.

    Args:
      records: by what the legend says: a norm, or the name of a layer.
      gradients: of the same runs, or of some of them.
      site: whose mean and deviation: a key of `Record.mean` that all records have.
    """
    figure, axes = canvas(2, 2, width=4.6, height=2.8) if gradients else canvas(1, 3, width=3.6)
    summed, hidden, saturation, *rest = axes.flat
    for number, (label, record) in enumerate(records.items()):
        colour = _colour(label, number)
        _line(summed, record.deviation[site], record.real, color=colour, label=_name(label))
        _line(summed, record.mean[site], record.real, color=colour, linestyle=":")
        _line(hidden, list(record.norms.values())[-1], record.real, color=colour)
        if record.saturation:
            shares = np.mean([np.asarray(share) for share in record.saturation.values()], axis=0)
            _line(saturation, 100 * shares, record.real, color=colour)
    summed.set(title=f"Summed inputs {site}", ylabel="deviation; mean dotted")
    hidden.set(title="Hidden state", ylabel="Euclidean norm")
    saturation.set(title="Gates in saturation", ylabel="% of units", ylim=(0, None))
    for gradient in rest:
        for number, (label, norms) in enumerate((gradients or {}).items()):
            log10 = np.where(norms.real, list(norms.log10.values())[-1], 0)
            _line(gradient, log10, norms.real, color=_colour(label, number))
        gradient.set(title="Gradient by the hidden state", ylabel=r"log$_{10}$ |dL/dh$_t$|")
    for ax in axes[-1]:
        ax.set_xlabel("time step t")
    figure.legend(loc="outside upper center", ncols=min(len(records), 4), frameon=False)
    return figure


def gates(record: Record) -> Figure:
    """The share of saturated units of every gate, and the distribution of its values."""
    names = list(record.gates)
    figure, axes = canvas(1, 2, width=4.6, height=2.8)
    shares, values = axes[0]
    real = np.asarray(record.real)
    for gate in names:
        _line(shares, 100 * record.saturation[gate], record.real, label=gate)
        of_real = np.asarray(record.gates[gate], np.float32)[real].ravel()
        values.hist(of_real, bins=60, range=(-1, 1), histtype="step", density=True)
    shares.set(
        title="Gates in saturation", xlabel="time step t", ylabel="% of units", ylim=(0, None)
    )
    values.set(title="Values of the gates", xlabel="value", ylabel="density")
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _line(ax: Axes, values: Any, real: Any, **style: Any) -> None:
    means = mean_over_rows(jnp.asarray(values, jnp.float32), jnp.asarray(real))
    ax.plot(np.asarray(means), linewidth=1.2, **style)


def _colour(label: Any, number: int) -> str:
    return COLOURS[label] if label in COLOURS else f"C{number}"


def _name(label: Any) -> str:
    return name(label) if label in COLOURS else str(label)

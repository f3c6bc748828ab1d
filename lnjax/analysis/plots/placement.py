"""Drawings of `lnjax.analysis.placement`."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lnjax.analysis.placement import BlockGradients, StackTraining
from lnjax.analysis.plots import canvas

# Neither is the colour of a norm.
PLACEMENT_COLOURS = {"pre": "#332288", "post": "#cc6677"}
STYLES = {"layer": "-", "rms": (0, (4, 1.5)), None: ":"}
NORM_NAMES = {"layer": "layer norm", "rms": "RMS norm", None: "no norm"}
SMOOTHING = 10  # steps that one point of a curve is the mean of


def summary(
    gradients: Sequence[BlockGradients],
    training: Sequence[StackTraining],
    *,
    depth: int,
    peak: float,
) -> Figure:
    """The gradient at initialization above, training below; arguments as of their own figures."""
    figure, axes = canvas(2, 2, width=4.4, height=3.2)
    _ends(axes[0, 0], gradients)
    _profile(axes[0, 1], gradients, depth)
    _losses(axes[1, 0], training, peak)
    _first_gradient(axes[1, 1], training, peak)
    return figure


def gradients(found: Sequence[BlockGradients], *, depth: int) -> Figure:
    """First and last block against the depth, and all blocks of one `depth`."""
    figure, axes = canvas(1, 2, width=4.4, height=3.4)
    _ends(axes[0, 0], found)
    _profile(axes[0, 1], found, depth)
    return figure


def training(found: Sequence[StackTraining], *, peak: float) -> Figure:
    """Loss, and the gradient in the first block, over the steps, at one of the peaks."""
    figure, axes = canvas(1, 2, width=4.4, height=3.4)
    _losses(axes[0, 0], found, peak)
    _first_gradient(axes[0, 1], found, peak)
    return figure


def outcomes(found: Sequence[StackTraining]) -> Figure:
    """The loss of the last tenth of the steps against the peak, by warm-up; points are seeds."""
    figure, axes = canvas(width=6.6, height=3.4)
    ax = axes[0, 0]
    for runs in found:
        last = runs.loss[..., -max(1, runs.loss.shape[-1] // 10) :].mean(axis=-1)
        for w, warmup in enumerate(runs.warmups):
            colour = PLACEMENT_COLOURS[runs.placement]
            label = f"{runs.placement}-norm, {_warmup(warmup)}"
            ax.plot(runs.peaks, last[:, w].mean(axis=-1), _line(warmup), color=colour, label=label)
            ax.plot(runs.peaks, last[:, w], ".", color=colour, alpha=0.6)
    _chance(ax)
    ax.set_xscale("log")
    ax.set_xticks(found[0].peaks, [f"{peak:g}" for peak in found[0].peaks])
    ax.minorticks_off()
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    ax.set_xlabel("peak of the learning rate")
    ax.set_ylabel("training loss at the end (nats)")
    ax.set_title(f"where it trains: {found[0].depth} blocks", fontsize="medium")
    ax.legend(loc="upper right", ncols=2, frameon=False, fontsize="small")
    return figure


def _ends(ax: Axes, found: Sequence[BlockGradients]) -> None:
    for one in found:
        if one.norm != "layer":
            continue
        colour = PLACEMENT_COLOURS[one.placement]
        for which, marker, fill in (("first", "o", "full"), ("last", "s", "none")):
            norms = getattr(one, which)
            label = f"{one.placement}-norm, {which} block"
            style = {"marker": marker, "fillstyle": fill, "color": colour, "markersize": 5}
            ax.plot(one.depths, norms.mean(axis=1), label=label, **style)
            low, high = norms.min(axis=1), norms.max(axis=1)
            ax.fill_between(one.depths, low, high, color=colour, alpha=0.12, linewidth=0)
        if one.placement == "pre":
            # Each block adds 1/2 to the variance of its input: half of a rectified unit's square.
            variance = 1 + one.depths / 2
            falling = one.last.mean(axis=1)[0] * np.sqrt(variance[0] / variance)
            label = r"$\propto 1/\sqrt{1 + L/2}$"
            ax.plot(one.depths, falling, ":", color="#555555", label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    depths = found[0].depths
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.set_yticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4], ["1/8", "1/4", "1/2", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_ylim(1 / 32, 4)
    ax.set_xlabel("depth L (blocks)")
    ax.set_ylabel("norm of the gradient in a block")
    ax.set_title("at initialization: the ends of the stack", fontsize="medium")
    ax.legend(loc="lower left", frameon=False, fontsize="small")


def _profile(ax: Axes, found: Sequence[BlockGradients], depth: int) -> None:
    for one in found:
        norms = one.norms[list(one.depths).index(depth), :, :depth]
        blocks, colour = np.arange(1, depth + 1), PLACEMENT_COLOURS[one.placement]
        label = f"{one.placement}-norm, {NORM_NAMES[one.norm]}"
        ax.plot(blocks, norms.mean(axis=0), color=colour, linestyle=STYLES[one.norm], label=label)
        low, high = norms.min(axis=0), norms.max(axis=0)
        ax.fill_between(blocks, low, high, color=colour, alpha=0.08, linewidth=0)
    ax.set_yscale("log", base=2)
    ax.set_yticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4], ["1/8", "1/4", "1/2", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_xlabel("block, from the inputs on")
    ax.set_ylabel("norm of the gradient")
    ax.set_title(f"at initialization: every block of {depth}", fontsize="medium")
    ax.set_ylim(1 / 16, 4)
    ax.legend(loc="lower left", frameon=False, fontsize="small")


def _losses(ax: Axes, found: Sequence[StackTraining], peak: float) -> None:
    _over_steps(ax, found, peak, lambda runs: runs.loss)
    _chance(ax)
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    ax.set_ylabel("training loss (nats)")
    ax.set_title(f"training: loss, {found[0].depth} blocks, peak {peak:g}", fontsize="medium")
    ax.legend(loc="upper right", frameon=False, fontsize="small")


def _first_gradient(ax: Axes, found: Sequence[StackTraining], peak: float) -> None:
    _over_steps(ax, found, peak, lambda runs: runs.gradient[..., 0])
    ax.set_yscale("log")
    ax.set_ylabel("norm of the gradient")
    ax.set_title("training: gradient in the first block", fontsize="medium")


def _over_steps(ax: Axes, found: Sequence[StackTraining], peak: float, of: Callable) -> None:
    for runs in found:
        values = of(runs)[list(runs.peaks).index(peak)]
        size = min(SMOOTHING, values.shape[-1])
        points = values.shape[-1] // size
        means = values[..., : points * size].reshape(*values.shape[:2], points, size).mean(axis=-1)
        steps = (np.arange(points) + 0.5) * size
        for w, warmup in enumerate(runs.warmups):
            colour, label = PLACEMENT_COLOURS[runs.placement], _warmup(warmup)
            ax.plot(
                steps,
                means[w].mean(axis=0),
                _line(warmup),
                color=colour,
                label=f"{runs.placement}-norm, {label}",
            )
            low, high = means[w].min(axis=0), means[w].max(axis=0)
            ax.fill_between(steps, low, high, color=colour, alpha=0.1, linewidth=0)
    ax.set_xlabel("step")


def _chance(ax: Axes) -> None:
    ax.axhline(np.log(10), color="#555555", linewidth=0.8, linestyle=":")
    ax.annotate("chance: log 10", (0.99, np.log(10)), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize="small", color="#555555")  # fmt: skip


def _warmup(steps: int) -> str:
    return f"warm-up of {steps} steps" if steps else "no warm-up"


def _line(warmup: int) -> str:
    return "-" if warmup else "--"

"""Draws the figures of the notebooks into files.

    python -m lnjax.analysis.figures --out=DIR
    python -m lnjax.analysis.figures --out=DIR --only=invariance --smoke

One SVG per notebook, under its name. The same machine and versions give the same bytes. Needs the
extra ``lnjax[notebooks]``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def invariance(smoke: bool) -> "Figure":
    """Table 1 of the paper, measured and extended, and what epsilon does to it; in float64."""
    import jax

    from lnjax import analysis
    from lnjax.analysis.plots.invariance import invariance

    with jax.enable_x64(True):
        rows = analysis.normalizers()
        if smoke:
            rows = {name: rows[name] for name in analysis.TABLE_1}
        sweep = analysis.epsilon_sweep(variances=[1e-4, 1.0] if smoke else analysis.VARIANCES)
        return invariance(analysis.invariance_table(rows), sweep)


def learning_dynamics(smoke: bool) -> "Figure":
    from lnjax.analysis.learning_dynamics import compare_dynamics
    from lnjax.analysis.plots.learning_dynamics import dynamics_figure

    return dynamics_figure(compare_dynamics(steps=40 if smoke else 3000))


def recurrent_stability(smoke: bool) -> "Figure":
    """Hidden states over 2,000 steps, and gradients through time, with and without LN."""
    from lnjax.analysis.plots import recurrent_stability as plots
    from lnjax.analysis.recurrent_stability import stability_experiment

    return plots.summary(*stability_experiment(smoke))


def compose(smoke: bool) -> "Figure":
    """Learning curves of a small composed model without a norm, with LN and with RMS norm."""
    from lnjax.analysis.composition import learning_curves
    from lnjax.analysis.plots import composition as plots

    return plots.learning_curves(learning_curves(smoke))


def batch_size(smoke: bool) -> "Figure":
    """Batch norm and layer norm at four batch sizes, no norm at two, on scikit-learn's digits."""
    import numpy as np
    from sklearn.datasets import load_digits

    from lnjax.analysis import split_examples, train_perceptron
    from lnjax.analysis.plots.batch_size import curves

    digits = load_digits()
    parts = {"train": 1152, "held_out": 256, "test": 384}
    if smoke:
        parts = dict.fromkeys(parts, 128)
    data = split_examples(digits.data.astype(np.float32) / 16, digits.target, **parts)
    # As in the notebook: a smaller batch bears a smaller rate
    few = [3e-4, 1e-3, 3e-3]
    rates = {128: [3e-3, 1e-2, 3e-2], 16: [1e-3, 3e-3, 1e-2], 4: few, 1: few}
    sizes = (16, 4) if smoke else tuple(rates)
    runs: list[tuple[Any, int]] = [(norm, size) for norm in ("layer", "batch") for size in sizes]
    if not smoke:
        runs += [(None, 128), (None, 4)]
    return curves(
        [
            train_perceptron(
                data,
                norm=norm,
                batch_size=size,
                learning_rates=rates[size][: 1 if smoke else 3],
                num_seeds=1 if smoke else 3,
                num_epochs=1 if smoke else 8,
            )
            for norm, size in runs
        ]
    )


def placement(smoke: bool) -> "Figure":
    """Pre- and post-norm stacks: gradients at initialization, and training with a warm-up."""
    from lnjax.analysis import block_gradients, train_stacks
    from lnjax.analysis.plots.placement import summary

    depths, depth = ((2, 4), 4) if smoke else ((2, 4, 8, 16, 32, 64), 32)
    gradients = [
        block_gradients(placement=which, norm=norm, depths=depths)
        for norm in (("layer",) if smoke else ("layer", "rms"))
        for which in ("pre", "post")
    ]
    size: dict[str, Any] = {"num_steps": 20, "warmups": (0, 5)} if smoke else {}
    training = [
        train_stacks(placement=which, depth=depth, peaks=[3e-3], **size)
        for which in ("pre", "post")
    ]
    return summary(gradients, training, depth=depth, peak=3e-3)


# Each is called with whether seconds matter more than the result.
FIGURES: Mapping[str, Callable[[bool], "Figure"]] = {
    "invariance": invariance,
    "learning_dynamics": learning_dynamics,
    "compose": compose,
    "recurrent_stability": recurrent_stability,
    "batch_size": batch_size,
    "placement": placement,
}


def save(figure: "Figure", path: Path) -> None:
    """Writes an SVG that holds neither the time nor random names, so that it can be compared."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figures; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lnjax.analysis.figures", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the SVG files")
    parser.add_argument("--only", action="append", choices=sorted(FIGURES), help="one of them")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: to see that it runs")
    options = parser.parse_args(argv)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out={options.out}: {error.strerror}; expected a folder to write to")
    for name in options.only or FIGURES:
        start = time.perf_counter()
        path = options.out / f"{name}.svg"
        save(FIGURES[name](options.smoke), path)
        print(f"{path}  {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

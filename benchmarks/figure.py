"""How do time and memory grow with the length of the sequence? Draws what `recurrent.py` measured.

    python benchmarks/recurrent.py --workloads= --lengths=100,400,1600,6400 --out=T.json
    python benchmarks/figure.py T.json docs/speed.svg

It needs matplotlib. Lines are medians, bands the quartiles.
"""

import argparse
import json

import matplotlib.pyplot as plt
import numpy as np

SHOWN = {  # contender: colour and line
    "lnjax": ("tab:red", "-"),
    "Flax composition": ("tab:blue", "-"),
    "Flax, no norm": ("tab:blue", ":"),
    "TorchScript": ("tab:gray", "-"),
    "PyTorch, no norm": ("tab:gray", ":"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", help="the JSON of `recurrent.py --lengths=... --out=`")
    parser.add_argument("picture", help="what to write: .svg, .png or .pdf")
    args = parser.parse_args()
    with open(args.measured) as file:
        results = json.load(file)["T"].values()

    # Without the date, and with ids that do not change, equal measurements give equal files.
    plt.rcParams.update({"svg.hashsalt": "lnjax", "svg.fonttype": "path", "font.size": 9})
    figure, (time, memory) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, (color, style) in SHOWN.items():
        taken = [
            (result["workload"]["steps"], result["contenders"][name])
            for result in results
            if name in result["contenders"]
        ]
        if not taken:
            continue
        lengths = np.array([steps for steps, _ in taken])
        seconds = [runner["gradient_seconds"] for _, runner in taken]
        low, middle, high = (
            1e6 * np.array([np.quantile(s, q) for s in seconds]) / lengths
            for q in (0.25, 0.5, 0.75)
        )
        time.plot(lengths, middle, style, color=color, label=name, marker=".")
        time.fill_between(lengths, low, high, color=color, alpha=0.15, linewidth=0)
        stored = [runner["temporary_bytes"] for _, runner in taken]
        if None not in stored:
            mebibytes = np.array(stored) / 2**20
            memory.plot(lengths, mebibytes, style, color=color, label=name, marker=".")
    time.set(title="value and gradient, µs per step", xlabel="T", xscale="log")
    time.set_ylim(bottom=0)
    memory.set(title="temporary memory, MiB", xlabel="T", xscale="log", yscale="log")
    handles, labels = time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    for axes in (time, memory):
        axes.set_xticks(lengths, labels=map(str, lengths), minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(args.picture, metadata={"Date": None} if args.picture.endswith("svg") else None)


if __name__ == "__main__":
    main()

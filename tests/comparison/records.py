"""Made-up records of comparisons, as `results` describes them: smooth curves with noise.

`comparison` is one with everything that can happen: two configs, arms that share a norm, a scale
that is logarithmic and one that cannot be, a run that diverges, one that was not finished.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lnjax.training import manifest, pictures

Json = dict[str, Any]

PANELS = (
    {
        "metric": "train/nll",
        "label": "NLL, training",
        "better": "lower",
        "scale": "log",
        "x_scale": "linear",
        "drawn": True,
    },
    {
        "metric": "test/error",
        "label": "error, test",
        "better": "lower",
        "scale": "linear",
        "x_scale": "linear",
        "drawn": True,
    },
)
VERSIONS = {"lnjax": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "grain": None, "numpy": "2.4.6"}


def run(
    name: str,
    seed: int,
    curves: Mapping[str, Sequence[float | None]],
    *,
    every: int = 10,
    status: str = "done",
    step_seconds: float = 0.1,
    together: int = 1,
) -> Json:
    """A run whose metrics have a value every so many steps; None is a value that was not finite.

    A metric with fewer values than the longest has them at the last of equally long stretches.
    """
    count = max(map(len, curves.values()))
    lines: list[Json] = [
        {"step": every * (i + 1), "seconds": round(step_seconds * every * (i + 1), 3)}
        for i in range(count)
    ]
    for metric, values in curves.items():
        stretch = count // len(values)
        for i, value in enumerate(values):
            lines[stretch * (i + 1) - 1][metric] = value
    return {
        "seed": seed,
        "status": status,
        "step": lines[-1]["step"],
        "together": 0 if status == "unfinished" else together,
        "folder": f"{name}/seed-{seed}",
        "lines": lines,
        "sheet": None,
        "manifest": {
            "seed": seed,
            "git": {"commit": "0123456789abcdef" * 2 + "01234567", "dirty": False},
            "versions": VERSIONS,
            "python": "3.11.7",
            "platform": "Linux-6.1-x86_64-with-glibc2.36",
            "backend": "cpu",
            "device_kind": "cpu",
            "device_count": 1,
            "xla_flags": "",
            "command": f"python train.py --workdir=runs/{name}/seed-{seed}",
            "start_time": f"2026-11-21T20:43:{seed:02d}+00:00",
            "data": {
                "name": "digits",
                "config": "embedded",
                "version": "1.0.0",
                "digest": "15" * 32,
            },
            "baselines": {},
        },
    }


def arm(changes: Mapping[str, str], runs: Sequence[Json], *, tuned: Json | None = None) -> Json:
    """Some runs under the name that their changes give."""
    name = ",".join(f"{key}={value}" for key, value in changes.items())
    return {"name": name, "changes": dict(changes), "tuned": tuned, "runs": list(runs)}


def part(arms: Sequence[Json], **values: Any) -> Json:
    """The arms of one config."""
    return {
        "config": "configs/pi_mnist.py",
        "task": "pi_mnist",
        "data": "digits/embedded",
        "keys": {"task": "pi_mnist", "norm": "layer", "num_steps": 400, "mesh": {"data": 1}},
        "axis": {"x": "epochs", "steps_per_x": 31},
        "panels": list(PANELS),
        "arms": list(arms),
        "paper": {},
        **values,
    }


def results(*parts: Json, title: str = "Layer norm beside its rivals") -> Json:
    machine = {"cpu": "a processor of 2.1 GHz", "cores": 2, "memory": "24 GiB"}
    return {"title": title, "parts": list(parts), "machine": machine}


def decay(
    rng: np.random.Generator, count: int, rate: float, start: float, end: float, noise: float
) -> list[float]:
    """From `start` to about `end`, faster with a larger rate, with relative noise."""
    time = np.arange(1, count + 1) / count
    smooth = end + (start - end) * np.exp(-rate * time)
    return [float(value) for value in smooth * np.exp(noise * rng.standard_normal(count))]


def comparison(*, count: int = 40, seeds: int = 5) -> Json:
    """Two configs: of the first one run diverges and one is unfinished; all others are done."""
    rng = np.random.default_rng(0)
    arms = []
    kinds = (("layer", 9.0, 0.004, 0.115), ("batch", 7.0, 0.006, 0.1), ("none", 4.0, 0.02, 0.085))
    for norm, rate, end, seconds in kinds:
        runs = []
        for seed in range(seeds):
            curves = {
                "train/nll": decay(rng, count, rate, 2.3, end, 0.12),
                "test/error": decay(rng, count // 4, rate, 0.5, 0.02 + 2 * end, 0.05),
            }
            status = "done"
            if (norm, seed) == ("none", 1):
                status = "not finite"
                nll = curves["train/nll"][: count // 2]
                nll[-6:] = [value * 6**i for i, value in enumerate(nll[-6:], start=1)]
                curves = {"train/nll": nll, "test/error": curves["test/error"][: count // 8]}
            if (norm, seed) == ("batch", seeds - 1):
                status = "unfinished"
                curves = {name: values[: len(values) * 3 // 4] for name, values in curves.items()}
            runs.append(
                run(
                    f"norm={norm}",
                    seed,
                    curves,
                    status=status,
                    step_seconds=seconds,
                    together=seeds,
                )
            )
        tuned = {
            "name": "learning_rate=0.001",
            "chosen": {"learning_rate": "0.001"},
            "tried": {
                "learning_rate=0.0003": 0.21,
                "learning_rate=0.001": 0.16,
                "learning_rate=0.003": 0.19,
            },
            "metric": "eval/nll",
            "seed": 100,
            "steps": 30,
        }
        arms.append(arm({"norm": norm}, runs, tuned=tuned if norm == "batch" else None))
    steps = 10 * count
    keys = {"task": "pi_mnist", "norm": "layer", "num_steps": steps, "learning_rate": 0.003}
    digits = part(arms, keys={**keys, "mesh": {"data": 1}})

    panels = [
        {
            "metric": f"{split}/nats_per_sequence",
            "label": f"NLL of a line, nats, {label}",
            "better": "lower",
            "scale": "linear",
            "x_scale": "log",
            "drawn": True,
        }
        for split, label in (("train", "training"), ("eval", "held-out"))
    ]
    arms = []
    for size in ("16", "4"):
        for norm, rate in (("layer", 6.0), ("none", 3.5)):
            changes = {"norm": norm, "batch_size": size}
            name = ",".join(f"{key}={value}" for key, value in changes.items())
            runs = []
            for seed in range(3):
                values = np.array(decay(rng, count, rate, 900.0, 90.0, 0.04)) - 600
                held_out = [float(value + 25) for value in values[3::4]]
                curves = {panels[0]["metric"]: values.tolist(), panels[1]["metric"]: held_out}
                runs.append(run(name, seed, curves, every=50, step_seconds=0.15))
            arms.append(arm(changes, runs))
    handwriting = part(
        arms,
        axis={"x": "updates / 200", "steps_per_x": 200},
        config="configs/handwriting.py",
        task="handwriting",
        data="handwriting/embedded",
        keys={"task": "handwriting", "norm": "layer", "batch_size": 16, "num_steps": 50 * count},
        panels=panels,
        paper={"norm=layer,batch_size=16": {panels[1]["metric"]: [-700.0, "read off Fig. 5"]}},
    )
    return results(digits, handwriting, title="Digits and handwriting")


def draw_sheets(record: Json, base: pathlib.Path) -> None:
    """A small sheet of samples for each run that has a checkpoint, as a run leaves it."""
    for each in record["parts"]:
        for one in each["arms"]:
            for member in one["runs"]:
                folder = base / member["folder"] / "samples"
                folder.mkdir(parents=True, exist_ok=True)
                image = Image.new("L", (240, 120), 255)
                ImageDraw.Draw(image).text((10, 50), f"{one['name']} {member['seed']}")
                path = folder / f"{member['step']:08d}.png"
                title = f"{each['data']}, step {member['step']}"
                manifest.write_bytes(path, pictures.png(image, title))
                member["sheet"] = path.relative_to(base).as_posix()

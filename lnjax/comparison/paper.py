"""What the paper shows: its six figures as configs, arms and metrics, and its numbers.

A panel is one metric of metrics.jsonl against steps. A figure is made of parts, a config with its
arms each. Numbers of the paper stand with their place in it; most of its figures print none. Tasks
and metrics are known here by name alone.
"""

from typing import Any

Plain = dict[str, Any]


def panel(metric: str, label: str, better: str = "lower", **options: Any) -> Plain:
    """A metric, which of its values are better ("lower" or "higher"), and how it is drawn."""
    defaults = {"scale": "linear", "x_scale": "linear", "drawn": True}  # scales: or "log"
    return {"metric": metric, "label": label, "better": better, **defaults, **options}


def _recalls(split: str, what: str, *, drawn: bool) -> list[Plain]:
    label = "image retrieval" if what == "image" else "caption retrieval"
    return [
        panel(f"{split}/{what}_recall_at_{k}", f"{label} R@{k}, {split}", "higher", drawn=drawn)
        for k in (1, 5, 10)
    ]


def _sentences(sick: str, *sets: str) -> list[Plain]:
    return [
        panel(f"sentences/{sick}/pearson", f"{sick}: r", "higher"),
        panel(f"sentences/{sick}/mse", f"{sick}: MSE"),
        *(panel(f"sentences/{name}/accuracy", f"{name}: accuracy", "higher") for name in sets),
    ]


_ERRORS = [panel("train/nll", "NLL, training", scale="log"), panel("test/error", "error, test")]
_WORDS = [panel("eval/nats_per_word", "nats per word, held-out books")]
_EMBEDDED = ("embedded/relatedness", "embedded/speech", "embedded/question", "embedded/poetry")
_REAL = ("sick", "mr", "cr", "subj", "mpqa")

# Of a comparison of one config, by its task; and by which metric of validation --tune chooses.
PANELS: dict[str, list[Plain]] = {
    "order_embeddings": [
        *_recalls("eval", "image", drawn=True),
        *_recalls("test", "image", drawn=False),
        *_recalls("test", "caption", drawn=False),
    ],
    "attentive_reader": [panel("eval/error", "error, validation")],
    "skip_thoughts": _WORDS,
    "draw": [panel("eval/nats", "variational bound, nats, held-out images")],
    "handwriting": [
        panel(f"{split}/nats_per_sequence", f"NLL of a line, nats, {label}", x_scale="log")
        for split, label in (("train", "training"), ("eval", "held-out"))
    ],
    "pi_mnist": _ERRORS,
    "convnet": _ERRORS,
}
TUNED_BY = {
    "order_embeddings": ("eval/selection", "higher"),
    "attentive_reader": ("eval/error", "lower"),
    "skip_thoughts": ("eval/nats_per_word", "lower"),
    "draw": ("eval/nats", "lower"),
    "handwriting": ("eval/nats_per_point", "lower"),
    "pi_mnist": ("eval/nll", "lower"),
    "convnet": ("eval/nll", "lower"),
}


def part(task: str, norms: str, x: str, steps_per_x: float, **options: Any) -> Plain:
    """The arms of one config in a figure, and the unit of its axis of steps.

    `keys` differ from the config; `real` is what differs with the paper's config and data, `smoke`
    keys of the smallest variant.
    """
    defaults = {"variant": "", "keys": {}, "panels": PANELS[task], "numbers": {}, "smoke": {}}
    made = {"task": task, "arms": [f"norm:{norms}"], "x": x, "steps_per_x": steps_per_x}
    real = {"variant": "paper", **options.pop("real", {})}
    return {**made, **defaults, **options, "real": real}


def _table_2(*values: float) -> dict[str, tuple[float, str]]:
    names = [f"test/{what}_recall_at_{k}" for what in ("caption", "image") for k in (1, 5, 10)]
    return {name: (value, "Table 2") for name, value in zip(names, values, strict=True)}


def _table_3(*values: float) -> dict[str, tuple[float, str]]:
    names = ["sick/pearson", "sick/mse", *(f"{name}/accuracy" for name in _REAL[1:])]
    found = zip(names, values, strict=True)
    return {f"sentences/{name}": (value, "Table 3, 1M iterations") for name, value in found}


FIGURES: dict[int, Plain] = {
    1: {
        "title": "Figure 1: order embeddings, images that captions find",
        "claim": "layer norm ahead at every iteration, its best model in 60 % of the time",
        "parts": [
            part(
                "order_embeddings",
                "layer,none",
                "iterations / 300",
                300,
                numbers={
                    "norm=layer": _table_2(0.485, 0.806, 0.898, 0.389, 0.743, 0.863),
                    "norm=none": _table_2(0.466, 0.793, 0.891, 0.378, 0.736, 0.857),
                },
            )
        ],
    },
    2: {
        "title": "Figure 2: the attentive reader, validation error",
        "claim": "the LSTM with layer norm trains fastest and ends lowest",
        "parts": [
            part("attentive_reader", "layer,none,batch,batch_everywhere", "thousand steps", 1000)
        ],
    },
    3: {
        "title": "Figure 3: skip-thoughts, tasks on sentence vectors",
        "claim": "layer norm ahead on all tasks; Table 3",
        "parts": [
            part(
                "skip_thoughts",
                "layer,none",
                "thousand iterations",
                1000,
                keys={"sentence_tasks": ",".join(_EMBEDDED), "eval_steps": 250},
                panels=_WORDS + _sentences(*_EMBEDDED),
                real={
                    "keys": {"sentence_tasks": ",".join(_REAL)},
                    "panels": _WORDS + _sentences(*_REAL),
                },
                numbers={
                    "norm=layer": _table_3(0.854, 0.277, 0.795, 0.826, 0.934, 0.890),
                    "norm=none": _table_3(0.842, 0.298, 0.773, 0.818, 0.926, 0.879),
                },
            )
        ],
    },
    4: {
        "title": "Figure 4: DRAW, the variational bound",
        "claim": "layer norm almost twice as fast over the first 100 epochs",
        "parts": [
            part(
                "draw",
                "layer,none",
                "epochs",
                4_000 / 64,
                real={"steps_per_x": 50_000 / 128},
                numbers={
                    "norm=layer": {"eval/nats": (82.09, "6.4, 200 epochs")},
                    "norm=none": {"eval/nats": (82.36, "6.4, 200 epochs")},
                },
            )
        ],
    },
    5: {
        "title": "Figure 5: handwriting, negative log likelihood",
        "claim": "layer norm reaches a comparable likelihood much sooner",
        "parts": [part("handwriting", "layer,none", "updates / 200", 200)],
    },
    6: {
        "title": "Figure 6: permutation-invariant MNIST at batches of 128 and 4",
        "claim": "layer norm faster than batch norm at both sizes, which the small one hurts",
        "parts": [
            part("pi_mnist", "layer,batch,none", "epochs", 31, real={"steps_per_x": 430}),
            part(
                "pi_mnist",
                "layer,batch,none",
                "epochs",
                1000,
                variant="small_batch",
                smoke={"batch_size": 4, "unbiased": True},
                real={"variant": "paper_small_batch", "steps_per_x": 13_750},
            ),
        ],
    },
}

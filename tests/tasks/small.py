"""Every task at the size of its config's variant `smoke`, on batches that need no data set."""

import functools
import importlib

import jax
import numpy as np

import tasks
from lnjax.training.state import stream_rngs

WORDS = [f"w{number}" for number in range(30)]
SPECS = {
    "pi_mnist": {"num_classes": 10},
    "convnet": {"num_classes": 10},
    "order_embeddings": {"words": WORDS, "num_features": 20},
    "attentive_reader": {"vocabulary_size": 40, "num_entities": 6, "max_steps": 12},
    "skip_thoughts": {"vocabulary": WORDS},
    "draw": {"shape": [28, 28], "held_out": []},
    "handwriting": {"alphabet": "abcdef", "offset_mean": [0.0, 0.0], "offset_std": [1.0, 1.0]},
}
NAMES = tuple(SPECS)
RNG = jax.random.key(0)


@functools.cache
def make_task(name: str, dtype: str = "float32", norm: str = "layer"):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.update({"dtype": dtype, "norm": norm})
    return tasks.load(name).make_task(config, SPECS[name])


def make_batch(name: str, seed: int = 0, rows: int = 8) -> dict[str, np.ndarray]:
    """Rows with random contents, of random lengths, and a last one of padding."""
    rng = np.random.default_rng(seed)
    mask = np.arange(rows) < rows - 1
    if name in ("pi_mnist", "convnet"):
        image = rng.integers(0, 256, (rows, 8, 8, 1)).astype(np.uint8)
        return {"image": image, "label": rng.integers(0, 10, rows).astype(np.int32), "mask": mask}
    if name == "draw":
        return {"image": rng.integers(0, 2, (rows, 28, 28, 1)).astype(np.uint8), "mask": mask}
    if name == "handwriting":
        steps, letters = rng.integers(10, 25, rows), rng.integers(2, 9, rows)
        strokes = rng.normal(size=(rows, 24, 3)).astype(np.float32)
        strokes[..., 2] = strokes[..., 2] > 1
        return {
            "strokes": strokes,
            "mask": (np.arange(24) < steps[:, None]) & mask[:, None],
            "text": rng.integers(0, 6, (rows, 8)).astype(np.int32),
            "text_mask": np.arange(8) < letters[:, None],
        }

    def sentences(*shape: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(2, longest + 1, shape).astype(np.int32)
        ids = rng.integers(2, 32, (*shape, longest)).astype(np.int32)
        return ids * (np.arange(longest) != lengths[..., None] - 1), lengths

    if name == "order_embeddings":
        tokens, lengths = sentences(rows, 2, longest=7)
        return {
            "features": rng.normal(size=(rows, 20)).astype(np.float32),
            "tokens": tokens,
            "lengths": lengths,
            "image": np.arange(rows, dtype=np.int32),
            "mask": mask,
        }
    if name == "attentive_reader":
        passage, passage_length = sentences(rows, longest=12)
        question, question_length = sentences(rows, longest=5)
        passage[:, 0] = answer = rng.integers(2, 8, rows).astype(np.int32)
        return {
            "passage": passage,
            "passage_length": passage_length * mask,
            "question": question,
            "question_length": question_length * mask,
            "answer": answer,
            "mask": mask,
        }
    parts = {part: sentences(rows, longest=9) for part in ("previous", "centre", "next")}
    batch = {part: ids for part, (ids, _) in parts.items()}
    batch |= {f"{part}_length": lengths * mask for part, (_, lengths) in parts.items()}
    return {**batch, "mask": mask}


@functools.cache
def shapes(name: str, norm: str = "layer"):
    """Parameters and model state as shapes and dtypes, which needs no compilation."""
    found = dict(jax.eval_shape(make_task(name, norm=norm).init, RNG, make_batch(name)))
    return found.pop("params"), found


@functools.cache
def variables(name: str, noise: float = 0.0):
    """Parameters and model state at the start, the parameters with Gaussian noise added."""
    found = dict(jax.jit(make_task(name).init)(RNG, make_batch(name)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + noise * rng.normal(size=leaf.shape).astype(leaf.dtype),
        found.pop("params"),
    )
    return params, found


def loss(task, params, model_state, batch, train: bool = True):
    """(loss, aux) with the random streams of step 0."""
    rngs = stream_rngs(RNG, 0, task.rng_streams)
    return task.loss(params, model_state, batch, rngs, train=train)

"""Looks for the held-out images that a sentence describes, with a trained network.

A trained network carries its words with it, but no images: those of the run's test split are opened
once more, as its config names them.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.data.captioned_images import captions_of
from lnjax.data.vocabulary import tokenize
from lnjax.training.manifest import write_bytes
from lnjax.typing import Array, Params
from tasks.order_embeddings import OrderTask, drawing, sets
from tasks.order_embeddings.drawing import Found, Query

SPLIT = "test"
NUM_FOUND = 10
_BATCH = 500  # images that are embedded together


def find(
    task: OrderTask,
    params: Params,
    config: Any,
    spec: Mapping[str, Any],
    texts: Sequence[str],
    *,
    num: int = NUM_FOUND,
) -> list[Query]:
    """The `num` test images nearest to each of `texts`.

    Args:
      task, params: of the trained network.
      config, spec: of its run.
      texts: sentences of words that the network knows.

    Raises:
      ValueError: a sentence has no word, or one that the network does not know; the images are
        others than those of the run. (DataError: they cannot be opened.)
    """
    queries = [_tokens(task, text) for text in texts]
    prepared = sets.prepare(config)
    if prepared.digest != spec["digest"]:
        raise ValueError(
            f"{prepared.name}/{prepared.config}: the images are not those that the"
            " run was trained with; give it back the files that it had, or train again"
        )
    records = prepared.splits[SPLIT]
    split = sets.open_split(config, prepared, SPLIT, task.vocabulary)
    numbers = range(len(records))
    embedded = [
        _images(params, split.batch(numbers[first : first + _BATCH], 1)["features"], task=task)
        for first in range(0, len(records), _BATCH)
    ]
    distance = np.asarray(
        task.distance(
            jnp.stack([_caption(params, tokens, task=task) for tokens in queries]),
            jnp.concatenate(embedded),
        )
    )
    return [
        Query(text, [_found(records[i], row[i]) for i in np.argsort(row, kind="stable")[:num]])
        for text, row in zip(texts, distance, strict=True)
    ]


def sample(
    task: OrderTask, params: Params, config: Any, spec: Mapping[str, Any], num: int
) -> list[Query]:
    """What the first captions of `num` test images, spread over the split, find."""
    records = sets.prepare(config).splits[SPLIT]
    rows = np.linspace(0, len(records) - 1, num, dtype=int)
    texts = [captions_of(records[int(row)])[0] for row in rows]
    return find(task, params, config, spec, texts)


def write(path: str | os.PathLike[str], queries: Sequence[Query], *, title: str) -> None:
    """Writes what was found as the file's suffix says: `.png` a sheet of images, `.txt` a list.

    Raises:
      ValueError: another suffix, or a picture of images of which only features are known.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".txt":
        write_bytes(path, listed(queries).encode())
        return
    if suffix != ".png":
        raise ValueError(f"cannot write to {Path(path).name!r}: the suffixes are .png, .txt")
    if any(found.image is None for query in queries for found in query.found):
        raise ValueError(
            "of these images only features are known, which cannot be drawn; --out=found.txt lists"
            " their ids"
        )
    drawing.sheet(path, queries, title=title)


def listed(queries: Sequence[Query]) -> str:
    """Rank, distance, id and row of features of everything found, a line each."""
    lines = []
    for query in queries:
        lines.append(query.text)
        lines += [
            f"{rank:>4}  {found.distance:9.6f}  {found.id}  row {found.row}"
            for rank, found in enumerate(query.found, start=1)
        ]
    return "\n".join(lines) + "\n"


def _tokens(task: OrderTask, text: str) -> np.ndarray:
    """The ids of a sentence and of its end; marks, which captions have none of, are left out."""
    words = [token for token in tokenize(text) if token[0].isalnum() or token in task.vocabulary]
    if not words:
        raise ValueError(f"there is no word to look for in {text!r}")
    unknown = sorted({word for word in words if word not in task.vocabulary})
    if unknown:
        known = f"{len(task.vocabulary.words)} words that its captions had"
        if len(task.vocabulary.words) <= 100:
            known = ", ".join(sorted(task.vocabulary.words))
        raise ValueError(
            f"cannot look for {', '.join(map(repr, unknown))}: the network knows {known}"
        )
    return np.append(task.vocabulary.encode(words), np.int32(0))


def _found(record: Mapping[str, Any], distance: float) -> Found:
    image = record["image"][..., 0] if "image" in record else None
    return Found(record["id"], int(record["row"]), float(distance), image)


@partial(jax.jit, static_argnames=("task",))
def _images(params: Params, features: Array, *, task: OrderTask) -> Array:
    embedded: Any = task.network.apply({"params": params}, features, method="images")
    return embedded


@partial(jax.jit, static_argnames=("task",))
def _caption(params: Params, tokens: Array, *, task: OrderTask) -> Array:
    length = jnp.full((), tokens.shape[-1], jnp.int32)
    embedded: Any = task.network.apply({"params": params}, tokens, length, method="captions")
    return embedded

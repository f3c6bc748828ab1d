"""DRAW on binary digits (paper 6.4, Fig. 4): a picture drawn and looked at in glimpses.

Trained on the variational bound in nats per image; scored by the bound on held-out images with one
sample of the posterior for each, and on request with many (`bound.importance_weighted`). `network`
is the model, `attention` its windows, `bound` the terms, `drawing` makes pictures.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.cells.lstm import Norm
from lnjax.training.options import check_dtype, check_least
from lnjax.training.task import LossAux, TaskData, TaskDefaults
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey
from tasks.draw import bound, drawing
from tasks.draw.drawing import Drawn
from tasks.draw.network import DrawNetwork, Traced

NORMS: Mapping[str, Norm] = {"layer": "layer", "rms": "rms", "none": None}
LEAST = {  # keys of the config that are numbers of something
    **dict.fromkeys(("latents", "glimpses"), 1),
    **dict.fromkeys(("features", "read_size", "write_size"), 2),
    "importance_samples": 0,
}
NUM_HELD_OUT = 16  # evaluation images that a trained run can reconstruct without its data
MAX_IMAGES = 100  # drawn at once


@dataclasses.dataclass(frozen=True)
class DrawTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `DrawNetwork` and the configs."""

    shape: tuple[int, int]
    held_out: tuple[str, ...]  # a few evaluation images, see `pack`
    features: int
    latents: int
    glimpses: int
    attention: bool
    read_size: int
    write_size: int
    norm: Norm
    init_std: float
    dtype: str
    importance_samples: int
    name: str = "draw"
    rng_streams = ("latent",)

    @property
    def network(self) -> DrawNetwork:
        return DrawNetwork(
            features=self.features,
            latents=self.latents,
            glimpses=self.glimpses,
            shape=self.shape,
            attention=self.attention,
            read_size=self.read_size,
            write_size=self.write_size,
            norm=self.norm,
            init_std=self.init_std,
            dtype=jnp.dtype(self.dtype),
        )

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, Any]:
        images = jnp.zeros((1, *self.shape))
        return self.network.init(rng, images, jnp.zeros((self.glimpses, 1, self.latents)))

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """Nats per image, each with one sample of z.

        Batch: image (batch, B, A, 1) of 0 and 1, mask (batch,) bool, and for evaluation index
        (batch,) int32, the place in the split.
        """
        images, mask = self._images(batch), batch["mask"]

        def nats(rng: PRNGKey) -> tuple[Array, Array, Array]:
            got = self.network.apply({"params": params}, images, self._noise(rng, batch))
            kl = jnp.sum(got.kl, axis=0)
            log_weight = jnp.sum(got.log_ratio, axis=0) - got.reconstruction
            return got.reconstruction, kl, log_weight

        def total(rows: Array) -> tuple[Array, Array]:
            return jnp.sum(jnp.where(mask, rows, 0)), jnp.sum(mask, dtype=rows.dtype)

        reconstruction, kl, _ = nats(rngs["latent"])
        loss, count = total(reconstruction + kl)
        sums = {
            "loss": (loss, count),
            "nats": (loss, count),
            "reconstruction": total(reconstruction),
            "kl": total(kl),
        }
        if not train and self.importance_samples > 1:
            # One sample after the other: memory does not grow with their number.
            keys = jax.random.split(rngs["latent"], self.importance_samples)
            log_weights = jax.lax.map(lambda rng: nats(rng)[2], keys)
            sums["nats_importance_weighted"] = total(bound.importance_weighted(log_weights))
        return loss / jnp.maximum(count, 1), LossAux(sums, model_state)

    def _images(self, batch: Batch) -> Array:
        return batch["image"][..., 0].astype(jnp.promote_types(jnp.float32, self.dtype))

    def _noise(self, rng: PRNGKey, batch: Batch) -> Array:
        """Standard normal (T, batch, Z); of rows with an index, a function of key and index."""
        if "index" not in batch:
            return jax.random.normal(rng, (self.glimpses, len(batch["mask"]), self.latents))
        # An evaluation uses one key for all its batches. So no two images share their noise, and
        # how the split is cut into batches does not matter.
        keys = jax.vmap(partial(jax.random.fold_in, rng))(batch["index"])
        shape = (self.glimpses, self.latents)
        return jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(keys)

    def sample(
        self, params: Params, model_state: ModelState, rng: PRNGKey, num: int
    ) -> list[Drawn]:
        """`num` images out of nothing, and as many held-out ones (if there are) drawn anew."""
        return self.imagine(params, rng, num) + self.copy(params, rng, min(num, len(self.held_out)))

    def imagine(self, params: Params, rng: PRNGKey, num: int) -> list[Drawn]:
        """Draws `num` images from the prior.

        Raises:
          ValueError: fewer than 1 or more than MAX_IMAGES.
        """
        if not 1 <= num <= MAX_IMAGES:
            raise ValueError(f"num={num} must be between 1 and {MAX_IMAGES}")
        return _drawn(_generate(params, rng, task=self, num=num), None)

    def copy(self, params: Params, rng: PRNGKey, num: int) -> list[Drawn]:
        """Draws the first `num` of the run's held-out images, looking at them.

        Raises:
          ValueError: fewer than 1 or more than there are.
        """
        if not 1 <= num <= len(self.held_out):
            raise ValueError(f"num={num}: the run keeps {len(self.held_out)} held-out images")
        images = np.stack([unpack(line, self.shape) for line in self.held_out[:num]])
        return _drawn(_reconstruct(params, images, rng, task=self), images)


@partial(jax.jit, static_argnames=("task", "num"))
def _generate(params: Params, rng: PRNGKey, *, task: DrawTask, num: int) -> Traced:
    z = jax.random.normal(rng, (task.glimpses, num, task.latents))
    traced: Any = task.network.apply({"params": params}, z, method="generate")
    return traced


@partial(jax.jit, static_argnames=("task",))
def _reconstruct(params: Params, images: Array, rng: PRNGKey, *, task: DrawTask) -> Traced:
    noise = jax.random.normal(rng, (task.glimpses, len(images), task.latents))
    images = images.astype(noise.dtype)
    traced: Any = task.network.apply({"params": params}, images, noise, method="reconstruct")
    return traced


def _drawn(traced: Traced, images: np.ndarray | None) -> list[Drawn]:
    pictures = np.asarray(jax.nn.sigmoid(traced.canvases))
    written, seen = (
        None if frames is None else np.asarray(frames) for frames in (traced.write, traced.read)
    )
    return [
        Drawn(
            pictures=pictures[:, row],
            write=None if written is None else written[:, row],
            read=None if seen is None else seen[:, row],
            original=None if images is None else images[row],
        )
        for row in range(pictures.shape[1])
    ]


def make_task(config: Any, spec: Mapping[str, Any]) -> DrawTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    if config.norm not in NORMS:
        known = ", ".join(map(repr, NORMS))
        raise ValueError(f"norm={config.norm!r} is not known; draw has {known}")
    check_dtype(config)
    check_least(config, LEAST)
    if not config.init_std > 0:
        raise ValueError(f"init_std={config.init_std} must be positive")
    return DrawTask(
        shape=tuple(spec["shape"]),
        held_out=tuple(spec["held_out"]),
        features=config.features,
        latents=config.latents,
        glimpses=config.glimpses,
        attention=config.attention,
        read_size=config.read_size,
        write_size=config.write_size,
        norm=NORMS[config.norm],
        init_std=config.init_std,
        dtype=config.dtype,
        importance_samples=config.importance_samples,
    )


def make_data(config: Any) -> TaskData:
    """Prepares the digits (once per machine) and cuts them into batches."""
    check_dtype(config)
    # Here, not at the head: drawing with a trained network needs no data set and no reader.
    from lnjax.data import columns, pipeline, preparation
    from lnjax.data.binarized_mnist import BinarizedMnist

    prepared = preparation.prepare(BinarizedMnist, config.data, manual_dir=config.data_dir or None)
    splits = prepared.splits
    if config.eval_split not in splits:
        raise ValueError(f"eval_split={config.eval_split!r} is not known; there are {list(splits)}")
    train, held_out = (columns.stacked(splits[name]) for name in ("train", config.eval_split))
    num = columns.num_rows(held_out)
    indexed = {**held_out, "index": np.arange(num, dtype=np.int32)}
    kept = held_out["image"][:NUM_HELD_OUT, ..., 0]
    return TaskData(
        train=pipeline.train_batches(
            range(columns.num_rows(train)),
            seed=config.seed,
            batch_size=config.batch_size,
            collate=columns.take_rows(train),
        ),
        evals={
            "eval": pipeline.eval_batches(
                range(num), batch_size=config.eval_batch_size, collate=columns.take_rows(indexed)
            )
        },
        fingerprint=pipeline.fingerprint(prepared, seed=config.seed, batch_size=config.batch_size),
        spec={"shape": list(kept.shape[1:]), "held_out": [pack(image) for image in kept]},
        baselines={
            "nats of independent pixels": independent_pixels(train["image"], held_out["image"])
        },
    )


def draw_samples(path: str | os.PathLike, samples: Sequence[Drawn], *, title: str) -> None:
    """A sheet of images as they were drawn: a PNG at `path`."""
    drawing.sheet(path, samples, title=title)


def independent_pixels(train: np.ndarray, held_out: np.ndarray) -> float:
    """Nats per held-out image if every pixel were on as often as in the training images.

    The trivial predictor that every figure is to be read against. One image more that is all ink
    and one that is blank are counted, so that no pixel is impossible (Laplace's rule).

    Args:
      train, held_out: (N, ...) of 0 and 1, each with its own N.
    """
    mean = (train.sum(axis=0, dtype=np.int64) + 1) / (len(train) + 2)
    on = held_out.mean(axis=0, dtype=np.float64)
    return float(-np.sum(on * np.log(mean) + (1 - on) * np.log1p(-mean)))


def pack(image: np.ndarray) -> str:
    """A binary image (B, A) as hexadecimal digits, eight pixels in two of them, row by row."""
    return np.packbits(image.astype(bool)).tobytes().hex()


def unpack(line: str, shape: tuple[int, int]) -> np.ndarray:
    """The uint8 image (B, A) that `pack` made `line` of."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(line), np.uint8))
    return bits[: shape[0] * shape[1]].reshape(shape)

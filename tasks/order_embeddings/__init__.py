"""Order embeddings of images and captions (paper 6.1, Table 2, Fig. 1).

Trained on the violations of the order by all other pairs of the batch; scored by retrieval on
held-out images, both ways: `image_...` of the images that a caption finds, `caption_...` of the
captions that an image finds, among a fold of `fold_images` images and their captions. `network` are
the two encoders, `order` the order and its loss, `ranking` the scores, `search` looks for what a
sentence says.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.cells.lstm import Norm
from lnjax.data.vocabulary import Vocabulary
from lnjax.training.options import check_dtype, check_least
from lnjax.training.task import LossAux, TaskData, TaskDefaults
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey, PyTree
from tasks.order_embeddings import order, ranking
from tasks.order_embeddings.network import OrderNetwork

Similarity = Literal["order", "cosine"]

NORMS: Mapping[str, Norm] = {"layer": "layer", "rms": "rms", "none": None}
MARGINS = {"order": 0.05, "cosine": 0.2}
LEAST = {  # keys of the config that are numbers of something
    **dict.fromkeys(("word_features", "fold_images"), 1),
    "features": 2,
    **dict.fromkeys(("max_tokens", "test_folds"), 0),
}


@dataclasses.dataclass(frozen=True)
class OrderTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `OrderNetwork` and the configs."""

    vocabulary: Vocabulary
    num_features: int  # of an image
    features: int
    word_features: int
    norm: Norm
    similarity: Similarity
    margin: float
    dtype: str
    fold_images: int
    name: str = "order_embeddings"

    @property
    def network(self) -> OrderNetwork:
        return OrderNetwork(
            features=self.features,
            num_words=len(self.vocabulary),
            word_features=self.word_features,
            norm=self.norm,
            absolute=self.similarity == "order",
            dtype=jnp.dtype(self.dtype),
        )

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, Any]:
        tokens, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
        return self.network.init(rng, tokens, lengths, jnp.zeros((1, self.num_features)))

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """The sum over all pairs of the batch that do not belong together, both ways.

        Of several captions the first is taken. An image that the batch holds twice, as it can
        where two epochs meet, is not set against itself. The metric `loss` is the sum by image,
        `violations` the share of the terms that are positive; both depend on the size of the batch.

        Batch: features (B, F), tokens (B, K, T), lengths (B, K), image (B,), mask (B,) bool, see
        `lnjax.data.caption_batches`.
        """
        mask, image = batch["mask"], batch["image"]
        # Of a row of padding nothing is embedded: a NaN in it would reach every gradient.
        tokens = jnp.where(mask[:, None], batch["tokens"][:, 0], 0)
        features = jnp.where(mask[:, None], batch["features"], 1)
        embedded: Any = self.network.apply(
            {"params": params}, tokens, batch["lengths"][:, 0], features
        )
        captions, images = embedded
        real = mask[:, None] & mask[None, :] & (image[:, None] != image[None, :])
        distance = self.distance(captions, images)
        loss, positive, number = order.contrasts(distance, self.margin, real)
        sums = {
            "loss": (loss, jnp.sum(mask, dtype=loss.dtype)),
            "violations": (positive.astype(loss.dtype), number.astype(loss.dtype)),
        }
        return loss, LossAux(sums, model_state)

    def distance(self, captions: Array, images: Array) -> Array:
        """Of every pair of embeddings (C, D), (I, D), less for what belongs together: (C, I)."""
        order_or_cosine = {"order": order.violations, "cosine": order.minus_cosine}
        return order_or_cosine[self.similarity](captions, images)

    def outputs(
        self, params: Params, model_state: ModelState, batch: Batch, rngs: Mapping[str, PRNGKey]
    ) -> PyTree:
        """The embeddings of all captions (B, K, D) and images (B, D)."""
        embedded: Any = self.network.apply(
            {"params": params}, batch["tokens"], batch["lengths"], batch["features"]
        )
        return dict(zip(("captions", "images"), embedded, strict=True))

    def evaluate(self, pairs: Iterable[tuple[Batch, PyTree]]) -> dict[str, float]:
        """Retrieval in each whole fold of the split, the mean over the folds."""
        captions, images = [], []
        for batch, outputs in pairs:
            real = np.asarray(batch["mask"])
            captions.append(np.asarray(outputs["captions"])[real])
            images.append(np.asarray(outputs["images"])[real])
        all_captions, all_images = np.concatenate(captions), np.concatenate(images)
        size = min(self.fold_images, len(all_images))
        folds = []
        for first in range(0, len(all_images) - size + 1, size):
            fold = slice(first, first + size)
            by_caption = all_captions[fold].reshape(-1, all_captions.shape[-1])
            distance = _distance(by_caption, all_images[fold], task=self)
            folds.append(ranking.retrieval(np.asarray(distance)))
        return ranking.mean(folds)


@partial(jax.jit, static_argnames=("task",))
def _distance(captions: Array, images: Array, *, task: OrderTask) -> Array:
    return task.distance(captions, images)


def make_task(config: Any, spec: Mapping[str, Any]) -> OrderTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    check(config)
    return OrderTask(
        vocabulary=Vocabulary.from_json(spec["words"]),
        num_features=spec["num_features"],
        features=config.features,
        word_features=config.word_features,
        norm=NORMS[config.norm],
        similarity=config.similarity,
        margin=config.margin or MARGINS[config.similarity],
        dtype=config.dtype,
        fold_images=config.fold_images,
    )


def check(config: Any) -> None:
    """Refuses values that are none.

    Raises:
      ValueError: naming the key and what it may be.
    """
    check_dtype(config)
    for key, values in {"norm": NORMS, "similarity": MARGINS}.items():
        if config[key] not in values:
            choices = ", ".join(map(repr, values))
            raise ValueError(f"{key}={config[key]!r} is not known; there are {choices}")
    check_least(config, LEAST)
    if not config.margin >= 0:
        raise ValueError(f"margin={config.margin} must be positive, or 0 for that of the paper")


def make_data(config: Any) -> TaskData:
    """Prepares the captions (once per machine) and cuts them into batches of one width."""
    # Here, not at the head: a trained network needs no data set and no reader.
    from tasks.order_embeddings import sets

    check(config)
    return sets.make_data(config)

"""A small ConvNet with one of five norms: the paper's own negative result (6.7), to be looked at.

Convolutions of stride 2, each with the norm of its summed inputs and rectified units, then a plain
linear layer to the logits. Layer norm takes its statistics over the height, width and channels of
one image. The paper found it ahead of no norm and behind batch norm here, because units whose
receptive field is at the border are rarely active and so are not like the others of their layer; it
gives no architecture, data or number, so the sizes are ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

import lnjax
from lnjax.ops.losses import classification
from lnjax.training.options import check_dtype, check_positive
from lnjax.training.task import LossAux, TaskData, TaskDefaults
from lnjax.typing import Array, Batch, DType, ModelState, Params, PRNGKey

Norm = Literal["layer", "rms", "batch", "weight"] | None
NORMS = ("layer", "rms", "batch", "weight", "none")  # as the config has them
SIZES = (
    "features",
    "num_layers",
    "kernel_size",
)  # keys of the config that are numbers of something
DATASETS = ("digits", "fashion_mnist", "cifar10")


class ConvNet(nn.Module):
    """Convolutions with a norm and rectified units, then a linear layer.

    Attributes:
      features: channels of the first convolution; each further one has twice as many.
      num_layers: convolutions; each halves height and width.
      kernel_size: their height and width.
      num_classes: logits.
      norm: of the summed inputs, see `lnjax.Conv`.
      momentum, unbiased: of "batch", see `lnjax.Normalize`; other norms have no such thing.
      dtype: of products and activations.
    """

    features: int
    num_layers: int
    kernel_size: int
    num_classes: int
    norm: Norm
    momentum: float
    unbiased: bool
    dtype: DType

    @nn.compact
    def __call__(self, images: Array, mask: Array, train: bool) -> Array:
        """Logits (B, classes) of `images` (B, H, W, C) with pixels from 0 to 255."""
        of_batch: dict[str, Any] = {"momentum": self.momentum, "unbiased": self.unbiased}
        x = images.astype(self.dtype) / 255
        for i in range(self.num_layers):
            layer = lnjax.Conv(
                self.features * 2**i,
                (self.kernel_size, self.kernel_size),
                strides=2,
                norm=self.norm,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv_{i}",
                **(of_batch if self.norm == "batch" else {}),
            )
            x = nn.relu(layer(x, mask=mask, use_running_average=not train))
        x = x.reshape(x.shape[0], -1)
        return lnjax.Dense(self.num_classes, norm=None, dtype=self.dtype, name="logits")(
            x, mask=mask
        )


@dataclasses.dataclass(frozen=True)
class ConvNetTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `ConvNet` and the configs."""

    num_classes: int
    features: int
    num_layers: int
    kernel_size: int
    norm: Norm
    momentum: float
    unbiased: bool
    dtype: str
    name: str = "convnet"

    @property
    def network(self) -> ConvNet:
        return ConvNet(
            features=self.features,
            num_layers=self.num_layers,
            kernel_size=self.kernel_size,
            num_classes=self.num_classes,
            norm=self.norm,
            momentum=self.momentum,
            unbiased=self.unbiased,
            dtype=jnp.dtype(self.dtype),
        )

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, Any]:
        return self.network.init(rng, batch["image"], batch["mask"], True)

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """Nats per image. Batch: `image` (B, H, W, C) uint8, `label` (B,), `mask` (B,)."""
        logits, new = self.network.apply(
            {"params": params, **model_state},
            batch["image"],
            batch["mask"],
            train,
            mutable=list(model_state) if train else [],
        )
        nll, error = classification(logits, batch["label"], batch["mask"])
        sums = {"loss": nll, "nll": nll, "error": error}
        return nll[0] / jnp.maximum(nll[1], 1), LossAux(sums, {**model_state, **new})


def make_task(config: Any, spec: Mapping[str, Any]) -> ConvNetTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    if config.norm not in NORMS:
        raise ValueError(f"norm={config.norm!r} is not known; convnet has {', '.join(NORMS)}")
    check_dtype(config)
    check_positive(config, SIZES)
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum={config.momentum} must be at least 0 and below 1")
    return ConvNetTask(
        num_classes=spec["num_classes"],
        features=config.features,
        num_layers=config.num_layers,
        kernel_size=config.kernel_size,
        norm=None if config.norm == "none" else config.norm,
        momentum=config.momentum,
        unbiased=config.unbiased,
        dtype=config.dtype,
    )


def make_data(config: Any) -> TaskData:
    """Prepares the images (once per machine); validation is "eval", and there is "test"."""
    check_dtype(config)
    # Here, not at the head: a trained network needs no data set and no reader.
    from lnjax.data import image_batches, preparation
    from lnjax.data.cifar10 import Cifar10
    from lnjax.data.digits import Digits
    from lnjax.data.fashion_mnist import FashionMnist

    builders = dict(zip(DATASETS, (Digits, FashionMnist, Cifar10), strict=True))
    if config.dataset not in builders:
        raise ValueError(
            f"dataset={config.dataset!r} is not known; there are {', '.join(DATASETS)}"
        )
    prepared = preparation.prepare(
        builders[config.dataset], config.data, manual_dir=config.data_dir or None
    )
    return TaskData(
        **image_batches.of_a_run(
            prepared,
            seed=config.seed,
            batch_size=config.batch_size,
            eval_batch_size=config.eval_batch_size,
        )
    )

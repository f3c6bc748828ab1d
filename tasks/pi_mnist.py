"""Permutation-invariant MNIST (paper 6.6, Fig. 6): a perceptron with one of five norms.

784 pixels, two hidden layers of rectified units, a softmax over ten classes. The norm is that of
the summed inputs, and of the layers that the paper gives it:

* "layer" and "rms": the hidden layers. Never the logits, whose scale carries the confidence.
* "batch": all layers, the logits too (unless `norm_logits` is off: it costs much, because a logit
  of mean 0 and variance 1 over the batch cannot be sure); for evaluation with running averages.
* "weight": all layers, likewise. It looks at no activation.
* "none".

Every example stands for itself but under "batch", where the rows of a training batch meet.
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
ON_THE_LOGITS = ("batch", "weight")  # if `norm_logits`
SIZES = ("features", "num_layers")  # of the config: what must be positive


class Perceptron(nn.Module):
    """Layers of a linear map, a norm, gain and bias, and rectified units; then the logits.

    Attributes:
      features: units of each hidden layer.
      num_layers: hidden layers.
      num_classes: logits.
      norm: of the summed inputs, see `lnjax.Dense`.
      norm_logits: whether "batch" and "weight" are on the logits, too.
      momentum, unbiased: of "batch", see `lnjax.Normalize`; other norms have no such thing.
      dtype: of products and activations.
    """

    features: int
    num_layers: int
    num_classes: int
    norm: Norm
    norm_logits: bool
    momentum: float
    unbiased: bool
    dtype: DType

    @nn.compact
    def __call__(self, images: Array, mask: Array, train: bool) -> Array:
        """Logits (B, classes) of `images` (B, ...) with pixels from 0 to 255."""
        x = images.reshape(images.shape[0], -1).astype(self.dtype) / 255
        for i in range(self.num_layers):
            x = nn.relu(self._layer(self.features, self.norm, f"hidden_{i}", x, mask, train))
        norm = self.norm if self.norm_logits and self.norm in ON_THE_LOGITS else None
        return self._layer(self.num_classes, norm, "logits", x, mask, train)

    def _layer(
        self, features: int, norm: Norm, name: str, x: Array, mask: Array, train: bool
    ) -> Array:
        of_batch: dict[str, Any] = {"momentum": self.momentum, "unbiased": self.unbiased}
        layer = lnjax.Dense(
            features,
            norm=norm,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name=name,
            **(of_batch if norm == "batch" else {}),
        )
        return layer(x, mask=mask, use_running_average=not train)


@dataclasses.dataclass(frozen=True)
class PiMnistTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `Perceptron` and the configs."""

    num_classes: int
    features: int
    num_layers: int
    norm: Norm
    norm_logits: bool
    momentum: float
    unbiased: bool
    dtype: str
    name: str = "pi_mnist"

    @property
    def network(self) -> Perceptron:
        return Perceptron(
            features=self.features,
            num_layers=self.num_layers,
            num_classes=self.num_classes,
            norm=self.norm,
            norm_logits=self.norm_logits,
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
        """Nats per image. Batch: see `lnjax.data.image_batches`."""
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


def make_task(config: Any, spec: Mapping[str, Any]) -> PiMnistTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    if config.norm not in NORMS:
        raise ValueError(f"norm={config.norm!r} is not known; pi_mnist has {', '.join(NORMS)}")
    check_dtype(config)
    check_positive(config, SIZES)
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum={config.momentum} must be at least 0 and below 1")
    return PiMnistTask(
        num_classes=spec["num_classes"],
        features=config.features,
        num_layers=config.num_layers,
        norm=None if config.norm == "none" else config.norm,
        norm_logits=config.norm_logits,
        momentum=config.momentum,
        unbiased=config.unbiased,
        dtype=config.dtype,
    )


def make_data(config: Any) -> TaskData:
    """Prepares the digits (once per machine); validation is "eval", and there is "test"."""
    check_dtype(config)
    # Here, not at the head: a trained network needs no data set and no reader.
    from lnjax.data import image_batches, preparation
    from lnjax.data.digits import Digits

    prepared = preparation.prepare(Digits, config.data, manual_dir=config.data_dir or None)
    return TaskData(
        **image_batches.of_a_run(
            prepared,
            seed=config.seed,
            batch_size=config.batch_size,
            eval_batch_size=config.eval_batch_size,
        )
    )

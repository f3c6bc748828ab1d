"""Tasks small enough to know the answer: a linear one, and nets with batch and layer norm."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lnjax.training.task import LossAux, TaskDefaults

D, H, MOMENTUM = 3, 8, 0.9


def sums_of(errors, mask, train):
    """Squared errors (B,) of real rows, their number, and whether this was training."""
    return {
        "loss": (jnp.sum(jnp.where(mask, errors, 0.0)), jnp.sum(mask, dtype=errors.dtype)),
        "train": (jnp.float32(train), jnp.float32(1)),
    }


@dataclasses.dataclass(frozen=True)
class Linear(TaskDefaults):
    """Mean squared error of x @ w + b, from zeros; `noise` is added to x from a random stream."""

    rng_streams: tuple[str, ...] = ()
    noise: float = 0.0
    name: str = "linear"

    def init(self, rng, batch):
        return {"params": {"w": jnp.zeros(D), "b": jnp.zeros(())}}

    def loss(self, params, model_state, batch, rngs, *, train):
        x = batch["x"]
        if "noise" in rngs:
            x = x + self.noise * jax.random.normal(rngs["noise"], x.shape)
        errors = jnp.square(x @ params["w"] + params["b"] - batch["y"])
        sums = sums_of(errors, batch["mask"], train)
        return sums["loss"][0] / sums["loss"][1], LossAux(sums, model_state)


class Net(nn.Module):
    norm: str

    @nn.compact
    def __call__(self, x, mask, train):
        # No bias: batch norm makes its gradient rounding alone, which Adam would enlarge to steps.
        x = nn.Dense(H, use_bias=False)(x)
        if self.norm == "batch":
            norm = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)
            x = norm(x, mask=mask[:, None])
        else:
            x = nn.LayerNorm()(x)
        return nn.Dense(1)(nn.relu(x))[:, 0]


@dataclasses.dataclass(frozen=True)
class Normalized(TaskDefaults):
    """A net with `norm` "batch" or "layer"; a row's output reaches `evaluate`."""

    norm: str
    name: str = "normalized"

    def init(self, rng, batch):
        return Net(self.norm).init(rng, batch["x"], batch["mask"], True)

    def loss(self, params, model_state, batch, rngs, *, train):
        y, new = Net(self.norm).apply(
            {"params": params, **model_state},
            batch["x"],
            batch["mask"],
            train,
            mutable=list(model_state) if train else [],
        )
        sums = sums_of(jnp.square(y - batch["y"]), batch["mask"], train)
        return sums["loss"][0] / sums["loss"][1], LossAux(sums, {**model_state, **new})


def make_batch(seed: int, rows: int = 16, real: int | None = None) -> dict[str, Any]:
    """Rows of which the first `real` are; y is a function of x that a net can learn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, D)).astype(np.float32)
    y = (x[:, 0] - 2 * x[:, 1] + 0.5).astype(np.float32)
    return {"x": x, "y": y, "mask": np.arange(rows) < (rows if real is None else real)}

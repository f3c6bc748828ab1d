"""Batch norm against layer norm as the batch shrinks (paper 5 and 6.6): training, and its cause.

Batch norm has two modes: the statistics of the batch, which it is trained with, and running ones,
which it is used with. Layer norm has one. `train_perceptron` trains a small perceptron on the same
examples whatever the batch size, and scores it in both modes; `influence_of_companions` measures
what the other cases of a batch do to the outputs of one.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lnjax.nn import Dense
from lnjax.typing import Array, DType

Norm = Literal["layer", "rms", "batch"] | None

# Axes of `PerceptronCurves`.
SETS = ("train", "held_out", "test")
MODES = ("training", "test")


# What training carries, with leading axes (S, L): parameters, running statistics, Adam's moments.
State = tuple[Any, Any, Any]


class Examples(NamedTuple):
    """Images (N, D) floating point and labels (N,) of integers from 0."""

    images: np.ndarray
    labels: np.ndarray


class Split(NamedTuple):
    """Examples to train on, to choose the learning rate on, and to report."""

    train: Examples
    held_out: Examples
    test: Examples


def split_examples(
    images: Array, labels: Array, *, train: int, held_out: int, test: int, seed: int = 0
) -> Split:
    """Shuffles the examples and deals them into three sets; what is left over is left out.

    Args:
      images: (N, D).
      labels: (N,).
      train, held_out, test: how many examples of each.
      seed: of the shuffle, by NumPy.

    Raises:
      ValueError: fewer examples than asked for, or images and labels differ in number.

    >>> import numpy as np
    >>> parts = split_examples(np.eye(5), np.arange(5), train=2, held_out=1, test=1)
    >>> [len(part.labels) for part in parts]
    [2, 1, 1]
    >>> bool((parts.test.images.argmax(axis=1) == parts.test.labels).all())
    True
    """
    if len(images) != len(labels) or len(images) < train + held_out + test:
        raise ValueError(
            f"split_examples: {len(images)} images and {len(labels)} labels cannot be dealt into"
            f" {train} + {held_out} + {test} examples; expected at least so many of both"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    places = np.split(order, np.cumsum([train, held_out, test]))[:3]
    return Split(*(Examples(np.asarray(images)[i], np.asarray(labels)[i]) for i in places))


class Perceptron(nn.Module):
    """Two hidden layers of rectified units, each with a norm; the logits have none.

    Attributes:
      norm: of the summed inputs of the hidden layers, see `lnjax.Dense`.
      momentum: for batch norm, see `lnjax.Normalize`.
      unbiased: for batch norm, the variance over m - 1, as the paper has it at small batches.
      features: of each hidden layer.
      num_classes: logits.
      param_dtype: of all parameters.

    >>> import jax, jax.numpy as jnp
    >>> y, _ = Perceptron("layer").init_with_output(jax.random.key(0), jnp.ones((2, 3)), train=True)
    >>> y.shape
    (2, 10)
    """

    norm: Norm
    momentum: float = 0.0
    unbiased: bool = True
    features: int = 64
    num_classes: int = 10
    param_dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Logits (B, classes) of images (B, D); `train`: with the statistics of this batch.

        `mask` (B,), True = real: the others enter no statistics, and their logits say nothing.
        """
        x = images
        of_batch: dict[str, Any] = {"momentum": self.momentum, "unbiased": self.unbiased}
        for i in range(2):
            layer = Dense(
                self.features,
                norm=self.norm,
                param_dtype=self.param_dtype,
                name=f"hidden_{i}",
                **(of_batch if self.norm == "batch" else {}),
            )
            x = nn.relu(layer(x, mask=mask, use_running_average=not train))
        return Dense(self.num_classes, norm=None, param_dtype=self.param_dtype, name="logits")(x)


@dataclasses.dataclass(frozen=True)
class PerceptronCurves:
    """What `train_perceptron` measured.

    Attributes:
      norm, batch_size: of these runs.
      learning_rates: (L,).
      epochs: (P,) after which it was measured, 0 first.
      nll: (P, L, S, 3, 2) nats per example: for each learning rate and seed, on the three sets of
        `SETS` and in the two `MODES`: with the statistics of the batch, with the running ones.
        Without running statistics both modes are one.
      error: likewise the share of examples that are not given the likeliest label.
    """

    norm: Norm
    batch_size: int
    learning_rates: np.ndarray
    epochs: np.ndarray
    nll: np.ndarray
    error: np.ndarray

    @property
    def chosen(self) -> int:
        """The learning rate, as an index: least NLL on the held-out set, test mode, at the end.

        Of the mean over seeds; a run that diverged counts as infinitely bad.
        """
        nll = self.nll[-1, :, :, SETS.index("held_out"), MODES.index("test")].mean(axis=1)
        return int(np.argmin(np.where(np.isfinite(nll), nll, np.inf)))


def train_perceptron(
    data: Split,
    *,
    norm: Norm,
    batch_size: int,
    learning_rates: Sequence[float],
    num_seeds: int = 3,
    num_epochs: int = 8,
    features: int = 64,
    memory: int = 1280,
    unbiased: bool = True,
) -> PerceptronCurves:
    """Trains a `Perceptron` by Adam: each learning rate with each seed, all side by side.

    A seed gives the initial parameters and the order of the examples, and these are the same for
    all norms, batch sizes and learning rates: the runs see the same examples in the same order.

    Args:
      data: a multiple of `batch_size` in each set, so that each batch is whole; labels below 10.
        The dtype of the images is that of the parameters.
      norm: "layer", "rms", "batch" or None.
      batch_size: examples per step.
      learning_rates: of Adam, constant.
      num_seeds: S, seeds 0 to S - 1.
      num_epochs: passes through data.train.
      features: of each hidden layer.
      memory: how many examples the running statistics of batch norm reach back over: their
        momentum is 1 - batch_size / memory.
      unbiased: of batch norm, see `Perceptron`.

    Returns:
      `PerceptronCurves` with P = num_epochs + 1.

    Raises:
      ValueError: a set is no multiple of `batch_size`, or `memory` is below it.

    >>> import numpy as np
    >>> images = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    >>> data = split_examples(images, np.arange(8) % 2, train=4, held_out=2, test=2)
    >>> curves = train_perceptron(data, norm="layer", batch_size=2, learning_rates=[1e-2],
    ...                           num_seeds=1, num_epochs=20)
    >>> curves.nll.shape, bool(curves.nll[-1, 0, 0, 0, 0] < curves.nll[0, 0, 0, 0, 0])
    ((21, 1, 1, 3, 2), True)
    """
    for name, part in zip(SETS, data, strict=True):
        if batch_size < 1 or len(part.labels) % batch_size:
            raise ValueError(
                f"train_perceptron: the {len(part.labels)} examples of {name!r} make no whole"
                f" number of batches of {batch_size}; cut the set or choose another batch size"
            )
    if memory < batch_size:
        raise ValueError(f"memory={memory} examples is less than a batch of {batch_size}")
    # Only batch norm: the others would compile once more for each momentum.
    momentum = 1 - batch_size / memory if norm == "batch" else 0.0
    dtype = data.train.images.dtype
    network = Perceptron(norm, momentum, unbiased, features, param_dtype=dtype)
    rates = jnp.asarray(learning_rates, dtype)
    inits = [
        init_perceptron(network, data.train.images.shape[-1], seed=s) for s in range(num_seeds)
    ]
    state = _state(jax.tree.map(lambda *leaves: np.stack(leaves), *inits), rates)
    order = example_order(len(data.train.labels), num_seeds, num_epochs)
    measured = [_measure(network, batch_size, state, data)]
    for epoch in range(num_epochs):
        batches = order[:, epoch].reshape(num_seeds, -1, batch_size)
        state = _train(network, state, batches, rates, *data.train)
        measured.append(_measure(network, batch_size, state, data))
    nll, error = (np.stack(values) for values in zip(*measured, strict=True))
    epochs = np.arange(num_epochs + 1)
    return PerceptronCurves(norm, batch_size, np.asarray(rates), epochs, nll, error)


def example_order(num_examples: int, num_seeds: int, num_epochs: int) -> np.ndarray:
    """The order of the examples, (S, epochs, N): one shuffle per epoch, by NumPy, from the seed.

    >>> example_order(4, num_seeds=1, num_epochs=2).shape
    (1, 2, 4)
    """
    orders = []
    for seed in range(num_seeds):
        rng = np.random.default_rng(seed)
        orders.append([rng.permutation(num_examples) for _ in range(num_epochs)])
    return np.array(orders, int).reshape(num_seeds, num_epochs, num_examples)


def init_perceptron(network: Perceptron, in_features: int, *, seed: int = 0) -> Any:
    """Variables of a perceptron as before training; kernels are normal of variance 2 / inputs (He).

    By NumPy: JAX takes longer to compile its random numbers than all else here takes.

    >>> variables = init_perceptron(Perceptron("batch", features=4), 3)
    >>> jax.tree.map(np.shape, variables["batch_stats"]["hidden_0"])
    {'mean': (4,), 'var': (4,)}
    """
    rng = np.random.default_rng([seed, 0])
    images = jnp.zeros((1, in_features), network.param_dtype)
    shapes = jax.eval_shape(partial(network.init, train=True), jax.random.key(0), images)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key == "kernel":
            deviation = np.sqrt(2 / leaf.shape[0])
            return (deviation * rng.normal(size=leaf.shape)).astype(leaf.dtype)
        return np.full(leaf.shape, float(path[-1].key in ("scale", "var")), leaf.dtype)

    return jax.tree.map_with_path(fill, shapes)


@jax.jit
def _state(variables: Any, rates: Array) -> State:
    """The variables (S, ...) for each of rates (L,), and Adam's state."""

    def start(variables: Any, rate: Array) -> State:
        model_state = {name: value for name, value in variables.items() if name != "params"}
        return variables["params"], model_state, _adam(rate).init(variables["params"])

    each_rate = jax.vmap(start, (None, 0))
    return jax.vmap(each_rate, (0, None))(variables, rates)


def _adam(rate: Any) -> optax.GradientTransformation:
    # As one vector: half the work of the compiler, and fewer steps for so small a network.
    return optax.flatten(optax.adam(rate))


@partial(jax.jit, static_argnames="network")
def _train(
    network: Perceptron, state: State, batches: Array, rates: Array, images: Array, labels: Array
) -> State:
    """One epoch: state (S, L, ...), batches (S, steps, m) of places, rates (L,)."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)

    def run(state: State, batches: Array, rate: Array) -> State:
        def step(state: State, places: Array) -> tuple[State, None]:
            params, model_state, opt_state = state

            def loss(params: Any) -> tuple[Array, Any]:
                logits, new = network.apply(
                    {"params": params, **model_state},
                    images[places],
                    train=True,
                    mutable=list(model_state),
                )
                return jnp.mean(_nll(logits, labels[places])), new

            grads, new = jax.grad(loss, has_aux=True)(params)
            updates, opt_state = _adam(rate).update(grads, opt_state)
            return (optax.apply_updates(params, updates), new, opt_state), None

        return jax.lax.scan(step, state, batches)[0]

    return jax.vmap(jax.vmap(run, (0, None, 0)), (0, 0, None))(state, batches, rates)


def _nll(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _measure(
    network: Perceptron, batch_size: int, state: State, data: Split
) -> tuple[np.ndarray, np.ndarray]:
    """NLL and error, each (L, S, 3, 2)."""
    variables = {"params": state[0], **state[1]}
    # What looks at no other case has one mode, and one program for all batch sizes.
    size = batch_size if network.norm == "batch" else None
    images, labels = (np.concatenate(arrays) for arrays in zip(*data, strict=True))
    ends = np.cumsum([len(part.labels) for part in data])[:-1]
    means = []
    for scores in _scores(network, size, variables, images, labels):
        parts = np.split(np.asarray(scores), ends, axis=-1)
        means.append(np.stack([part.mean(axis=-1) for part in parts], axis=2).swapaxes(0, 1))
    return means[0], means[1]


@partial(jax.jit, static_argnames=("network", "batch_size"))
def _scores(
    network: Perceptron, batch_size: int | None, variables: Any, images: Array, labels: Array
) -> tuple[Array, Array]:
    """NLL and error of each example, both (S, L, 2, N): the modes, see `MODES`."""

    def run(variables: Any) -> tuple[Array, Array]:
        running: Any = network.apply(variables, images, train=False)
        if batch_size is None:
            logits = jnp.stack([running, running])
        else:

            def of_batch(images: Array) -> Array:
                # Training mode updates the running statistics: into what is thrown away
                return network.apply(variables, images, train=True, mutable=["batch_stats"])[0]

            # Each set is a whole number of batches: none holds examples of two sets.
            batches = images.reshape(-1, batch_size, images.shape[-1])
            logits = jnp.stack([jax.vmap(of_batch)(batches).reshape(running.shape), running])
        wrong = jnp.argmax(logits, axis=-1) != labels[None]
        return _nll(logits, jnp.stack([labels, labels])), wrong

    return jax.vmap(jax.vmap(run))(variables)

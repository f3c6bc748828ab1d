"""Who is timed: each contender is a layer over a sequence, by lnjax or by somebody else.

A contender is a function `(workload) -> Runner`; a `Runner` holds the compiled forward pass and the
compiled value and gradient, with respect to all parameters *and* the inputs. Those whose package is
not installed raise ImportError.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from timing import NOTHING, digits, interleaved

import lnjax


@dataclass(frozen=True)
class Workload:
    """A recurrent layer over a batch of sequences, float32."""

    steps: int  # T
    batch: int  # B
    features: int  # H
    inputs: int  # D
    cell: str = "lstm"

    @property
    def gates(self) -> int:
        return {"lstm": 4, "gru": 3, "simple": 1}[self.cell]

    def array(self) -> np.ndarray:
        """The inputs, (T, B, D)."""
        shape = (self.steps, self.batch, self.inputs)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)


TURN = 0.05  # seconds: a shorter pass is run again within its turn

# The sizes of the paper's own experiments, and two that are hard for a compiler.
WORKLOADS = {
    "A1": Workload(500, 8, 400, 3),  # handwriting, first layer
    "A2": Workload(500, 8, 400, 400),  # handwriting, the layers above
    "B": Workload(30, 128, 1024, 300, "gru"),  # order embeddings, skip-thoughts
    "C": Workload(800, 64, 240, 240),  # attentive reader
    "D": Workload(64, 128, 256, 256),  # DRAW
    "E": Workload(100, 1, 128, 128),  # one short sequence
}


@dataclass
class Runner:
    """Compiled passes; each call ends when the results are there."""

    forward: Callable[[], Any]
    gradient: Callable[[], Any]
    compile_seconds: tuple[float, float] | None = None
    temporary_bytes: int | None = None  # of value and gradient
    spins: bool = False  # threads of its own stay busy after a call
    text: str | None = None  # of value and gradient, compiled by XLA


def jax_runner(apply: Callable[..., jax.Array], params: Any, xs: jax.Array) -> Runner:
    """Of `apply(params, xs) -> ys`; the loss is the sum of squares of ys."""

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(apply(params, xs).astype(jnp.float32)))

    began = time.perf_counter()
    forward = jax.jit(apply).lower(params, xs).compile()
    half = time.perf_counter()
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, xs).compile()
    seconds = (half - began, time.perf_counter() - half)
    return Runner(
        lambda: jax.block_until_ready(forward(params, xs)),
        lambda: jax.block_until_ready(gradient(params, xs)),
        seconds,
        gradient.memory_analysis().temp_size_in_bytes,
        text=gradient.as_text(),
    )


@lru_cache(maxsize=1)
def device_array(workload: Workload) -> jax.Array:
    """The inputs, which many contenders share."""
    return jnp.asarray(workload.array())


def linen_runner(layer: nn.Module, workload: Workload) -> Runner:
    """Of a time-major Linen layer."""
    xs = device_array(workload)
    variables = jax.jit(layer.init)(jax.random.key(0), xs[:1])
    return jax_runner(layer.apply, variables, xs)


# lnjax

CELLS = {"lstm": lnjax.LSTMCell, "gru": lnjax.GRUCell, "simple": lnjax.SimpleCell}


def of_lnjax(workload: Workload, norm: str | None = "layer", **options: Any) -> Runner:
    """`lnjax.RNN` over the cell of the workload."""
    dtype = options.pop("dtype", None)
    cell = CELLS[workload.cell](workload.features, norm=norm, dtype=dtype)
    return linen_runner(lnjax.RNN(cell, time_major=True, **options), workload)


# Flax: what a user composes, and the cells without a norm


def layer_norm(use_bias: bool = True) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_bias=use_bias)


class ComposedLSTM(nn.RNNCellBase):
    """An LN-LSTM as a user composes it of `Dense` and `LayerNorm`."""

    features: int
    num_feature_axes = 1

    @nn.compact
    def __call__(self, carry, x):
        c, h = carry
        summed = layer_norm(False)(nn.Dense(4 * self.features, use_bias=False)(h))
        summed += layer_norm()(nn.Dense(4 * self.features, use_bias=False)(x))
        i, f, g, o = jnp.split(summed, 4, -1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(layer_norm()(c))
        return (c, h), h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        zeros = jnp.zeros((*input_shape[:-1], self.features))
        return zeros, zeros


class ComposedGRU(nn.RNNCellBase):
    """An LN-GRU as a user composes it of `Dense` and `LayerNorm`."""

    features: int
    num_feature_axes = 1

    @nn.compact
    def __call__(self, h, x):
        width = self.features
        gates = layer_norm(False)(nn.Dense(2 * width, use_bias=False)(h))
        gates += layer_norm()(nn.Dense(2 * width, use_bias=False)(x))
        r, z = jnp.split(nn.sigmoid(gates), 2, -1)
        recurrent = layer_norm()(nn.Dense(width, use_bias=False)(h))
        n = jnp.tanh(layer_norm()(nn.Dense(width, use_bias=False)(x)) + r * recurrent)
        h = (1 - z) * h + z * n
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], self.features))


class ComposedSimple(nn.RNNCellBase):
    """A simple RNN whose summed inputs are normalized, composed of `Dense` and `LayerNorm`."""

    features: int
    num_feature_axes = 1

    @nn.compact
    def __call__(self, h, x):
        summed = nn.Dense(self.features, use_bias=False)(h)
        summed += nn.Dense(self.features, use_bias=False)(x)
        h = jnp.tanh(layer_norm()(summed))
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], self.features))


COMPOSED = {"lstm": ComposedLSTM, "gru": ComposedGRU, "simple": ComposedSimple}
PLAIN = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "simple": nn.SimpleCell}


def of_flax(workload: Workload, cells: dict[str, Any]) -> Runner:
    return linen_runner(nn.RNN(cells[workload.cell](workload.features), time_major=True), workload)


class ComposedNNX(nnx.Module):
    """`ComposedLSTM` in NNX."""

    num_feature_axes = 1

    def __init__(self, inputs: int, features: int, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        norm = partial(nnx.LayerNorm, epsilon=1e-5, rngs=rngs)
        self.features = features
        self.recurrent, self.input = linear(features, 4 * features), linear(inputs, 4 * features)
        self.norm_h, self.norm_x = norm(4 * features, use_bias=False), norm(4 * features)
        self.norm_c = norm(features)

    def __call__(self, carry, x):
        c, h = carry
        summed = self.norm_h(self.recurrent(h)) + self.norm_x(self.input(x))
        i, f, g, o = jnp.split(summed, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(self.norm_c(c))
        return (c, h), h

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        zeros = jnp.zeros((*input_shape[:-1], self.features))
        return zeros, zeros


def of_nnx(workload: Workload) -> Runner:
    """Flax NNX: the composed LSTM under `flax.nnx.RNN`."""
    if workload.cell != "lstm":
        raise ImportError("written for the LSTM alone")
    cell = ComposedNNX(workload.inputs, workload.features, nnx.Rngs(0))
    layer = nnx.RNN(cell, time_major=True, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def apply(params, xs):
        return nnx.merge(graph, params, rest)(xs)

    return jax_runner(apply, params, device_array(workload))


# Keras


def of_keras(workload: Workload) -> Runner:
    """Keras 3 on JAX: its own LSTM or GRU, without a norm."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    kinds = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "simple": keras.layers.SimpleRNN}
    layer = kinds[workload.cell](workload.features, return_sequences=True)
    xs = jnp.asarray(workload.array().swapaxes(0, 1))
    layer.build(xs.shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def apply(params, xs):
        return layer.stateless_call(params, fixed, xs)[0]

    return jax_runner(apply, [variable.value for variable in layer.trainable_variables], xs)


# PyTorch


def torch_runner(run: Callable[[Any], Any], params: list[Any], xs: Any) -> Runner:
    import torch

    def forward():
        with torch.no_grad():
            return run(xs)

    def gradient():
        loss = run(xs).square().sum()
        return loss.item(), torch.autograd.grad(loss, [*params, xs])

    return Runner(forward, gradient, spins=True)


def of_torch(workload: Workload) -> Runner:
    """PyTorch's own layer, without a norm."""
    import torch

    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "simple": torch.nn.RNN}
    layer = kinds[workload.cell](workload.inputs, workload.features)
    xs = torch.from_numpy(workload.array()).requires_grad_()
    return torch_runner(lambda xs: layer(xs)[0], list(layer.parameters()), xs)


def of_torchscript(workload: Workload) -> Runner:
    """PyTorch: LN-LSTM and LN-GRU, the loop over time compiled by TorchScript."""
    import torch
    from torchscript import LAYERS

    layer = torch.jit.script(LAYERS[workload.cell](workload.inputs, workload.features))
    xs = torch.from_numpy(workload.array()).requires_grad_()
    runner = torch_runner(layer, list(layer.parameters()), xs)
    for _ in range(3):  # TorchScript compiles what it saw run
        runner.gradient()
        runner.forward()
    return runner


def of_floor(workload: Workload) -> Runner:
    """The products alone, in PyTorch's BLAS with outputs allocated before: nothing else."""
    import torch

    size, width, inputs = workload.features, workload.gates * workload.features, workload.inputs
    rows = workload.steps * workload.batch
    h, kernel = torch.randn(workload.batch, size), torch.randn(size, width)
    transposed = kernel.t().contiguous()
    one, back = torch.empty(workload.batch, width), torch.empty(workload.batch, size)
    d_one = torch.randn(workload.batch, width)
    xs, hs = torch.randn(rows, inputs), torch.randn(rows, size)
    input_kernel, all_summed = torch.randn(inputs, width), torch.empty(rows, width)
    d_kernel, d_input = torch.empty(size, width), torch.empty(inputs, width)
    d_xs = torch.empty(rows, inputs)

    def forward():
        torch.mm(xs, input_kernel, out=all_summed)
        for _ in range(workload.steps):
            torch.mm(h, kernel, out=one)

    def gradient():
        forward()
        for _ in range(workload.steps):
            torch.mm(d_one, transposed, out=back)
        torch.mm(hs.t(), all_summed, out=d_kernel)
        torch.mm(xs.t(), all_summed, out=d_input)
        torch.mm(all_summed, input_kernel.t(), out=d_xs)

    return Runner(forward, gradient, spins=True)


CONTENDERS: dict[str, Callable[[Workload], Runner]] = {
    "lnjax": of_lnjax,
    "lnjax, scan": partial(of_lnjax, implementation="scan"),
    "lnjax, rms": partial(of_lnjax, norm="rms"),
    "lnjax, no norm": partial(of_lnjax, norm=None),
    "lnjax, bfloat16": partial(of_lnjax, dtype=jnp.bfloat16),
    "Flax composition": partial(of_flax, cells=COMPOSED),
    "Flax NNX composition": of_nnx,
    "Flax, no norm": partial(of_flax, cells=PLAIN),
    "Keras, no norm": of_keras,
    "PyTorch, no norm": of_torch,
    "TorchScript": of_torchscript,
    "floor": of_floor,
}
OURS, COMPOSITION, NO_NORM = "lnjax", "Flax composition", "Flax, no norm"


# What the scripts share


def add_workloads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workloads",
        type=named_workloads,
        default=",".join(WORKLOADS),
        help=f"comma list of {', '.join(WORKLOADS)} (default all)",
    )


def named_workloads(text: str) -> dict[str, Workload]:
    return {name: WORKLOADS[name] for name in known_names(text, ",", WORKLOADS)}


def known_names(text: str, separator: str, known: Iterable[str]) -> list[str]:
    """The names in a list on the command line, each of which must be known."""
    names = [name.strip() for name in text.split(separator) if name.strip()]
    known = list(known)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {f'{separator} '.join(known)}")
    return names


def build(
    contenders: Mapping[str, Callable[[], Runner]],
) -> tuple[dict[str, Runner], dict[str, str]]:
    """The runners by name, and why the others are absent."""
    runners, absent = {}, {}
    for name, make in contenders.items():
        try:
            runners[name] = make()
        except ImportError as error:
            absent[name] = str(error)
    return runners, absent


def absence(absent: Mapping[str, str]) -> str:
    """A paragraph about those that are absent, if there are any."""
    reasons = "; ".join(f"{name} ({reason})" for name, reason in absent.items())
    return f"\n\nAbsent: {reasons}." if reasons else ""


def time_passes(
    runners: Mapping[str, Runner],
    args: argparse.Namespace,
    passes: tuple[str, ...] = ("gradient", "forward"),
) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of a call, by pass and name; see `timing.interleaved`."""
    calls = {
        (which, name): getattr(runner, which)
        for which in passes
        for name, runner in runners.items()
    }
    pause = args.pause if any(runner.spins for runner in runners.values()) else 0.0
    times = interleaved(calls, args.rounds, args.seconds, pause=pause, turn=TURN)
    return {which: {name: times[which, name] for name in runners} for which in passes}


def mebibytes(size: int | None) -> str:
    return NOTHING if size is None else digits(size / 2**20)


def title(name: str, workload: Workload) -> str:
    """The heading of a workload's table."""
    sizes = f"T {workload.steps}, B {workload.batch}, H {workload.features}, D {workload.inputs}"
    return f"\n## {name}: {workload.cell.upper()}, {sizes}\n"

r"""The LSTM with recurrent batch normalization (Cooijmans et al. 2017): the rival of LN.

.. math::
    (i, f, g, o)_t &= \mathrm{BN}_t(h_{t-1} W_h) \odot s_h + \mathrm{BN}_t(x_t W_x) \odot s_x + b \\
    c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
    h_t &= \sigma(o_t) \odot \tanh(\mathrm{BN}_t(c_t) \odot s_c + b_c)

BN standardizes each unit over the batch. Its statistics belong to a time step, counted for each row
from its first real one:

* In training they are those of the mini-batch at that step, over the rows that are real. Padding is
  left out, and rows are aligned first (gaps closed, with `reverse` each row from its true end), so
  that rows are compared at the same count of steps.
* For evaluation (`use_running_average`) they are population statistics, kept for each of the first
  `max_steps` steps in the collection ``batch_stats``: the mean over the batches seen so far, and
  once that is slower than `momentum`, the moving average. Rows do not see one another then.
* Beyond the longest step seen in training, evaluation takes the statistics of that longest step.
  (Cooijmans et al. propose the same.) Training steps from `max_steps` on are normalized by their
  batch and leave no population statistics.

Conventions: gains 0.1 at the start (with 1 the gradient of tanh vanishes); one bias, and one for
the cell; gates i, f, g, o; biased variance; epsilon 1e-5 inside the root. The carry (c, h, t) has
the number of steps that each row has behind it, t (B,), so that a stream can go on in pieces; it
is float32, as the counts in ``batch_stats`` are, so that every leaf can be differentiated. In
training the pieces of a stream must have equal counts in all rows; where they have not, a position
of the loop counts as the step of the row that is furthest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.base import Cell, Weights
from lnjax.cells.lstm import gates
from lnjax.cells.running import (
    NO_NOISE,
    Implementation,
    Noise,
    add_bias,
    as_arrays,
    as_carry,
    check_choice,
    check_sequence,
    mix,
    product,
    recurrent_product,
)
from lnjax.ops import (
    batch_statistics,
    run_order,
    scan_sequence,
    select,
    take_steps,
    zero_padding,
)
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, DType, PRNGKey

BatchNormLSTMCarry = tuple[Array, Array, Array]  # c and h (B, H), t (B,) float32
Statistics = tuple[Array, Array]  # mean and variance, each (N,) or (B, N)


class BatchNormStatistics(NamedTuple):
    """Population statistics of the first S time steps."""

    mean_x: Array  # (S, 4H)
    var_x: Array  # (S, 4H)
    mean_h: Array  # (S, 4H)
    var_h: Array  # (S, 4H)
    mean_c: Array  # (S, H)
    var_c: Array  # (S, H)
    count: Array  # (S,) float32, the batches that have gone into each step


class BatchNormLSTMParams(NamedTuple):
    """What the cell computes with: parameters as of an LSTM with all norms, and statistics."""

    kernel: Array  # (D, 4H)
    recurrent_kernel: Array  # (H, 4H)
    bias: Array  # (4H,)
    scale_x: Array  # (4H,)
    scale_h: Array  # (4H,)
    scale_c: Array  # (H,)
    bias_c: Array  # (H,)
    statistics: BatchNormStatistics


def batch_norm_lstm(
    params: BatchNormLSTMParams,
    xs: Array,
    carry: BatchNormLSTMCarry | None = None,
    *,
    mask: Array | None = None,
    use_running_average: bool,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    dtype: DType | None = None,
    noise: Noise = NO_NOISE,
    reverse: bool = False,
    unroll: int = 1,
    implementation: Implementation = "auto",
) -> tuple[BatchNormLSTMCarry, Array, BatchNormStatistics]:
    """Runs the cell over a time-major sequence.

    Args:
      params: a `BatchNormLSTMParams`.
      xs: (T, B, D); further batch axes may follow B, all of them are one batch to the statistics.
      carry: initial (c, h, t); None means zeros.
      mask: (T, B) bool, True = real. A step that is not real holds the carry and outputs zero.
      use_running_average: True for evaluation.
      momentum: the share of the old population statistics that a batch leaves, at most.
      epsilon, dtype, noise, reverse, unroll, implementation: see `lnjax.lstm`.

    Returns:
      The final carry, the outputs (T, B, H), and the new population statistics (in evaluation the
      old ones).

    Raises:
      ValueError: `implementation` is not known, or a shape or dtype is not one of those above.
    """
    check_choice("implementation", implementation, ("auto", "scan"))
    params, xs = as_arrays(params, xs)
    check_sequence(params, xs, mask, noise, ("c", "h", "t"))
    if xs.ndim < 3:
        raise ValueError(f"inputs {xs.shape[1:]} have no batch axis to take statistics over")
    batch = xs.shape[1:-1]
    t = jnp.zeros(batch) if carry is None else jnp.asarray(carry[2])
    if t.shape != batch:
        raise ValueError(f"t of the carry must have the shape {batch}, got {t.shape}")
    state = as_carry(None if carry is None else carry[:2], ("c", "h"), batch, params)
    carry = (*state, t.astype(statistics_dtype(t.dtype)))  # half precision stops counting at 256
    # Every row from its first real step on, in the order in which it is run.
    order = None if mask is None and not reverse else run_order(xs.shape[:-1], mask, reverse)
    xs = take_steps(zero_padding(xs, mask), order)
    real = jnp.ones(xs.shape[:-1], bool) if mask is None else take_steps(mask, order)
    shape = (*xs.shape[:-1], params.recurrent_kernel.shape[0])
    hold = [None, None]
    if noise.hold is not None:
        hold = [
            None if share is None else take_steps(jnp.broadcast_to(share, shape), order)
            for share in noise.hold[:2]
        ]
    summed_x = product(xs, params.kernel, dtype)
    of_batch_x = None if use_running_average else jax.vmap(_over_batch)(summed_x, real)

    def step(carry: BatchNormLSTMCarry, inputs: Any) -> tuple[BatchNormLSTMCarry, Any]:
        c, h, t = carry
        summed_x, of_batch_x, real, (hold_c, hold_h) = inputs
        summed_h = recurrent_product(h, params.recurrent_kernel, dtype, noise.dropout_h)
        if use_running_average:
            of_x, of_h, of_c = of_population(params.statistics, t)
        else:
            of_x, of_h, of_c = of_batch_x, _over_batch(summed_h, real), None
        i, f, g, o = gates_of(params, (summed_x, of_x), (summed_h, of_h), epsilon)
        new_c = f * c + i * g
        of_c = _over_batch(new_c, real) if of_c is None else of_c
        y = o * jnp.tanh(
            add_bias(_standardize(new_c, of_c, params.scale_c, epsilon), params.bias_c)
        )
        new_c, y = mix(hold_c, c, new_c), mix(hold_h, h, y)
        new_carry = (new_c.astype(c.dtype), y.astype(h.dtype), t + 1)
        new_carry = jax.tree.map(partial(select, real), new_carry, carry)
        # Without a real row -1, which is no time step.
        furthest = jnp.max(jnp.where(real, t, -1), initial=-1)
        seen = None if use_running_average else (of_h, of_c, furthest)
        return new_carry, (zero_padding(y, real), seen)

    carry, (ys, seen) = scan_sequence(
        step,
        carry,
        (summed_x, of_batch_x, real, hold),
        reverse=False,
        unroll=unroll,
        remat=implementation == "auto",
    )
    if order is not None:
        ys = take_steps(ys, jnp.argsort(order, axis=0))
    ys = ys.astype(xs.dtype if dtype is None else dtype)
    if seen is None or of_batch_x is None:
        return carry, ys, params.statistics
    of_h, of_c, steps = seen
    new = _updated(params.statistics, (*of_batch_x, *of_h, *of_c), steps, momentum)
    return carry, ys, jax.lax.stop_gradient(new)


def _over_batch(x: Array, real: Array) -> Statistics:
    """Mean and variance of each unit of x (B, N) over the rows that are real."""
    return batch_statistics(x, mask=real)


def of_population(statistics: BatchNormStatistics, t: Array) -> tuple[Statistics, ...]:
    """Those of the step that each row is at, t (B,), for x, h and c: (B, N) each."""
    seen = statistics.count > 0
    longest = jnp.max(jnp.where(seen, jnp.arange(len(seen)), 0))
    index = jnp.clip(t.astype(jnp.int32), 0, longest)
    rows = [values[index] for values in statistics[:-1]]
    return tuple(zip(rows[::2], rows[1::2], strict=True))


def gates_of(params: BatchNormLSTMParams, x: Any, h: Any, epsilon: float) -> tuple[Array, ...]:
    """i, f, g and o of the two sides of a step: summed inputs (B, 4H) and their statistics."""
    summed_x = _standardize(x[0], x[1], params.scale_x, epsilon)
    summed_h = _standardize(h[0], h[1], params.scale_h, epsilon)
    return gates(add_bias(summed_x + summed_h, params.bias))


def _standardize(x: Array, statistics: Statistics, scale: Array, epsilon: float) -> Array:
    mean, variance = (jnp.broadcast_to(value, x.shape) for value in statistics)
    normalized = (x - mean) * jax.lax.rsqrt(variance + epsilon)
    return normalized * jnp.broadcast_to(scale, x.shape).astype(x.dtype)


def _updated(
    statistics: BatchNormStatistics, of_batch: tuple[Array, ...], steps: Array, momentum: float
) -> BatchNormStatistics:
    """Brings what each position of a sequence saw, (T, N), into the time step `steps` (T,)."""
    count = statistics.count
    steps = jnp.where(steps < 0, count.shape[0], steps.astype(jnp.int32))  # which is dropped

    def gather(values: Array) -> Array:
        zeros = jnp.zeros((count.shape[0], *values.shape[1:]), values.dtype)
        return zeros.at[steps].add(values, mode="drop")

    # Rows that come with different pasts can bring a time step to several positions.
    positions = gather(jnp.ones(steps.shape))

    def blend(old: Array, values: Array) -> Array:
        mean = gather(values) / jnp.maximum(positions, 1)[:, None]
        share = jnp.maximum(1 - momentum, 1 / (count.astype(old.dtype) + 1))[:, None]
        blended = old + jnp.broadcast_to(share, old.shape) * (mean.astype(old.dtype) - old)
        return jnp.where(jnp.broadcast_to(positions[:, None] > 0, old.shape), blended, old)

    return BatchNormStatistics(
        *map(blend, statistics[:-1], of_batch), count=count + (positions > 0).astype(count.dtype)
    )


class BatchNormLSTMCell(Weights, Cell):
    """LSTM cell with recurrent batch norm; equations and conventions at the head of this module.

    Under `lnjax.RNN` as it is; under `flax.linen.RNN` with ``variable_carry="batch_stats"``, on
    variables that `lnjax.RNN` has initialized: Flax's scan cannot create what it carries.
    The collection ``batch_stats`` must be mutable in training, as for `flax.linen.BatchNorm`.

    Attributes:
      features: H.
      max_steps: S, the number of time steps that have population statistics of their own: the
        length of the longest training sequence, or less.
      use_running_average: False for training, True for evaluation.
      momentum: the share of the old population statistics that a batch leaves, at most.
      epsilon: added to the variances.
      dtype, param_dtype, kernel_init, recurrent_kernel_init, scale_init, bias_init, carry_init: see
        `NormalizedCell`; the carry's initializer is for c and h.

    >>> import jax, jax.numpy as jnp
    >>> import lnjax
    >>> cell = lnjax.BatchNormLSTMCell(features=4, max_steps=5)
    >>> xs = jax.random.normal(jax.random.key(0), (8, 5, 3))
    >>> variables = lnjax.RNN(cell).init(jax.random.key(1), xs)
    >>> ys, state = lnjax.RNN(cell).apply(variables, xs, mutable="batch_stats")
    >>> state["batch_stats"]["cell"]["count"].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    >>> trained = {"params": variables["params"], **state}
    >>> evaluation = lnjax.RNN(cell.clone(use_running_average=True))
    >>> evaluation.apply(trained, xs).shape
    (8, 5, 4)
    """

    carry_names: ClassVar[tuple[str, ...]] = ("c", "h", "t")
    features: int
    max_steps: int
    use_running_average: bool = False
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    recurrent_kernel_init: Callable[..., Array] = nn.initializers.orthogonal()
    scale_init: Callable[..., Array] = nn.initializers.constant(0.1)
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()
    carry_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def parameters(self, in_features: int) -> BatchNormLSTMParams:
        """Declares (or finds) parameters and statistics for inputs (..., in_features)."""
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} must be at least 1")
        gates, cell = 4 * self.features, self.features

        def population(name: str, start: Callable[..., Array], width: int) -> Array:
            return self.variable("batch_stats", name, start, (self.max_steps, width)).value

        return BatchNormLSTMParams(
            **self.weights(in_features, 4),
            scale_x=self.scale("scale_x", gates),
            scale_h=self.scale("scale_h", gates),
            scale_c=self.scale("scale_c", cell),
            bias_c=self.zeros("bias_c", cell),
            statistics=BatchNormStatistics(
                mean_x=population("mean_x", jnp.zeros, gates),
                var_x=population("var_x", jnp.ones, gates),
                mean_h=population("mean_h", jnp.zeros, gates),
                var_h=population("var_h", jnp.ones, gates),
                mean_c=population("mean_c", jnp.zeros, cell),
                var_c=population("var_c", jnp.ones, cell),
                count=self.variable(
                    "batch_stats", "count", jnp.zeros, self.max_steps, jnp.float32
                ).value,
            ),
        )

    def step(
        self,
        params: BatchNormLSTMParams,
        carry: BatchNormLSTMCarry,
        x: Array,
        noise: Noise = NO_NOISE,
    ) -> tuple[BatchNormLSTMCarry, Array]:
        """One step as a pure function: carry (c, h, t), x (B, D) -> new carry, output (B, H)."""
        carry, ys = self.run(params, carry, jnp.asarray(x)[None], noise=noise)
        return carry, ys[0]

    def run(
        self,
        params: BatchNormLSTMParams,
        carry: BatchNormLSTMCarry,
        xs: Array,
        mask: Array | None = None,
        noise: Noise = NO_NOISE,
        *,
        reverse: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ) -> tuple[BatchNormLSTMCarry, Array]:
        """The whole sequence, as a pure function: new statistics are left to `batch_norm_lstm`."""
        return self._function()(
            params,
            xs,
            carry,
            mask=mask,
            noise=noise,
            reverse=reverse,
            unroll=unroll,
            implementation=implementation,
        )[:2]

    def sequence(
        self,
        carry: BatchNormLSTMCarry,
        xs: Array,
        mask: Array | None = None,
        noise: Noise | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ) -> tuple[BatchNormLSTMCarry, Array]:
        """The whole sequence; in training the statistics of this module take in the batch."""
        params = self.parameters(xs.shape[-1])
        carry, ys, new = self._function()(
            params,
            xs,
            carry,
            mask=mask,
            noise=self.noise(xs.shape[0], xs.shape[1:-1]) if noise is None else noise,
            reverse=reverse,
            unroll=unroll,
            implementation=implementation,
        )
        if not self.use_running_average and not self.is_initializing():
            for name, values in new._asdict().items():
                self.put_variable("batch_stats", name, values)
        return carry, ys

    def __call__(
        self, carry: BatchNormLSTMCarry, inputs: Array, noise: Noise | None = None
    ) -> tuple[BatchNormLSTMCarry, Array]:
        """One step, which in training changes the statistics."""
        carry, ys = self.sequence(carry, jnp.asarray(inputs)[None], None, noise)
        return carry, ys[0]

    @nn.nowrap
    def _function(self) -> Callable[..., Any]:
        return partial(
            batch_norm_lstm,
            use_running_average=self.use_running_average,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )

    @nn.nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> BatchNormLSTMCarry:
        """The initial (c, h, t) for inputs of `input_shape` (..., D)."""
        c, h = super().initialize_carry(rng, input_shape)
        return c, h, jnp.zeros(input_shape[:-1], jnp.float32)

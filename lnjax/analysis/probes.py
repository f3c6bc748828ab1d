"""What goes on inside a recurrent cell: summed inputs, their statistics, gates, gradients in time.

A probe runs any cell one pure step after the other and keeps what the step had in hand: a^t of
Eq. 4 and of its relatives in Eq. 20-28, the mu^t and sigma^t that a norm would divide by, the
gates, the carry; `gradient_norms` adds how long dL/dh_t is. Nothing of a cell is written down here
a second time, and nothing is recorded inside the library when it is not probed. Whole models are in
`lnjax.analysis.layer_probes`.

Everything is time-major, (T, B, ...), stands at the time of its input, and is zero where the mask
is False; what is averaged over rows must leave these out: `mean_over_rows`.
"""

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lnjax.analysis.probe_loop import Inputs, Loop
from lnjax.cells import batch_norm_lstm, gru, lstm, simple_rnn
from lnjax.cells.batch_norm_lstm import BatchNormLSTMParams
from lnjax.cells.gru import GRUParams
from lnjax.cells.lstm import LSTMParams
from lnjax.cells.running import NO_NOISE, Noise, as_arrays, product, recurrent_product
from lnjax.cells.simple_rnn import SimpleParams
from lnjax.ops import batch_statistics, select, zero_padding
from lnjax.ops.normalization import statistics_dtype
from lnjax.typing import Array, PRNGKey, PyTree


class Inside(NamedTuple):
    """What one step has in hand; leaves (B, N). A cell that says nothing of it has empty ones."""

    summed: Mapping[str, Array] = {}
    sigmoid: Mapping[str, Array] = {}
    tanh: Mapping[str, Array] = {}


# look(params, cell, carry, inputs): of one step, from the carry (B, H) before it
Look = Callable[[Any, Any, PyTree, Inputs], Inside]


class Record(NamedTuple):
    """What `probe` returns: T steps of B rows, zero where `real` is False.

    Keys of `summed`, `mean` and `deviation` are what a norm of the cell takes jointly: "x" and "h",
    the input side and the recurrent side, and for the simple RNN also "sum"; of the GRU "x_rz",
    "x_n", "h_rz", "h_n". They are the same without a norm. Keys of `gates` and `saturation` are the
    names of the equations: i, f, g, o; r, z, n; and h of a simple RNN with tanh.
    """

    outputs: Array  # (T, B, H)
    carry: PyTree  # leaves (T, B, H), after the step
    norms: dict[str, Array]  # (T, B), Euclidean, of each leaf of the carry that is a vector
    summed: dict[str, Array]  # (T, B, N), before the norm
    mean: dict[str, Array]  # (T, B), mu of Eq. 3 over the N units
    deviation: dict[str, Array]  # (T, B), sigma of Eq. 3 over the N units, without an epsilon
    gates: dict[str, Array]  # (T, B, H), behind their sigmoid or tanh
    saturation: dict[str, Array]  # (T, B), the share of units in saturation
    real: Array  # (T, B) bool


class GradientNorms(NamedTuple):
    """What `gradient_norms` returns: how the loss depends on the state after each step."""

    norms: dict[str, Array]  # (T, B), Euclidean, for each leaf of the carry that is a vector
    log10: dict[str, Array]  # (T, B), the same where a float ends: 1e-300 and 1e300 are told apart
    real: Array  # (T, B) bool; where it is False, norms are 0


def probe(
    cell: Any,
    params: Any,
    xs: Array,
    carry: PyTree | None = None,
    *,
    mask: Array | None = None,
    noise: Noise = NO_NOISE,
    reverse: bool = False,
    sigmoid: tuple[float, float] = (0.05, 0.95),
    tanh: float = 0.9,
    look: Look | None = None,
) -> Record:
    """Runs a cell over a time-major sequence and records what is inside of each step.

    Args:
      cell: one of lnjax's, also inside its wrappers; any `flax.linen.RNNCellBase`; or a function
        ``step(params, carry, x) -> (carry, output)``. Its attributes (norm, sites, epsilon, ...)
        are those of the run. A cell of `lnjax.nnx` is probed as ``cell.linen()`` with
        ``cell.parameters()``.
      params: an `LSTMParams` and so on; of a Flax cell, its variables.
      xs: (T, B, D).
      carry: the initial carry; None: as the cell's `initialize_carry` makes it (from a constant
        key). A function needs one.
      mask: (T, B) bool, True = real. A step that is not real holds the carry.
      noise: dropout and zoneout masks of an lnjax cell, drawn beforehand.
      reverse: from the last step to the first; everything stays at the time of its input.
      sigmoid: a gate is saturated below the first or above the second; there its slope is less than
        a fifth of the greatest.
      tanh: a candidate is saturated where its absolute value is above; there its slope is less than
        a fifth of the greatest.
      look: for a cell of one's own, ``look(params, cell, carry, inputs) -> Inside`` of one step:
        carry before it, ``inputs.x`` (B, D). Default: for lnjax's parameters what they have; for
        others nothing, so that outputs, carry and norms remain.

    Returns:
      A `Record`. Moments are at least float32. The function may stand in jit, vmap and grad.

    Raises:
      ValueError: the mask does not fit the inputs, a threshold is out of range, a function has no
        carry, or noise is for a cell that takes none.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax.cells import LSTMCell, LSTMParams
    >>> cell = LSTMCell(features=5)
    >>> xs = jax.random.normal(jax.random.key(0), (7, 2, 3))
    >>> carry = cell.initialize_carry(jax.random.key(1), xs[0].shape)
    >>> params = LSTMParams(**cell.init(jax.random.key(2), carry, xs[0])["params"])
    >>> record = probe(cell, params, xs)
    >>> record.summed["h"].shape, record.deviation["h"].shape, sorted(record.saturation)
    ((7, 2, 20), (7, 2), ['f', 'g', 'i', 'o'])
    """
    low, high = sigmoid
    if not (0 <= low < high <= 1 and 0 <= tanh <= 1):
        raise ValueError(
            f"sigmoid={sigmoid!r}, tanh={tanh!r}: expected thresholds 0 <= low < high <= 1 and"
            " 0 <= tanh <= 1"
        )
    loop = Loop.of(cell, params, xs, carry, mask=mask, noise=noise, reverse=reverse)
    look = inside if look is None else look

    def step(carry: PyTree, inputs: Any) -> tuple[PyTree, Any]:
        seen = look(params, loop.cell, carry, loop.at(inputs))
        new_carry, y = loop.step(carry, inputs)
        return new_carry, (new_carry, loop.lengths(new_carry), y, seen)

    _, recorded = jax.lax.scan(step, loop.carry, loop.inputs)
    carries, norms, ys, seen = loop.in_order(recorded)
    moments = {name: _moments(values, loop.real) for name, values in seen.summed.items()}
    saturation = {
        name: _share((values < low) | (values > high), loop.real)
        for name, values in seen.sigmoid.items()
    }
    saturation |= {
        name: _share(jnp.abs(values) > tanh, loop.real) for name, values in seen.tanh.items()
    }
    return Record(
        outputs=ys,
        carry=carries,
        norms=norms,
        summed=seen.summed,
        mean={name: mean for name, (mean, _) in moments.items()},
        deviation={name: deviation for name, (_, deviation) in moments.items()},
        gates={**seen.sigmoid, **seen.tanh},
        saturation=saturation,
        real=loop.real,
    )


def gradient_norms(
    cell: Any,
    params: Any,
    xs: Array,
    carry: PyTree | None = None,
    *,
    loss: Callable[[Array], Array] | None = None,
    mask: Array | None = None,
    noise: Noise = NO_NOISE,
    reverse: bool = False,
    rng: PRNGKey | None = None,
) -> GradientNorms:
    """The length of dL/dh_t, and of dL/dc_t, for every time step t: exact, by one vjp per step.

    dL/dh_t is the derivative by the state after step t in every place where it goes: into the
    output of step t, where the output is that state, as it is for all cells here and in Flax, and
    into the steps after. The loop backwards carries a vector of length about 1 and the logarithm of
    its scale, so that a gradient is told from another where both would be 0 or infinite in a float.
    The rows of a batch share the scale: one that is smaller than the largest by more than a float
    can say is 0 (float32: a factor of 1e38).

    Args:
      cell, params, xs, carry, mask, noise, reverse: see `probe`.
      loss: ``loss(outputs) -> ()``, of the outputs (T, B, H), zero where the mask is False. None:
        the component of each row's last real output in a random direction, so that the gradient
        starts there with length 1, whatever the cell.
      rng: for that direction; None is a constant key.

    Returns:
      A `GradientNorms`, keyed as `Record.norms`.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax.cells import SimpleCell, SimpleParams
    >>> cell = SimpleCell(features=5)
    >>> xs = jax.random.normal(jax.random.key(0), (7, 2, 3))
    >>> params = SimpleParams(**cell.init(jax.random.key(2), jnp.zeros((2, 5)), xs[0])["params"])
    >>> gradients = gradient_norms(cell, params, xs)
    >>> gradients.norms["h"].shape, gradients.norms["h"][-1].round(5).tolist()
    ((7, 2), [1.0, 1.0])
    """
    loop = Loop.of(cell, params, xs, carry, mask=mask, noise=noise, reverse=reverse)

    def forward(carry: PyTree, inputs: Any) -> tuple[PyTree, tuple[PyTree, Array]]:
        new_carry, y = loop.step(carry, inputs)
        return new_carry, (carry, y)

    _, (carries, ys) = jax.lax.scan(forward, loop.carry, loop.inputs)
    if loss is None:
        rng = jax.random.key(0) if rng is None else rng
        d_ys = _last_in_a_direction(loop, ys, rng)
    else:
        d_ys = loop.as_run(jax.grad(loss)(loop.in_order(ys)))

    def backward(state: tuple[PyTree, Array], at: tuple[PyTree, Any, Array]) -> Any:
        d_carry, log_scale = state
        before, inputs, d_y = at
        d_y = zero_padding(d_y, loop.at(inputs).real)
        _, pull = jax.vjp(lambda carry: loop.step(carry, inputs), before)
        # Both parts at the scale of the larger one
        d_y, log_y = _unit(d_y)
        larger = jnp.maximum(log_scale, log_y)
        d_carry, d_y = _times(d_carry, log_scale - larger), _times(d_y, log_y - larger)
        d_carry, d_y = loop.join(d_carry, d_y)
        logs = {name: jnp.log(length) + larger for name, length in loop.lengths(d_carry).items()}
        (d_before,) = pull((d_carry, d_y))
        d_before, log_before = _unit(d_before)
        return (d_before, log_before + larger), logs

    zeros = jax.tree.map(jnp.zeros_like, loop.carry)
    start = zeros, jnp.full((), -jnp.inf, statistics_dtype(ys.dtype))
    _, logs = jax.lax.scan(backward, start, (carries, loop.inputs, d_ys), reverse=True)
    logs = {
        name: jnp.where(loop.real, loop.in_order(values), -jnp.inf) for name, values in logs.items()
    }
    return GradientNorms(
        norms={name: jnp.exp(values) for name, values in logs.items()},
        log10={name: values / jnp.log(10.0).astype(values.dtype) for name, values in logs.items()},
        real=loop.real,
    )


def mean_over_rows(values: Array, real: Array) -> Array:
    """The mean of values (T, B) over the rows that are real at each step, (T,); NaN for no row.

    >>> import jax.numpy as jnp
    >>> values, real = jnp.array([[1.0, 3.0], [5.0, 0.0]]), jnp.array([[True, True], [True, False]])
    >>> mean_over_rows(values, real).tolist()
    [2.0, 5.0]
    """
    return jnp.sum(jnp.where(real, values, 0), axis=1) / jnp.sum(real, axis=1)


@singledispatch
def inside(params: Any, cell: Any, carry: PyTree, inputs: Inputs) -> Inside:
    """What a step of the cell has in hand, by the type of its parameters: see `Look`."""
    return Inside()


@inside.register
def _(params: LSTMParams, cell: Any, carry: PyTree, inputs: Inputs) -> Inside:
    summed_x, summed_h = _sides(params, cell, carry[1], inputs)
    projected = lstm.project(params, summed_x, norm=cell.norm, epsilon=cell.epsilon)
    i, f, g, o = lstm.gates_of(params, summed_h, projected, norm=cell.norm, epsilon=cell.epsilon)
    return Inside({"x": summed_x, "h": summed_h}, {"i": i, "f": f, "o": o}, {"g": g})


@inside.register
def _(params: GRUParams, cell: Any, carry: PyTree, inputs: Inputs) -> Inside:
    summed_x, summed_h = _sides(params, cell, carry, inputs)
    projected = gru.project(params, summed_x, norm=cell.norm, epsilon=cell.epsilon)
    r, z, n = gru.gates_of(params, summed_h, projected, norm=cell.norm, epsilon=cell.epsilon)
    sides = (*gru.sides(summed_x), *gru.sides(summed_h))
    names = ("x_rz", "x_n", "h_rz", "h_n")
    return Inside(dict(zip(names, sides, strict=True)), {"r": r, "z": z}, {"n": n})


@inside.register
def _(params: SimpleParams, cell: Any, carry: PyTree, inputs: Inputs) -> Inside:
    summed_x, summed_h = _sides(params, cell, carry, inputs)
    summed = {"x": summed_x, "h": summed_h, "sum": summed_x + summed_h}
    if cell.activation is not jnp.tanh:
        return Inside(summed)
    projected = simple_rnn.project(params, summed_x, norm=cell.norm, epsilon=cell.epsilon)
    options = {"norm": cell.norm, "epsilon": cell.epsilon, "activation": cell.activation}
    (h,) = simple_rnn.update(params, (carry,), summed_h, projected, **options)
    return Inside(summed, tanh={"h": h})


@inside.register
def _(params: BatchNormLSTMParams, cell: Any, carry: PyTree, inputs: Inputs) -> Inside:
    params = jax.tree.map(jnp.asarray, params)
    summed_x, summed_h = _sides(params, cell, carry[1], inputs)
    if cell.use_running_average:
        of_x, of_h, _ = batch_norm_lstm.of_population(params.statistics, carry[2])
    else:
        of_x, of_h = (batch_statistics(summed, mask=inputs.real) for summed in (summed_x, summed_h))
    i, f, g, o = batch_norm_lstm.gates_of(params, (summed_x, of_x), (summed_h, of_h), cell.epsilon)
    return Inside({"x": summed_x, "h": summed_h}, {"i": i, "f": f, "o": o}, {"g": g})


def _sides(params: Any, cell: Any, h: Array, inputs: Inputs) -> tuple[Array, Array]:
    """The summed inputs of the two sides, x W_x and h W_h."""
    params, x = as_arrays(params, inputs.x)
    summed_x = product(x, params.kernel, cell.dtype)
    dropout_h = inputs.noise.dropout_h
    return summed_x, recurrent_product(h, params.recurrent_kernel, cell.dtype, dropout_h)


def _moments(summed: Array, real: Array) -> tuple[Array, Array]:
    """mu and sigma of Eq. 3 over the last axis, in two passes, at least float32."""
    summed = summed.astype(statistics_dtype(summed.dtype))
    mean = jnp.mean(summed, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(summed - mean), axis=-1)
    return zero_padding(mean[..., 0], real), zero_padding(jnp.sqrt(variance), real)


def _share(saturated: Array, real: Array) -> Array:
    return zero_padding(jnp.mean(saturated.astype(jnp.float32), axis=-1), real)


def _last_in_a_direction(loop: Loop, ys: Array, rng: PRNGKey) -> Array:
    """The gradient by the outputs, as they are run, of each row's last real one in a direction."""
    _, real, _ = loop.inputs
    features = tuple(range(real.ndim - 1, ys.ndim - 1))
    direction = jax.random.normal(rng, ys.shape[1:], statistics_dtype(ys.dtype))
    length = jnp.sqrt(jnp.sum(jnp.square(direction), axis=features, keepdims=True))
    direction = (direction / length).astype(ys.dtype)
    later = jnp.concatenate([real[1:], jnp.zeros_like(real[:1])])  # the real ones are in front
    return select(real & ~later, jnp.broadcast_to(direction, ys.shape), jnp.zeros_like(ys))


def _unit(tree: PyTree) -> tuple[PyTree, Array]:
    """A tree over its largest absolute value, and the logarithm of that; -inf for zeros."""
    leaves = [jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree) if leaf.size]
    largest = jnp.max(jnp.stack([leaf.astype(statistics_dtype(leaf.dtype)) for leaf in leaves]))
    divisor = jnp.where(largest == 0, 1, largest)
    return jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), tree), jnp.log(largest)


def _times(tree: PyTree, log_scale: Array) -> PyTree:
    """A tree times a scale that is at most 1; -inf less -inf is no scale."""
    scale = jnp.where(jnp.isnan(log_scale), 0, jnp.exp(log_scale))
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)

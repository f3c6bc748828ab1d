r"""The transformations of the paper's Table 1 (Section 5.1), on arrays and on trees of parameters.

Kernels are in Flax's layout: the last axis is that of the units, so that the paper's weight vector
:math:`w_i` of unit i is the column ``kernel[..., i]``, and the vector :math:`\gamma` of Eq. 6 that
every unit's weights are shifted by lies along the axes before. Data are (N, ..., D): N cases.
Scales are positive: behind a negative one, what is normalized changes its sign.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.typing import Array, Params


def rescale_weight_matrix(kernel: Array, delta: float) -> Array:
    """All weights times `delta` (the paper's W' = delta W, Eq. 6).

    Args:
      kernel: (..., H) floating point.
      delta: a number.

    Returns:
      Of the shape and dtype of `kernel`.
    """
    kernel = jnp.asarray(kernel)
    return kernel * jnp.asarray(delta, kernel.dtype)


def recenter_weight_matrix(
    kernel: Array, gamma: Array, blocks: Sequence[int] | None = None
) -> Array:
    """The same vector `gamma` added to the weights of every unit (W' = W + 1 gamma^T, Eq. 6).

    Args:
      kernel: (..., H) floating point, the weights of unit i in ``kernel[..., i]``.
      gamma: of the shape of `kernel` without its last axis; with `blocks`, one more axis at the
        end, as long as there are blocks.
      blocks: the widths of neighbouring blocks of units that each have a vector of their own: for
        a GRU, whose gates and candidate are normalized apart, (2H, H).

    Returns:
      Of the shape and dtype of `kernel`.

    Raises:
      ValueError: `gamma` has another shape, or the blocks do not add up to H.

    >>> recenter_weight_matrix(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([10.0, 0.0])).tolist()
    [[11.0, 12.0], [3.0, 4.0]]
    """
    kernel = jnp.asarray(kernel)
    gamma = jnp.asarray(gamma, kernel.dtype)
    units = kernel.shape[-1]
    expected = kernel.shape[:-1] if blocks is None else (*kernel.shape[:-1], len(blocks))
    if gamma.shape != expected:
        raise ValueError(
            f"gamma has shape {gamma.shape}; a kernel {kernel.shape} with blocks={blocks} needs"
            f" {expected}"
        )
    if blocks is None:
        return kernel + jnp.broadcast_to(gamma[..., None], kernel.shape)
    if sum(blocks) != units:
        raise ValueError(f"blocks={tuple(blocks)} must add up to the {units} units of the kernel")
    return kernel + jnp.repeat(gamma, np.array(blocks), axis=-1, total_repeat_length=units)


def rescale_weight_vector(kernel: Array, unit: int, delta: float) -> Array:
    """The incoming weights of one unit times `delta` (the paper's w_i' = delta w_i).

    Args:
      kernel: (..., H) floating point.
      unit: which of the H units.
      delta: a number.

    Returns:
      Of the shape and dtype of `kernel`.

    Raises:
      ValueError: there is no such unit.
    """
    kernel = jnp.asarray(kernel)
    _check_index("unit", unit, kernel.shape[-1], kernel)
    return kernel.at[..., unit].multiply(delta)


def rescale_dataset(xs: Array, delta: float) -> Array:
    """All cases times `delta`: xs (N, ..., D) -> the same shape."""
    xs = jnp.asarray(xs)
    return xs * jnp.asarray(delta, xs.dtype)


def recenter_dataset(xs: Array, gamma: Array) -> Array:
    """The same vector `gamma` (D,) added to every input of every case: xs (N, ..., D).

    Raises:
      ValueError: `gamma` is not (D,).
    """
    xs = jnp.asarray(xs)
    gamma = jnp.asarray(gamma, xs.dtype)
    if gamma.shape != xs.shape[-1:]:
        raise ValueError(f"gamma has shape {gamma.shape}; data {xs.shape} need {xs.shape[-1:]}")
    return xs + jnp.broadcast_to(gamma, xs.shape)


def rescale_case(xs: Array, case: int, delta: float) -> Array:
    """One case times `delta` (Eq. 7): xs (N, ..., D), of which ``xs[case]`` is the one.

    Raises:
      ValueError: there is no such case.
    """
    xs = jnp.asarray(xs)
    _check_index("case", case, xs.shape[0], xs)
    return xs.at[case].multiply(delta)


@dataclass(frozen=True)
class Transformation:
    """A change of some weights of a model, or of its data; called as ``(params, xs)``.

    Attributes:
      name: of its column in a table.
      function: array -> array, applied to each of the leaves, or to the data.
      leaves: the names of the leaves of the parameters (see `change_leaf`); () means the data.

    >>> double = Transformation("twice", partial(rescale_weight_matrix, delta=2.0), ("kernel",))
    >>> params, xs = double({"kernel": jnp.ones(2), "bias": jnp.ones(2)}, jnp.ones(3))
    >>> params["kernel"].tolist(), params["bias"].tolist(), xs.tolist()
    ([2.0, 2.0], [1.0, 1.0], [1.0, 1.0, 1.0])
    """

    name: str
    function: Callable[[Array], Array]
    leaves: tuple[str, ...] = ()

    def __call__(self, params: Params, xs: Array) -> tuple[Params, Array]:
        if not self.leaves:
            return params, self.function(xs)
        for leaf in self.leaves:
            params = change_leaf(params, leaf, self.function)
        return params, xs


def change_leaf(params: Params, leaf: str, function: Callable[[Array], Array]) -> Params:
    """The same tree with `function` applied to one leaf.

    Args:
      params: any tree of arrays: nested dicts, a NamedTuple such as `lnjax.LSTMParams`.
      leaf: the names on the way to the leaf, with "/" between; the last of them do, if they fit
        one leaf only: "kernel", or "cell/kernel" where there are two kernels.
      function: array -> array.

    Raises:
      ValueError: no leaf or more than one has this name.

    >>> tree = {"cell": {"kernel": jnp.ones(2)}, "out": {"kernel": jnp.ones(2)}}
    >>> change_leaf(tree, "out/kernel", jnp.negative)["out"]["kernel"].tolist()
    [-1.0, -1.0]
    """
    flat, structure = jax.tree.flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    found = [i for i, name in enumerate(names) if f"/{name}".endswith(f"/{leaf}")]
    if len(found) != 1:
        number = "no leaf" if not found else f"{len(found)} leaves"
        raise ValueError(f"{number} named {leaf!r} in the parameters: {', '.join(names)}")
    values = [jnp.asarray(value) for _, value in flat]
    values[found[0]] = function(values[found[0]])
    return structure.unflatten(values)


def transformations(
    kernel: Array, xs: Array, *, delta: float = 3.7, seed: int = 0, leaf: str = "kernel"
) -> tuple[Transformation, ...]:
    """The six transformations of Table 1, in its order, for weights and data of these shapes.

    Args:
      kernel: (D, H), the weights in the leaf of the parameters that is named `leaf`.
      xs: (N, ..., D).
      delta: of the three re-scalings of weights and the two of data; above 0 and not 1.
      seed: of the two vectors of the re-centerings, standard normal.
      leaf: see `change_leaf`.

    Raises:
      ValueError: `delta` is not as above.

    >>> [t.name for t in transformations(jnp.ones((3, 4)), jnp.ones((5, 3)))][:2]
    ['weight matrix re-scaling', 'weight matrix re-centering']
    """
    rng = np.random.default_rng(seed)
    of_weights = jnp.asarray(rng.normal(size=kernel.shape[:-1]))
    of_data = jnp.asarray(rng.normal(size=xs.shape[-1]))
    return (
        *weight_transformations("weight matrix", "weight vector", leaf, of_weights, delta),
        *data_transformations("single case", of_data, delta),
    )


def weight_transformations(
    matrix: str,
    vector: str,
    leaf: str,
    gamma: Array,
    delta: float,
    blocks: Sequence[int] | None = None,
) -> tuple[Transformation, ...]:
    """The three of one leaf; `matrix` and `vector` are what it and one unit's share are called."""
    check_delta(delta)
    scale = partial(rescale_weight_matrix, delta=delta)
    shift = partial(recenter_weight_matrix, gamma=gamma, blocks=blocks)
    one = partial(rescale_weight_vector, unit=0, delta=delta)
    return (
        Transformation(f"{matrix} re-scaling", scale, (leaf,)),
        Transformation(f"{matrix} re-centering", shift, (leaf,)),
        Transformation(f"{vector} re-scaling", one, (leaf,)),
    )


def data_transformations(case: str, gamma: Array, delta: float) -> tuple[Transformation, ...]:
    """The three of the data; `case` is what one of them is called."""
    check_delta(delta)
    return (
        Transformation("dataset re-scaling", partial(rescale_dataset, delta=delta)),
        Transformation("dataset re-centering", partial(recenter_dataset, gamma=gamma)),
        Transformation(f"{case} re-scaling", partial(rescale_case, case=0, delta=delta)),
    )


def check_delta(delta: float) -> None:
    """Refuses a factor that is no re-scaling, or that turns signs."""
    if not (math.isfinite(delta) and delta > 0 and delta != 1):
        raise ValueError(f"delta={delta}: a re-scaling needs a finite factor above 0, and not 1")


def _check_index(name: str, index: int, length: int, array: Array) -> None:
    # out of bounds, jax would change nothing, and everything would seem invariant
    if not -length <= index < length:
        raise ValueError(f"{name}={index}, but {array.shape} has {length} of them")

"""What all conversions share: the result, checked weights and cells, order and sign of gates.

Everything is NumPy: arrays keep the dtype they come in, and are copies, never views of the source.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, SimpleCell, SimpleParams

Weight: TypeAlias = Any  # a NumPy array; the fields of LSTMParams say jax.Array
Shape = tuple[str | int, ...]  # of letters with a factor: ("4H", "D")
PARAMS: dict[type, type] = {LSTMCell: LSTMParams, GRUCell: GRUParams, SimpleCell: SimpleParams}


class Converted(NamedTuple):
    """A cell and the parameters with which it computes what the source computes.

    Attributes:
      cell: an lnjax Linen cell: its features, norm, sites, epsilon and activation are the source's.
        Its param_dtype is that of the source's arrays (float32 for float64, unless x64 is on), so
        that its initial carry has that dtype too.
      params: its parameters, a NamedTuple of NumPy arrays in the source's dtype.
    """

    cell: Any
    params: Any

    @property
    def variables(self) -> dict[str, dict[str, np.ndarray]]:
        """The same as Flax holds it: ``cell.apply(converted.variables, carry, x)``."""
        params = self.params._asdict()
        return {"params": {name: value for name, value in params.items() if value is not None}}


def converted(cell_class: Callable[..., Any], params: Any, **choices: Any) -> Converted:
    """The cell of these parameters, with the given attributes."""
    dtype = jax.dtypes.canonicalize_dtype(params.kernel.dtype)
    features = params.recurrent_kernel.shape[0]
    return Converted(cell_class(features=features, param_dtype=dtype, **choices), params)


def read(function: str, arrays: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Copies the arrays named in `shapes`, after a check of names, dtypes and shapes.

    A letter takes its size in the first of `shapes` in which it stands, without a factor.

    Raises:
      ValueError: a name is missing or unknown, or an array is not of a float dtype or of its shape.
    """
    check_mapping(function, arrays)
    if set(arrays) != set(shapes):
        raise ValueError(
            f"{function}: found the names {_names(arrays)}; expected {_names(shapes)}. "
            "Pass the weights of this layer alone, under the names that its framework gives them"
        )
    copies = {name: _array(function, name, arrays[name]) for name in shapes}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if not _fits(copies[name].shape, shape, sizes):
            known = "".join(f", {letter} = {size}" for letter, size in sizes.items())
            raise ValueError(
                f"{function}: {name} has the shape {copies[name].shape}; expected "
                f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''}){known}. "
                "Is it of this kind of layer, and not transposed?"
            )
    return copies


def check_mapping(function: str, arrays: Any) -> None:
    """Refuses what is no mapping."""
    if not isinstance(arrays, Mapping):
        raise ValueError(
            f"{function} takes a mapping of names to arrays, not a {type(arrays).__name__}"
        )


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def _array(function: str, name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor may be on a device or hold a gradient
        value = value.detach().cpu()
    try:
        array = np.asarray(value).copy()
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{function}: {name} cannot be read as a NumPy array ({error}); convert it first"
        ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{function}: {name} is of the dtype {array.dtype}, which is no floating point; "
            "weights that are quantized or packed must be unpacked first"
        )
    return array


def _fits(found: tuple[int, ...], expected: Shape, sizes: dict[str, int]) -> bool:
    """Whether a shape is the expected one, for `sizes`, to which new letters are added."""
    if len(found) != len(expected):
        return False
    for size, dimension in zip(found, expected, strict=True):
        if isinstance(dimension, str) and len(dimension) == 1:
            sizes.setdefault(dimension, size)
    wanted = [
        d if isinstance(d, int) else int(d[:-1] or 1) * sizes.setdefault(d[-1], size)
        for size, d in zip(found, expected, strict=True)
    ]
    return list(found) == wanted


def check_cell(
    function: str,
    target: str,
    cell: Any,
    params: Any,
    cell_class: type,
    *,
    sites: Sequence[str] | None = None,
    epsilon: float | None = None,
    activation: Callable[..., Any] | None = None,
    hint: str = "",
) -> Any:
    """Refuses a cell that `target` cannot compute; returns its parameters as NumPy arrays.

    Args:
      function: the name to report.
      target: what the weights are for, in words.
      cell: of the user.
      params: of the user.
      cell_class: what `cell` must be.
      sites: the norms of the target, all of them LN; None: it has no norm. The GRU has no choice of
        sites, so that any value that is not None stands for its four norms.
      epsilon: of the target; None: any.
      activation: of the target; None: any, or the cell has no choice.
      hint: what to do instead if the norm is another.

    Raises:
      ValueError: the cell is of another class or has another norm, site, epsilon or activation than
        the target, or the parameters are not its own.
    """
    # A subclass or a wrapper may compute something else, so that the class must be this one.
    if type(cell) is not cell_class:
        raise ValueError(
            f"{function}: the cell is a {type(cell).__name__}; {target} is an lnjax "
            f"{cell_class.__name__}. Of a wrapper, pass the cell inside of it"
        )
    has = f"{function}: the cell has"
    norm = "layer" if sites is not None else None
    if cell.norm != norm:
        wants = "no norm" if norm is None else "layer normalization"
        raise ValueError(f"{has} norm={cell.norm!r}; {target} has {wants}{hint and '. ' + hint}")
    if sites is not None and cell_class is not GRUCell and set(cell.sites) != set(sites):
        raise ValueError(
            f"{has} sites={tuple(cell.sites)!r}; {target} has {tuple(sites)!r}, which is another "
            f"function that no choice of weights turns into this one{hint and '. ' + hint}"
        )
    if epsilon is not None and cell.epsilon != epsilon:
        raise ValueError(
            f"{has} epsilon={cell.epsilon!r}; {target} has {epsilon!r}, which weights cannot make "
            "up for. Where the framework lets you choose it, pass that choice as an argument"
        )
    if activation is not None and cell.activation is not activation:
        names = [getattr(f, "__name__", repr(f)) for f in (cell.activation, activation)]
        raise ValueError(f"{has} activation={names[0]}; {target} has {names[1]}")
    params_class = PARAMS[cell_class]
    if not isinstance(params, params_class):
        name = params_class.__name__
        raise ValueError(
            f"{function}: the parameters are a {type(params).__name__}; make them "
            f"{name}(**variables['params'])"
        )
    present = {key: value for key, value in params._asdict().items() if value is not None}
    return params_class(**read(function, present, _shapes(cell)))


def _shapes(cell: Any) -> dict[str, Shape]:
    """The shapes of the parameters of a cell; those of a site without norm are left out."""
    gates = {LSTMCell: 4, GRUCell: 3, SimpleCell: 1}[type(cell)]
    features = cell.features
    shapes: dict[str, Shape] = {
        "recurrent_kernel": (features, gates * features),
        "kernel": ("D", gates * features),
        "bias": (gates * features,),
    }
    if isinstance(cell, GRUCell):
        shapes["bias_h"] = (features,)
    if cell.norm is not None:
        sites = ("input", "recurrent") if isinstance(cell, GRUCell) else cell.sites
        names = {"input": "scale_x", "recurrent": "scale_h", "sum": "scale"}
        shapes |= {names[site]: (gates * features,) for site in sites if site in names}
        if "cell" in sites or "carried_cell" in sites:
            shapes |= {"scale_c": (features,), "bias_c": (features,)}
    return shapes


def stacked(gates: int) -> str:
    """The width of that many gates in a `Shape`."""
    return f"{gates}H" if gates > 1 else "H"


def reorder(array: np.ndarray, source: str, target: str) -> Weight:
    """Puts blocks along the last axis in another order: ``reorder(w, "igfo", "ifgo")``.

    >>> reorder(np.array([1, 1, 2, 2, 3, 3]), "rzn", "znr").tolist()
    [2, 2, 3, 3, 1, 1]
    """
    blocks = np.split(array, len(source), axis=-1)
    return np.concatenate([blocks[source.index(gate)] for gate in target], axis=-1)


def turn(array: np.ndarray) -> Weight:
    """Negates the block z of r, z, n along the last axis: sigmoid(-a) = 1 - sigmoid(a).

    Turns a gate that keeps the old h where it is 1 into one that takes the candidate there. Without
    a norm it is applied to kernels and biases; with one, whose statistics r and z share, to what
    comes after it: gains and biases.

    >>> turn(np.array([1.0, 2.0, 3.0])).tolist()
    [1.0, -2.0, 3.0]
    """
    r, z, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, -z, n], axis=-1)


def no_bias_h(function: str, target: str, params: GRUParams) -> None:
    """Refuses a GRU whose reset gate scales a bias, for a target that has none there."""
    if np.any(np.asarray(params.bias_h)):
        raise ValueError(
            f"{function}: bias_h is not zero; {target} has no bias inside of the product with the "
            "reset gate, and no other of its weights does the same. Train with bias_h frozen at 0"
        )

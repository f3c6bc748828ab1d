"""Table 1 of the paper for recurrent cells: what a whole sequence makes of changed weights or data.

The six transformations of `lnjax.analysis.invariance`, of `recurrent_kernel`, of `kernel`, of both
together, and of the sequences; an entry is the largest change of any output or of the final carry.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.invariance import changes, check_epsilon, check_rows, tolerance_of
from lnjax.analysis.tables import InvarianceTable
from lnjax.analysis.transformation import (
    Transformation,
    data_transformations,
    rescale_weight_matrix,
    weight_transformations,
)
from lnjax.cells import BatchNormLSTMCell, Cell, GRUCell, LSTMCell, SimpleCell
from lnjax.typing import Array, Params

FEATURES = 8


def recurrent_cells(epsilon: float = 0.0) -> dict[str, Any]:
    """The default rows of `recurrent_invariance_table`: lnjax's cells with each of their norms.

    Args:
      epsilon: of all norms.

    Raises:
      ValueError: `epsilon` is negative or not finite.
    """
    check_epsilon(epsilon)
    options: dict[str, Any] = {"features": FEATURES, "epsilon": epsilon}
    each = ("recurrent", "input")
    return {
        "LSTM, layer norm": LSTMCell(norm="layer", **options),
        "LSTM, RMS norm": LSTMCell(norm="rms", **options),
        "LSTM, batch norm": BatchNormLSTMCell(max_steps=1, **options),  # statistics of the batch
        "LSTM, layer norm of the cell": LSTMCell(norm="layer", sites=("cell",), **options),
        "LSTM, no norm": LSTMCell(norm=None, **options),
        "GRU, layer norm": GRUCell(norm="layer", **options),
        "GRU, RMS norm": GRUCell(norm="rms", **options),
        "GRU, no norm": GRUCell(norm=None, **options),
        "simple RNN, layer norm of the sum": SimpleCell(norm="layer", **options),
        "simple RNN, layer norm of each": SimpleCell(norm="layer", sites=each, **options),
        "simple RNN, RMS norm of the sum": SimpleCell(norm="rms", **options),
        "simple RNN, no norm": SimpleCell(norm=None, **options),
    }


def recurrent_invariance_table(
    cells: Mapping[str, Cell] | None = None,
    *,
    epsilon: float = 0.0,
    delta: float = 3.7,
    carry: Literal["random", "zeros"] = "random",
    implementation: Literal["auto", "scan", "chunked"] = "scan",
    steps: int = 7,
    tolerance: float | None = None,
    seed: int = 0,
) -> InvarianceTable:
    """Which changes of weights and sequences leave the outputs of a recurrent cell as they are.

    With layer norm of each projection (Eq. 20 and 26) `recurrent_kernel` may be re-scaled and
    re-centered, and so may `kernel`. Re-centering adds one vector to the weights of all units that
    are normalized together: all 4H of an LSTM; one for the 2H of a GRU's gates and another for the
    H of its candidate. With layer norm of their *sum* (Eq. 4) only both kernels at once may be
    re-scaled: that is "all of the summed inputs", of which the paper says that it stabilizes the
    hidden-to-hidden dynamics (Section 3.1).

    Such a norm divides by the deviation of the recurrent projection, which is 0 at the first step
    from a zero state: with epsilon 0 it gives 0 * inf, NaN. The initial carry is therefore random
    here, unless zeros are asked for.

    Args:
      cells: name -> a cell of lnjax with a `kernel`, a `recurrent_kernel` and nothing random. None:
        `lnjax.analysis.recurrent_cells`.
      epsilon: of the default cells.
      delta: of the re-scalings; above 0 and not 1.
      carry: the initial carry: "random", standard normal, or "zeros".
      implementation: of the sequence, see `lnjax.lstm`. Recurrent batch norm has no chunked path,
        and of the default cells no row there.
      steps: T, the length of the 8 sequences of width 6.
      tolerance: up to which change an entry is invariant; None: as `invariance_table`.
      seed: of weights, sequences, carry, and the vectors of the re-centerings.

    Returns:
      An `InvarianceTable`: one row for each cell, ten columns.

    Raises:
      TypeError: `cells` is no mapping of cells.
      ValueError: there is no cell; `epsilon` is negative, or given with cells that have their own;
        `delta`, `carry` or `steps` is not as above; or outputs are not finite before anything was
        changed, as with epsilon 0 and a carry of zeros.

    >>> table = recurrent_invariance_table({"mine": LSTMCell(8, epsilon=0.0)})
    >>> dict(zip(table.columns, table.invariant[0].tolist()))["recurrent_kernel re-centering"]
    True
    """
    if carry not in ("random", "zeros"):
        raise ValueError(f"carry={carry!r} is not one of 'random', 'zeros'")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if cells is None:
        cells = recurrent_cells(epsilon)
        if implementation == "chunked":
            cells = {n: c for n, c in cells.items() if not isinstance(c, BatchNormLSTMCell)}
    elif epsilon:
        raise ValueError(f"epsilon={epsilon} does not reach the cells given, which have their own")
    check_rows("cells", cells, "recurrent cells of lnjax")
    rng = np.random.default_rng([seed, 3])
    xs = jnp.asarray(rng.normal(0.5, 1.0, size=(8, steps, 6)))
    of_data = jnp.asarray(rng.normal(size=6))
    change, names = [], ()
    with jax.default_matmul_precision("highest"):
        for name, cell in cells.items():
            if not isinstance(cell, Cell):
                raise TypeError(f"cells[{name!r}] must be a cell of lnjax, not {type(cell)}")
            params = _parameters(cell, xs.shape[-1], seed)
            start = _carry(cell, len(xs), carry, seed)

            def run(params: Params, xs: Any, cell: Cell = cell, start: Any = start) -> Any:
                by_time = jnp.swapaxes(xs, 0, 1)
                return cell.run(params, start, by_time, implementation=implementation)

            columns = _transformations(cell, params, delta, of_data, seed)
            names = tuple(t.name for t in columns)
            change.append(changes(jax.jit(run), params, xs, columns, name))
    return InvarianceTable(tuple(cells), names, np.array(change), tolerance_of(xs.dtype, tolerance))


def _parameters(cell: Cell, in_features: int, seed: int) -> Any:
    """Random values for all parameters: with a gain of 1 and a bias of 0 some could hide."""
    key, rng = jax.random.key(0), np.random.default_rng([seed, 0])
    shapes, _ = jax.eval_shape(lambda: cell.init_with_output(key, in_features, method="parameters"))

    def draw(path: Any, leaf: Any) -> Any:
        name, values = jax.tree_util.keystr(path[-1:], simple=True), rng.normal(size=leaf.shape)
        if name.endswith("kernel"):
            return jnp.asarray(values / np.sqrt(len(values)))
        return jnp.asarray(1.0 + 0.3 * values if name.startswith("scale") else 0.5 * values)

    return jax.tree.map_with_path(draw, shapes)


def _carry(cell: Cell, cases: int, kind: str, seed: int) -> Any:
    """The initial carry; what counts steps is 0 in either kind."""
    rng = np.random.default_rng([seed, 1])
    zeros = jax.eval_shape(lambda: cell.initialize_carry(jax.random.key(0), (cases, 1)))

    def draw(leaf: Any) -> Any:
        values = rng.normal(size=leaf.shape) * (kind == "random" and leaf.ndim > 1)
        return jnp.asarray(values)

    return jax.tree.map(draw, zeros)


def _transformations(
    cell: Cell, params: Any, delta: float, of_data: Array, seed: int
) -> tuple[Transformation, ...]:
    """Ten: three of each kernel, both kernels re-scaled, three of the sequences."""
    rng = np.random.default_rng([seed, 2])
    columns: list[Transformation] = []
    for leaf in ("recurrent_kernel", "kernel"):
        width, units = getattr(params, leaf).shape
        # as many vectors as there are norms of the projection
        blocks = (2 * units // 3, units // 3) if isinstance(cell, GRUCell) else (units,)
        gamma = jnp.asarray(rng.normal(size=(width, len(blocks))))
        columns += weight_transformations(leaf, f"{leaf} vector", leaf, gamma, delta, blocks)
    both = Transformation(
        "both kernels re-scaling",
        partial(rescale_weight_matrix, delta=delta),
        ("recurrent_kernel", "kernel"),
    )
    return (*columns, both, *data_transformations("single case", of_data, delta))

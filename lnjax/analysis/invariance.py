r"""Which changes of weights or data leave a normalized network's outputs as they are.

Table 1 of the paper (Section 5.1), measured: `measure` gives the largest change of any model's
outputs under a transformation, `invariance_table` of each normalizer's under the six of the paper.
The mathematics of an entry is that of its transformation (`lnjax.analysis.transformation`): for
layer norm, Eq. 6 and 7.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.tables import InvarianceTable
from lnjax.analysis.transformation import Transformation, transformations
from lnjax.analysis.transformation import change_leaf as change_leaf
from lnjax.analysis.transformation import recenter_dataset as recenter_dataset
from lnjax.analysis.transformation import recenter_weight_matrix as recenter_weight_matrix
from lnjax.analysis.transformation import rescale_case as rescale_case
from lnjax.analysis.transformation import rescale_dataset as rescale_dataset
from lnjax.analysis.transformation import rescale_weight_matrix as rescale_weight_matrix
from lnjax.analysis.transformation import rescale_weight_vector as rescale_weight_vector
from lnjax.ops import batch_norm, group_norm, instance_norm, layer_norm, rms_norm, weight_norm
from lnjax.typing import Array, DType, Params, PyTree

Normalizer = Callable[[Array, Array], PyTree]  # kernel (D, H), xs (N, P, D) -> outputs
Model = Callable[[Params, Array], PyTree]

# What the paper's Table 1 says, in the order of the columns of `invariance_table`.
TABLE_1: Mapping[str, tuple[bool, ...]] = {
    "batch norm": (True, False, True, True, True, False),
    "weight norm": (True, False, True, False, False, False),
    "layer norm": (True, True, False, True, False, True),
}
TOLERANCES = {"float64": 1e-12, "float32": 1e-5}


def measure(model: Model, params: Params, xs: Array, transformation: Transformation) -> float:
    """The largest absolute change of any output of a model under a transformation.

    Args:
      model: ``(params, xs) -> outputs``, any tree of arrays: a pure function, or the `apply` of a
        Flax module.
      params: what the transformation may change.
      xs: (N, ..., D), likewise.
      transformation: a `Transformation`.

    Returns:
      The change in units of the outputs; inf if they became infinite or NaN.

    Raises:
      ValueError: there is no leaf of that name, the outputs are not finite or there are none before
        the transformation, or they have another shape after it.

    >>> from lnjax.nn import Dense
    >>> layer, xs = Dense(16, norm="layer"), jax.random.normal(jax.random.key(0), (4, 8))
    >>> variables = layer.init(jax.random.key(1), xs)
    >>> shift = partial(recenter_weight_matrix, gamma=jnp.arange(8.0))
    >>> shifted = measure(layer.apply, variables, xs, Transformation("shift", shift, ("kernel",)))
    >>> one = partial(rescale_weight_vector, unit=0, delta=2.0)
    >>> longer = measure(layer.apply, variables, xs, Transformation("one unit", one, ("kernel",)))
    >>> shifted < 1e-4 < 1e-2 < longer
    True
    """
    return changes(model, params, xs, [transformation], "the model")[0]


def normalizers(epsilon: float = 0.0, *, num_groups: int = 2) -> dict[str, Normalizer]:
    """The default rows of `invariance_table`: lnjax's own norms of ``xs @ kernel``, by name.

    Statistics of the summed inputs (N, P, H), N cases of P positions, run over

    * "batch norm": all cases and positions, for each unit;
    * "weight norm": nothing; it divides each unit's weights by their length;
    * "layer norm", "RMS norm": the H units, for each position of each case;
    * "group norm": each group of neighbouring units, for each position of each case;
    * "instance norm": the positions, for each case and unit;
    * "layer norm (image)", "group norm (image)": the positions as well, for each case, as
      `lnjax.Conv` and other convolutional networks have it;
    * "no norm": nothing.

    Args:
      epsilon: of all of them; for weight norm added to the squared length.
      num_groups: of the group norms.

    Raises:
      ValueError: `epsilon` is negative or not finite.
    """
    check_epsilon(epsilon)

    def after(norm: Callable[..., Array], **options: Any) -> Normalizer:
        return lambda kernel, xs: norm(jnp.matmul(xs, kernel), epsilon=epsilon, **options)

    return {
        "batch norm": after(batch_norm),
        "weight norm": lambda kernel, xs: jnp.matmul(xs, weight_norm(kernel, epsilon=epsilon)),
        "layer norm": after(layer_norm),
        "RMS norm": after(rms_norm),
        "group norm": after(group_norm, num_groups=num_groups, axis=()),
        "instance norm": after(instance_norm),
        "layer norm (image)": after(layer_norm, axis=(-2, -1)),
        "group norm (image)": after(group_norm, num_groups=num_groups),
        "no norm": lambda kernel, xs: jnp.matmul(xs, kernel),
    }


def invariance_table(
    normalizers: Mapping[str, Normalizer] | None = None,
    *,
    epsilon: float = 0.0,
    delta: float = 3.7,
    kernel: Array | None = None,
    xs: Array | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> InvarianceTable:
    r"""Table 1 of the paper, measured, for these normalizers.

    The columns are the six transformations; an entry is the largest absolute change of the
    normalized summed inputs, before gain, bias and activation, which change nothing about it.

    Args:
      normalizers: name -> function ``(kernel, xs) -> outputs`` of weights (D, H) and data
        (N, P, D), N cases of P positions; the outputs are of any shape, or a tree of arrays. It
        gets the weights, not the summed inputs, because weight norm needs them:
        ``lambda kernel, xs: my_norm(xs @ kernel)``. None: lnjax's own,
        `lnjax.analysis.normalizers`, which says over what their statistics run.
      epsilon: of lnjax's own. Above 0 nothing is invariant to a scale any more: see
        `lnjax.analysis.epsilon_sweep`.
      delta: of the re-scalings; above 0 and not 1.
      kernel: (D, H) floating point; None means (6, 16), normal.
      xs: (N, P, D) floating point, two cases at least; None means (8, 5, 6), normal with mean 0.5.
      tolerance: up to which change an entry is invariant; None: 1e-12 for float64, 1e-5 for
        float32. (NumPy's float64 becomes float32 unless jax's x64 mode is on.)
      seed: of the weights, the data, and the vectors of the re-centerings.

    Returns:
      An `InvarianceTable`: one row for each normalizer.

    Raises:
      TypeError: `normalizers` is no mapping of functions, or weights or data are not floating.
      ValueError: there is no normalizer; `epsilon` is negative, or given with normalizers that
        have their own; `delta` is not as above; a shape does not fit; the dtype has no tolerance of
        its own; or outputs are not finite before anything was changed.

    >>> table = invariance_table()
    >>> table.rows[:3], table.invariant[:3].tolist() == list(map(list, TABLE_1.values()))
    (('batch norm', 'weight norm', 'layer norm'), True)
    >>> def mine(kernel, xs):
    ...     summed = xs @ kernel
    ...     return summed / jnp.abs(summed).max(axis=-1, keepdims=True)
    >>> invariance_table({"max norm": mine}).invariant.tolist()
    [[True, False, False, True, False, True]]
    """
    if normalizers is None:
        normalizers = _own(epsilon)
    elif epsilon:
        raise ValueError(
            f"epsilon={epsilon} is that of lnjax's own normalizers and does not reach those given;"
            " give it to them: invariance_table(normalizers(epsilon))"
        )
    check_rows("normalizers", normalizers, "a function (kernel, xs) -> outputs")
    for name, normalizer in normalizers.items():
        if not callable(normalizer):
            raise TypeError(
                f"normalizers[{name!r}] must be a function (kernel, xs) -> outputs, got"
                f" {type(normalizer).__name__}"
            )
    rng = np.random.default_rng([seed, 1])  # other numbers than those of the re-centerings
    kernel = jnp.asarray(rng.normal(size=(6, 16)) if kernel is None else kernel)
    xs = jnp.asarray(rng.normal(0.5, 1.0, size=(8, 5, kernel.shape[0])) if xs is None else xs)
    _check_arrays(kernel, xs)
    tolerance = tolerance_of(jnp.result_type(kernel, xs), tolerance)
    columns = transformations(kernel, xs, delta=delta, seed=seed)
    # an accelerator's products of float32 have but three digits if nobody asks for more
    with jax.default_matmul_precision("highest"):
        change = [
            changes(partial(_with_kernel, normalizer), {"kernel": kernel}, xs, columns, name)
            for name, normalizer in normalizers.items()
        ]
    return InvarianceTable(
        tuple(normalizers), tuple(t.name for t in columns), np.array(change), tolerance
    )


_own = normalizers  # the argument of `invariance_table` hides it


def _with_kernel(normalizer: Normalizer, params: Params, xs: Array) -> PyTree:
    return normalizer(params["kernel"], xs)


def changes(
    model: Model, params: Params, xs: Array, columns: Sequence[Transformation], name: str
) -> list[float]:
    """What `measure` says for each of the transformations; `name` is what errors call the model."""
    before = _outputs(model(params, xs))
    if not before or not all(np.isfinite(y).all() for y in before):
        what = "are not finite" if before else "are none"
        raise ValueError(
            f"the outputs of {name} {what} before anything was changed (with epsilon 0 a row of"
            " zeros, as a zero carry gives, becomes 0 * inf)"
        )
    return [_largest(before, _outputs(model(*t(params, xs))), f"{name}, {t.name}") for t in columns]


def _outputs(tree: PyTree) -> list[np.ndarray]:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [np.asarray(leaf, np.float64) for leaf in leaves if leaf.size]


def _largest(before: list[np.ndarray], after: list[np.ndarray], where: str) -> float:
    shapes = [[y.shape for y in outputs] for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{where}: outputs of shapes {shapes[0]} became {shapes[1]}")
    if not all(np.isfinite(y).all() for y in after):
        return math.inf
    return max(float(abs(y - x).max()) for x, y in zip(before, after, strict=True))


def check_rows(name: str, rows: object, meaning: str) -> None:
    """Refuses what is no mapping from names to something, or is empty."""
    if not isinstance(rows, Mapping) or not all(isinstance(key, str) for key in rows):
        raise TypeError(f"{name} must map names to {meaning}, got {type(rows).__name__}")
    if not rows:
        raise ValueError(f"{name} is empty: there is nothing to measure")


def check_epsilon(epsilon: float) -> None:
    """Refuses an epsilon that no norm has a use for."""
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon={epsilon} must be finite and not negative")


def tolerance_of(dtype: DType, given: float | None) -> float:
    """The tolerance that was given, or that of the dtype."""
    if given is None:
        if str(dtype) not in TOLERANCES:
            raise ValueError(f"{dtype} has no tolerance of its own: give tolerance=")
        return TOLERANCES[str(dtype)]
    if not (math.isfinite(given) and given >= 0):
        raise ValueError(f"tolerance={given} must be finite and not negative")
    return float(given)


def _check_arrays(kernel: Array, xs: Array) -> None:
    for name, array in (("kernel", kernel), ("xs", xs)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {array.dtype}")
    if kernel.ndim != 2 or xs.ndim != 3 or xs.shape[2] != kernel.shape[0] or len(xs) < 2:
        raise ValueError(
            f"kernel {kernel.shape} and xs {xs.shape} must be (D, H) and (N, P, D) with the same D"
            " and at least two cases N"
        )

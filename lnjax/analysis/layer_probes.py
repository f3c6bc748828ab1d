"""The probes of `lnjax.analysis.probes` in every recurrent layer of a Linen model.

The model runs as it is; where one of its `lnjax.RNN` layers would start its loop, the probe takes
what that loop was given: cell, parameters, initial carry, inputs, mask. `Stack`, `Bidirectional`
and models of one's own consist of such layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.analysis.probe_loop import Loop, in_order, length
from lnjax.analysis.probes import GradientNorms, Record, probe
from lnjax.cells.base import Cell
from lnjax.cells.running import NO_NOISE
from lnjax.nn import RNN
from lnjax.ops import zero_padding
from lnjax.typing import Array, PyTree


def probe_layers(
    model: nn.Module,
    variables: Any,
    *args: Any,
    rngs: Any = None,
    sigmoid: tuple[float, float] = (0.05, 0.95),
    tanh: float = 0.9,
    **kwargs: Any,
) -> dict[str, Record]:
    """Runs ``model.apply(variables, *args, rngs=rngs, **kwargs)`` and probes its layers.

    Args:
      model: an unbound Linen module with `lnjax.RNN` layers in it, over any cells.
      variables: of the model. What it changes of them is dropped.
      rngs, args, kwargs: as `model.apply` takes them.
      sigmoid, tanh: see `probe`.

    Returns:
      A `Record` for each layer, (T, B, ...) whatever the layout of the layer, under the layer's
      path in the model, such as "layers_0" of a `Stack`, in the order in which they ran; a layer
      that ran more than once has "#2" and so on behind it. May stand in jit.

    Raises:
      ValueError: no `lnjax.RNN` ran, or one lifts its cell over time in a way of its own
        (`variable_axes`, `variable_carry` but for lnjax's cells).

    >>> import jax, jax.numpy as jnp
    >>> from lnjax.cells import GRUCell
    >>> from lnjax.nn import Stack
    >>> stack = Stack([RNN(GRUCell(features=4)), RNN(GRUCell(features=6))])
    >>> xs, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 2])
    >>> variables = stack.init(jax.random.key(0), xs)
    >>> records = probe_layers(stack, variables, xs, seq_lengths=lengths)
    >>> {name: record.norms["h"].shape for name, record in records.items()}
    {'layers_0': (5, 2), 'layers_1': (5, 2)}
    """
    records: dict[str, Record] = {}

    def look(name: str, run: Any, *sequence: Any, **how: Any) -> Any:
        records[name] = probe(*sequence, **how, sigmoid=sigmoid, tanh=tanh)
        return run()

    _apply(look, model, variables, args, kwargs, rngs)
    return records


def layer_gradient_norms(
    model: nn.Module,
    variables: Any,
    *args: Any,
    loss: Callable[[Any], Array],
    rngs: Any = None,
    **kwargs: Any,
) -> dict[str, GradientNorms]:
    """The length of dL/dh_t (and dL/dc_t) in each layer, for every time step t: exact.

    Each layer runs step by step with a zero added to its carry, and to its output where that is
    the state, after every step; the gradient by these zeros is what is measured. Unlike in
    `gradient_norms` of one cell it is a float throughout, so it may become 0 or infinite.

    Args:
      model, variables, args, rngs, kwargs: see `probe_layers`.
      loss: of what the model returns, () float.

    Returns:
      A `GradientNorms` for each layer, keyed as by `probe_layers`.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax.cells import LSTMCell
    >>> from lnjax.nn import Stack
    >>> stack = Stack([RNN(LSTMCell(features=4)), RNN(LSTMCell(features=6))])
    >>> xs = jax.random.normal(jax.random.key(1), (2, 5, 3))
    >>> variables = stack.init(jax.random.key(0), xs)
    >>> norms = layer_gradient_norms(stack, variables, xs, loss=lambda ys: ys[:, -1].sum())
    >>> {name: sorted(of.norms) for name, of in norms.items()}
    {'layers_0': ['c', 'h'], 'layers_1': ['c', 'h']}
    """

    names: dict[str, tuple[str, ...]] = {}

    def run(zeros: dict[str, PyTree] | None) -> tuple[Array, dict[str, Any]]:
        seen = {}

        def look(
            name: str, run: Any, cell: Any, params: Any, xs: Any, carry: Any, **how: Any
        ) -> Any:
            loop = Loop.of(cell, params, xs, carry, **how)
            names[name] = loop.names
            carry, ys, carries = _perturbed(loop, None if zeros is None else zeros[name])
            seen[name] = carries, loop.order, loop.real
            return carry, ys

        return loss(_apply(look, model, variables, args, kwargs, rngs)), seen

    shapes = jax.eval_shape(lambda: run(None)[1])
    zeros = {
        name: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carries)
        for name, (carries, _, _) in shapes.items()
    }
    gradients, seen = jax.grad(run, has_aux=True)(zeros)
    result = {}
    for name, (_, order, real) in seen.items():
        norms = {
            leaf: in_order(length(values, real.ndim), order, real)
            for leaf, values in zip(names[name], jax.tree.leaves(gradients[name]), strict=True)
            if values.ndim > real.ndim
        }
        log10 = {leaf: jnp.log10(values) for leaf, values in norms.items()}
        result[name] = GradientNorms(norms, log10, real)
    return result


def _perturbed(loop: Loop, zeros: PyTree | None) -> tuple[PyTree, Array, PyTree]:
    """The loop with `zeros` (T, B, ...) on the state after each step: carry, outputs, carries."""

    def step(carry: PyTree, at: tuple[Any, PyTree]) -> tuple[PyTree, Any]:
        inputs, zeros = at
        carry, y = loop.step(carry, inputs)
        if zeros is not None:
            carry = jax.tree.map(jnp.add, carry, zeros)
            if loop.output is not None:
                zero = jax.tree.leaves(zeros)[loop.output].astype(y.dtype)
                y = y + zero_padding(zero, loop.at(inputs).real)
        return carry, (y, carry)

    carry, (ys, carries) = jax.lax.scan(step, loop.carry, (loop.inputs, zeros))
    return carry, loop.in_order(ys), carries


def _apply(
    look: Callable[..., Any], model: nn.Module, variables: Any, args: Any, kwargs: Any, rngs: Any
) -> Any:
    """What the model returns; ``look(name, run, cell, params, xs, carry, **how)`` is every loop."""
    names: dict[str, int] = {}

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if not (isinstance(layer, RNN) and context.method_name == "_run"):
            return run(*args, **kwargs)
        carry, xs, mask, reverse = args
        path = "/".join(layer.path) or "rnn"
        names[path] = names.get(path, 0) + 1
        name = path if names[path] == 1 else f"{path}#{names[path]}"
        cell, params, noise = layer.cell, None, NO_NOISE
        if isinstance(cell, Cell):
            params = cell.parameters(xs.shape[-1])
            noise = cell.noise(xs.shape[0], xs.shape[1:-1])
        elif layer.variable_axes or layer.variable_carry:
            raise ValueError(
                f"{name} lifts its cell over time with variable_axes={dict(layer.variable_axes)},"
                f" variable_carry={layer.variable_carry!r}; a probe has one set of variables for"
                " all steps"
            )
        else:
            cell, params = cell.clone(parent=None, name=None), cell.variables
        how = {"mask": mask, "noise": noise, "reverse": reverse}
        return look(name, lambda: run(*args, **kwargs), cell, params, xs, carry, **how)

    with nn.intercept_methods(intercept):
        state = [kind for kind in variables if kind != "params"]
        out, _ = model.apply(variables, *args, rngs=rngs, mutable=state, **kwargs)
    if not names:
        raise ValueError(
            f"no lnjax.RNN ran in {type(model).__name__}; it takes the arguments of flax.linen.RNN"
            " and any of its cells"
        )
    return out

"""Stack: sequence layers above one another, with skip connections and dropout between them."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.running import check_choice
from lnjax.typing import Array, PRNGKey, PyTree

Skip = Literal["residual", "input_output"] | None
SKIPS: tuple[Skip, ...] = (None, "residual", "input_output")


class Stack(nn.Module):
    r"""Sequence layers :math:`f_1 \ldots f_K` above one another; :math:`d` is dropout.

    .. math::
        y_0 &= x, \quad y_1 = f_1(x), \quad \text{and for } k > 1 \\
        \text{None:} \quad y_k &= f_k(d(y_{k-1})), & \text{output } & y_K \\
        \text{"residual":} \quad y_k &= y_{k-1} + f_k(d(y_{k-1})), & \text{output } & y_K \\
        \text{"input\_output":} \quad y_k &= f_k([x;\, d(y_{k-1})]), &
            \text{output } & [y_1; \ldots; y_K]

    "residual" needs layers of one width, from the first on; the first itself is not skipped, since
    it takes the input's width to that of the stack. "input_output" is the network of Graves
    (2013): skip connections from the input to every layer, and from every layer to the output.

    Steps that are not real stay zero from layer to layer, as far as the layers keep them so, which
    `RNN` and `Bidirectional` over it do.

    Attributes:
      layers: at least one of `RNN`, `Bidirectional`, `Stack`, or whatever is called as
        ``layer(xs, seq_lengths=, mask=)``. Of the call's arguments a layer is given those alone
        that are not None, so it need not know the others.
      skip: None, "residual" or "input_output".
      dropout: the rate between layers, at most 1; not on the input, nor on what skips a layer, nor
        after the last. Random stream "dropout".
      deterministic: no dropout; here or in the call, as for `flax.linen.Dropout`.
      return_carry: return ``(carries, outputs)`` instead of the outputs.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax.cells import GRUCell
    >>> from lnjax.nn import RNN
    >>> stack = Stack([RNN(GRUCell(features=4)), RNN(GRUCell(features=4))], skip="residual")
    >>> xs = jnp.ones((2, 5, 3))
    >>> (carries, ys), variables = stack.init_with_output(
    ...     jax.random.key(0), xs, seq_lengths=jnp.array([5, 2]), return_carry=True
    ... )
    >>> len(carries), ys.shape, float(jnp.abs(ys[1, 2:]).max())
    (2, (2, 5, 4), 0.0)

    A stream in pieces: the carries go out, and in again.

    >>> carries, start = stack.apply(variables, xs[:, :3], return_carry=True)
    >>> rest = stack.apply(variables, xs[:, 3:], initial_carry=carries)
    >>> bool(jnp.allclose(jnp.concatenate([start, rest], axis=1), stack.apply(variables, xs)))
    True
    """

    layers: Sequence[Any]
    skip: Skip = None
    dropout: float = 0.0
    deterministic: bool | None = None
    return_carry: bool = False

    def __post_init__(self) -> None:
        # A list would make the stack unhashable, and so no static argument of jit.
        if isinstance(self.layers, list):
            self.layers = tuple(self.layers)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Sequence[PyTree] | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Applies the layers to `inputs`.

        Args:
          inputs: (B, T, D), or (T, B, D) if time-major.
          initial_carry: one carry for each layer, in their order.
          init_key: for random initial carries; each layer gets its own part.
          seq_lengths, mask: see `RNN`.
          return_carry: overrides the attribute.
          time_major: overrides the attribute of every layer.
          reverse: overrides the attribute of every layer: from the true end of each row to its
            beginning, or not.
          keep_order: overrides the attribute of every layer; must be true of those in reverse.
          deterministic: see the attribute, in place of which it is given.

        Returns:
          Outputs; with `return_carry` a tuple of the layers' final carries first.

        Raises:
          ValueError: `skip` or `dropout` is not known, the stack is empty, layers that "residual"
            would add have not one width, `initial_carry` has not one entry for each layer, or
            a layer runs in reverse without `keep_order`.
          TypeError: a layer does not take an argument that was given.
        """
        self._check(initial_carry, reverse, keep_order)
        return_carry = self.return_carry if return_carry is None else return_carry
        given = {
            "seq_lengths": seq_lengths,
            "mask": mask,
            "time_major": time_major,
            "reverse": reverse,
            "keep_order": keep_order,
            "return_carry": return_carry or None,
        }
        given = {name: value for name, value in given.items() if value is not None}
        count = len(self.layers)
        # Per layer: a layer without a carry of its own need not know that others have one.
        starts = [{}] * count
        if initial_carry is not None:
            starts = [{"initial_carry": carry} for carry in initial_carry]
        elif init_key is not None:
            starts = [{"init_key": key} for key in jax.random.split(init_key, count)]
        inputs = jnp.asarray(inputs)
        carries, outputs, below = [], [], inputs
        for k, (layer, start) in enumerate(zip(self.layers, starts, strict=True)):
            if k > 0 and self.dropout > 0:
                below = nn.Dropout(self.dropout, deterministic=self.deterministic)(
                    below, deterministic=deterministic
                )
            if k > 0 and self.skip == "input_output":
                below = jnp.concatenate([inputs, below], axis=-1)
            result = layer(below, **given, **start)
            # A layer whose own attribute asks for its carry returns it unasked.
            carry, ys = result if isinstance(result, tuple) else (None, result)
            if k > 0 and self.skip == "residual":
                ys = _add(k, outputs[-1], ys)
            carries.append(carry)
            outputs.append(ys)
            below = ys
        result = jnp.concatenate(outputs, axis=-1) if self.skip == "input_output" else outputs[-1]
        return (tuple(carries), result) if return_carry else result

    def _check(
        self, initial_carry: Sequence[PyTree] | None, reverse: bool | None, keep_order: bool | None
    ) -> None:
        check_choice("skip", self.skip, SKIPS)
        if not self.layers:
            raise ValueError("a stack needs at least one layer")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout={self.dropout!r} is no rate; it must be between 0 and 1")
        for k, layer in enumerate(self.layers):
            # Else the layers above would read, and the skips would add, steps of other times.
            backwards = getattr(layer, "reverse", False) if reverse is None else reverse
            in_order = getattr(layer, "keep_order", False) if keep_order is None else keep_order
            if backwards and not in_order:
                raise ValueError(
                    f"layers[{k}] runs in reverse, and in a stack outputs stay at the time of their"
                    " input: give keep_order=True"
                )
        if initial_carry is not None and len(initial_carry) != len(self.layers):
            raise ValueError(
                f"initial_carry must have one entry for each of {len(self.layers)} layers,"
                f" got {len(initial_carry)}"
            )


def _add(k: int, below: Array, ys: Array) -> Array:
    if below.shape != ys.shape:
        raise ValueError(
            f"skip='residual' adds the input {below.shape} of layers[{k}] to its output"
            f" {ys.shape}; give all layers one width, or choose skip='input_output'"
        )
    return below + ys

"""The layers: over time, around other layers, and those with a norm inside."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from lnjax import nn
from lnjax.cells.running import Implementation
from lnjax.nn.bidirectional import concatenate_features
from lnjax.nn.residual import Placement, add_residual
from lnjax.nn.stack import Skip
from lnjax.nnx.cells import Cell
from lnjax.nnx.front import Front, Made, Plain, Rngs, carry_key, checked, stream
from lnjax.typing import Array, PyTree


class RNN(Front):
    """`lnjax.RNN`, over a cell of this module."""

    def __init__(
        self,
        cell: Cell,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        implementation: Implementation = "auto",
    ):
        self.cell = checked(cell, "a cell", Cell)
        self.time_major, self.return_carry = time_major, return_carry
        self.reverse, self.keep_order = reverse, keep_order
        self.unroll, self.implementation = unroll, implementation

    def _linen(self, made: Made) -> nn.RNN:
        return nn.RNN(
            made(self.cell),
            time_major=self.time_major,
            return_carry=self.return_carry,
            reverse=self.reverse,
            keep_order=self.keep_order,
            unroll=self.unroll,
            implementation=self.implementation,
            parent=None,
        )

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: PyTree | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Rngs | None = None,
    ) -> Any:
        """As `lnjax.RNN`; the stream "carry" of `rngs` is for a random initial carry."""
        return self._apply(
            inputs,
            initial_carry=initial_carry,
            init_key=carry_key(rngs),
            seq_lengths=seq_lengths,
            mask=mask,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )


class Bidirectional(Front):
    """`lnjax.Bidirectional`, over two layers of this module."""

    def __init__(
        self,
        forward_rnn: Front,
        backward_rnn: Front,
        *,
        merge_fn: Callable[[Array, Array], Array] = concatenate_features,
        time_major: bool = False,
        return_carry: bool = False,
    ):
        self.forward_rnn = checked(forward_rnn, "a layer", Front, but=Cell)
        self.backward_rnn = checked(backward_rnn, "a layer", Front, but=Cell)
        self.merge_fn, self.time_major, self.return_carry = merge_fn, time_major, return_carry

    def _linen(self, made: Made) -> nn.Bidirectional:
        return nn.Bidirectional(
            made(self.forward_rnn),
            made(self.backward_rnn),
            merge_fn=self.merge_fn,
            time_major=self.time_major,
            return_carry=self.return_carry,
            parent=None,
        )

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[PyTree, PyTree] | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Rngs | None = None,
    ) -> Any:
        """As `lnjax.Bidirectional`; the stream "carry" of `rngs` is for random initial carries."""
        return self._apply(
            inputs,
            initial_carry=initial_carry,
            init_key=carry_key(rngs),
            seq_lengths=seq_lengths,
            mask=mask,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )


class Stack(Front):
    """`lnjax.Stack`, over layers of this module, which are here `layers_0`, `layers_1`, ..."""

    def __init__(
        self,
        layers: Sequence[Front],
        *,
        skip: Skip = None,
        dropout: float = 0.0,
        deterministic: bool = False,
        return_carry: bool = False,
        rngs: nnx.Rngs | None = None,
    ):
        if dropout and rngs is None:
            raise ValueError(f"dropout={dropout} draws from the stream dropout: give rngs")
        for k, layer in enumerate(layers):
            setattr(self, f"layers_{k}", checked(layer, "a layer", Front, but=Cell))
        self.num_layers, self.skip, self.dropout = len(layers), skip, dropout
        self.deterministic, self.return_carry = deterministic, return_carry
        if dropout:
            self.stream = stream(rngs, "dropout")

    def _linen(self, made: Made) -> nn.Stack:
        return nn.Stack(
            [made(getattr(self, f"layers_{k}")) for k in range(self.num_layers)],
            skip=self.skip,
            dropout=self.dropout,
            deterministic=self.deterministic,
            return_carry=self.return_carry,
            parent=None,
        )

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Sequence[PyTree] | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Rngs | None = None,
    ) -> Any:
        """As `lnjax.Stack`; the stream "carry" of `rngs` is for random initial carries."""
        return self._apply(
            inputs,
            initial_carry=initial_carry,
            init_key=carry_key(rngs),
            seq_lengths=seq_lengths,
            mask=mask,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )


class NormalizedLayer(Plain):
    """What `Normalize`, `Dense` and `Conv` share."""

    def __call__(
        self, inputs: Array, *, mask: Array | None = None, use_running_average: bool | None = None
    ) -> Array:
        """As the layer of this name in `lnjax`."""
        layer = self.linen()
        if use_running_average is not None:
            layer = layer.clone(use_running_average=use_running_average)
        return self._apply(inputs, mask=mask, definition=layer)


class Normalize(NormalizedLayer):
    """`lnjax.Normalize`, over `num_features` channels."""

    namesake = nn.Normalize

    def __init__(self, num_features: int, *, rngs: nnx.Rngs, **attributes: Any):
        spatial = (1,) * attributes.get("num_spatial_axes", 0)
        self._make(attributes, rngs, jnp.zeros((1, *spatial, num_features)))


class Dense(NormalizedLayer):
    """`lnjax.Dense`."""

    namesake = nn.Dense

    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs, **attributes: Any):
        attributes = {"features": features, **attributes}
        self._make(attributes, rngs, jnp.zeros((1, in_features)))


class Conv(NormalizedLayer):
    """`lnjax.Conv`."""

    namesake = nn.Conv

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int | Sequence[int],
        *,
        rngs: nnx.Rngs,
        **attributes: Any,
    ):
        size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        attributes = {"features": features, "kernel_size": size, **attributes}
        self._make(attributes, rngs, jnp.zeros((1, *(1,) * len(size), in_features)))


class Residual(nnx.Module):
    """`lnjax.Residual`, around any NNX layer over `num_features` channels."""

    def __init__(
        self,
        layer: nnx.Module,
        num_features: int,
        *,
        placement: Placement = "pre",
        norm: str | None = "layer",
        epsilon: float = 1e-5,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.layer, self.placement, self.norm = layer, placement, norm
        if norm is not None:
            self.normalize = Normalize(
                num_features, norm=norm, epsilon=epsilon, param_dtype=param_dtype, rngs=rngs
            )

    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Any:
        """Applies the layer to x (..., C); further arguments go to it as they are."""
        normalize = None if self.norm is None else self.normalize
        return add_residual(self.layer, normalize, self.placement, x, args, kwargs)

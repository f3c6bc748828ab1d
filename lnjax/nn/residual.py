"""Residual: any layer with a skip connection around it and a norm before or after."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from lnjax.cells.running import check_choice
from lnjax.nn.normalize import Normalize
from lnjax.typing import Array, DType

Placement = Literal["pre", "post"]


class Residual(nn.Module):
    r"""A layer :math:`f` with its input added to its output, and a norm.

    .. math::
        \text{"pre":}  \quad y &= x + f(\mathrm{norm}(x)) \\
        \text{"post":} \quad y &= \mathrm{norm}(x + f(x))

    "post" is the first transformer's, "pre" leaves the path of the inputs free of norms: its
    gradient at the start of training does not depend on depth (Xiong et al. 2020). A stack of "pre"
    ends with a norm of its own, which is not here.

    The wrapper reads no mask: it hands all arguments but the first on to the layer, for which
    `mask` may mean anything. A step of zeros that the layer keeps at zero comes out as zero with
    "pre", as the bias of the norm with "post"; NaN in the padding must be replaced before.

    Attributes:
      layer: a module that is called with x (..., C), and returns (..., C); or a pair (carry, ys)
        of which ys is that, as an `RNN` with `return_carry` does.
      placement: "pre" or "post".
      norm: "layer", "rms" or None (then the placement says nothing: y = x + f(x)). Its parameters
        are `scale` and `bias` under ``normalize``.
      epsilon: of the norm.
      param_dtype: of the norm's parameters.

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> block = Residual(nn.Dense(3), placement="pre")
    >>> y, variables = block.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
    >>> y.shape, sorted(variables["params"])
    ((2, 3), ['layer', 'normalize'])
    """

    layer: Any
    placement: Placement = "pre"
    norm: Literal["layer", "rms"] | None = "layer"
    epsilon: float = 1e-5
    param_dtype: DType = jnp.float32

    # The one place in lnjax that passes arguments on unseen: a wrapper of any layer cannot name
    # them, and has none of its own in the call.
    @nn.compact
    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Any:
        """Applies the layer to x (..., C); further arguments go to it as they are.

        Returns:
          (..., C), or the pair (carry, that), if the layer returns a pair.

        Raises:
          ValueError: `placement` or `norm` is not known, or the layer returns another shape than
            that of `x`, or a tuple that is no pair.
          TypeError: `x` is not of a floating dtype.
        """
        check_choice("norm", self.norm, ("layer", "rms", None))
        normalize = None
        if self.norm is not None:
            normalize = Normalize(
                self.norm, epsilon=self.epsilon, param_dtype=self.param_dtype, name="normalize"
            )
        return add_residual(self.layer, normalize, self.placement, x, args, kwargs)


def add_residual(
    layer: Callable[..., Any],
    normalize: Callable[[Array], Array] | None,
    placement: Placement,
    x: Array,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """What `Residual` does, of a layer and a norm of any module system."""
    check_choice("placement", placement, ("pre", "post"))
    name = type(layer).__name__
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"Residual({name}) takes floating point x, got {x.dtype}")

    def norm(x: Array) -> Array:
        # In the dtype of x, lest float32 parameters widen all that follows in half precision.
        return x if normalize is None else normalize(x).astype(x.dtype)

    result = layer(norm(x) if placement == "pre" else x, *args, **kwargs)
    carry, y = None, result
    if isinstance(result, tuple):
        if len(result) != 2:
            raise ValueError(
                f"{name} returned a tuple of {len(result)}; Residual takes layers that return"
                " an array or a pair (carry, array)"
            )
        carry, y = result
    if y.shape != x.shape:
        raise ValueError(
            f"Residual cannot add x {x.shape} to what {name} made of it, {y.shape}; give the"
            " layer as many features as its input has"
        )
    y = x + y if placement == "pre" else norm(x + y)
    return (carry, y) if isinstance(result, tuple) else y

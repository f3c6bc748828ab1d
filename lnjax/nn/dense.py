"""Dense: a linear map whose summed inputs (or whose weights) are normalized."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from lnjax.nn.normalize import NormalizedLayer, real_cases
from lnjax.ops import product, weight_norm, zero_padding
from lnjax.typing import Array


class Dense(NormalizedLayer):
    r"""A linear map, the norm of its summed inputs, gain and bias (Ba et al. 2016, Eq. 3 and 5).

    .. math::
        y = \mathrm{norm}(x W) \odot \mathrm{scale} + \mathrm{bias}

    The activation is the caller's. There is one bias, after the norm: "layer" and "batch" would
    undo much or all of one before it. With ``norm="weight"`` the kernel is normalized in place of
    the summed inputs; with ``norm=None`` the layer is `flax.linen.Dense`. The products are summed,
    and statistics taken, in at least float32, whatever `dtype`.

    Attributes:
      features: the number of units.
      norm: "layer"; "rms"; "batch", each unit over all rows of the input; "group", each group of
        neighbouring units; "weight"; or None. There is no "instance": a unit has but one summed
        input for each case.
      precision: of the product, see `jax.lax.Precision`.
      kernel_init: for `kernel` (D, features).
      epsilon, use_scale, use_bias, num_groups, momentum, unbiased, use_running_average, dtype,
        param_dtype, scale_init, bias_init: see `NormalizedLayer`; for "weight", `epsilon` is added
        to a unit's squared norm. `dtype` is that of the operands of the product, too.

    >>> import jax, jax.numpy as jnp
    >>> layer = Dense(features=4, norm="layer")
    >>> x = jax.random.normal(jax.random.key(0), (2, 3))
    >>> y, variables = layer.init_with_output(jax.random.key(1), x)
    >>> jax.tree.map(jnp.shape, variables["params"])
    {'bias': (4,), 'kernel': (3, 4), 'scale': (4,)}
    >>> bool(jnp.abs(y.mean(axis=-1)).max() < 1e-6)
    True
    """

    features: int
    norm: Literal["layer", "rms", "batch", "weight", "group"] | None = "layer"
    precision: Any = None
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, inputs: Array, *, mask: Array | None = None, use_running_average: bool | None = None
    ) -> Array:
        """Applies the layer.

        Args:
          inputs: (..., D).
          mask: bool, True = real, of the shape of the inputs without their last axis.
          use_running_average: for "batch", see the attribute, in place of which it is given; the
            other norms do the same in training and evaluation.

        Returns:
          (..., features), in `dtype`; zero where `mask` is False.

        Raises:
          ValueError: `norm` is not known, an option is given that it has not, or `mask` does not
            fit the inputs.
        """
        self.check_norm(self.norm, ("layer", "rms", "batch", "weight", "group", None))
        inputs = jnp.asarray(inputs)
        mask = real_cases(mask, inputs.shape[:-1])
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        dtype = canonicalize_dtype(inputs, kernel, dtype=self.dtype)
        if self.norm == "weight":
            kernel = weight_norm(kernel, self.gain(self.features), epsilon=self.epsilon)
        summed = product(zero_padding(inputs, mask), kernel, dtype, precision=self.precision)
        return self.normalize(self.norm, summed, mask, use_running_average, dtype=dtype)

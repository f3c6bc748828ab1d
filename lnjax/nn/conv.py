"""Conv: a convolution whose summed inputs (or whose weights) are normalized."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from lnjax.nn.normalize import NORMS, NormalizedLayer, real_cases
from lnjax.ops import weight_norm, zero_padding
from lnjax.typing import Array


class Conv(NormalizedLayer):
    r"""A convolution, the norm of its summed inputs, gain and bias (Ba et al. 2016, Section 6.7).

    .. math::
        y = \mathrm{norm}(x * W) \odot \mathrm{scale} + \mathrm{bias}

    Channels are last, gain and bias are (features,), and the activation is the caller's. The
    convolution is that of `flax.linen.Conv`, whose arguments these are, without its `mask` of the
    kernel; with ``norm=None`` the layer is that one. Statistics are taken in at least float32, of
    summed inputs that are, as in Flax, in `dtype`.

    Attributes:
      features: the number of output channels.
      kernel_size: an integer, which means one spatial axis, or the length on each spatial axis.
      norm: "layer", "rms", over all positions and channels of an image; "group", over all positions
        and each group of channels; "instance", over all positions for each channel; "batch", over
        all images and positions for each channel; "weight", of the incoming weights of each
        channel; or None.
      strides, padding, input_dilation, kernel_dilation, feature_group_count, precision: see
        `flax.linen.Conv`.
      kernel_init: for `kernel` (*kernel_size, C / feature_group_count, features).
      epsilon, use_scale, use_bias, num_groups, momentum, unbiased, use_running_average, dtype,
        param_dtype, scale_init, bias_init: see `NormalizedLayer`; for "weight", `epsilon` is added
        to a unit's squared norm. `dtype` is that of the operands of the convolution, too.

    >>> import jax, jax.numpy as jnp
    >>> layer = Conv(features=8, kernel_size=(3, 3), norm="layer", strides=2)
    >>> images = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    >>> y, variables = layer.init_with_output(jax.random.key(1), images)
    >>> y.shape, jax.tree.map(jnp.shape, variables["params"])
    ((2, 3, 3, 8), {'bias': (8,), 'kernel': (3, 3, 3, 8), 'scale': (8,)})
    >>> bool(jnp.abs(y.mean(axis=(1, 2, 3))).max() < 1e-6)
    True
    """

    features: int
    kernel_size: int | Sequence[int]
    norm: Literal["layer", "rms", "batch", "weight", "group", "instance"] | None = "layer"
    strides: int | Sequence[int] | None = 1
    padding: Any = "SAME"
    input_dilation: int | Sequence[int] | None = 1
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    precision: Any = None
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, inputs: Array, *, mask: Array | None = None, use_running_average: bool | None = None
    ) -> Array:
        """Applies the layer.

        Args:
          inputs: (cases..., positions..., C), as many axes of positions as the kernel has.
          mask: bool, True = real, of the shape of the cases: (B,) for images (B, H, W, C).
          use_running_average: for "batch", see the attribute, in place of which it is given; the
            other norms do the same in training and evaluation.

        Returns:
          (cases..., positions..., features), in `dtype`; zero where `mask` is False.

        Raises:
          ValueError: `norm` is not known, an option is given that it has not, the channels do not
            fall into `feature_group_count` groups, or `inputs` or `mask` has a shape that does not
            fit.
        """
        self.check_norm(self.norm, (*NORMS[:-1], "weight", None))
        size = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        inputs = jnp.asarray(inputs)
        if inputs.ndim <= len(size):
            raise ValueError(
                f"inputs {inputs.shape} must have {len(size)} axes of positions, as the kernel"
                f" {size} has, and one of channels"
            )
        mask = real_cases(mask, inputs.shape[: inputs.ndim - 1 - len(size)])
        channels = inputs.shape[-1]
        if channels % self.feature_group_count or self.features % self.feature_group_count:
            raise ValueError(
                f"feature_group_count={self.feature_group_count} must divide the {channels}"
                f" channels of the inputs and the {self.features} features"
            )
        shape = (*size, channels // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        dtype = canonicalize_dtype(inputs, kernel, dtype=self.dtype)
        if self.norm == "weight":
            kernel = weight_norm(kernel, self.gain(self.features), epsilon=self.epsilon)
        # Outside of this module's scope, so that the kernel is a parameter of this layer itself.
        convolution = nn.Conv(
            self.features,
            size,
            strides=self.strides,
            padding=self.padding,
            input_dilation=self.input_dilation,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            use_bias=False,
            dtype=dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            parent=None,
        )
        summed = convolution.apply({"params": {"kernel": kernel}}, zero_padding(inputs, mask))
        return self.normalize(
            self.norm,
            jnp.asarray(summed),
            mask,
            use_running_average,
            num_spatial_axes=len(size),
            dtype=dtype,
        )

"""Normalize: every norm of one input as one layer, and what the layers with a norm inside share.

One rule for all norms, so that a network swaps them by one key: an input is
(cases..., positions..., C); gain and bias are (C,); a mask has the shape of the cases, and where it
is False the output is zero, and what stands there, NaN included, reaches neither outputs nor
statistics nor gradients.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from lnjax.ops import (
    batch_norm,
    batch_statistics,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
    zero_padding,
)
from lnjax.ops.normalization import affine, statistics_dtype
from lnjax.typing import Array, DType

Norm = Literal["layer", "rms", "batch", "group", "instance"] | None
NORMS = ("layer", "rms", "batch", "group", "instance", None)

# The options that only one norm has: with another norm they must keep their defaults.
OPTIONS = {"num_groups": "group", "momentum": "batch", "unbiased": "batch"}


class NormalizedLayer(nn.Module, kw_only=True):
    """What `Normalize`, `Dense` and `Conv` share: the attributes of a norm, and its application.

    All parameters and running statistics are the layer's own, without a level between: `scale`,
    `bias`, and in the collection `batch_stats` `mean` and `var`.

    Attributes:
      epsilon: under the root of whatever norm there is.
      use_scale: whether there is a gain, if there is a norm.
      use_bias: whether there is a bias.
      num_groups: for "group", into how many groups the channels fall.
      momentum: for "batch", the share of the running statistics that an update keeps.
      unbiased: for "batch", divide the variance by n - 1, in the outputs and in what enters the
        running variance.
      use_running_average: for "batch", normalize with the running statistics (evaluation) and not
        with those of the batch (training); here or in the call. The other norms compute the same
        in both and take it without a use for it.
      dtype: of the outputs; None: the common one of inputs and parameters, as in Flax.
      param_dtype: of the parameters, and of the running statistics if it is at least float32.
      scale_init: for the gain.
      bias_init: for the bias.
    """

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    num_groups: int = 32
    momentum: float = 0.99
    unbiased: bool = False
    use_running_average: bool | None = None
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    def check_norm(self, norm: str | None, known: tuple[str | None, ...]) -> None:
        """Refuses a norm that this layer has not, and options that the norm has not."""
        if norm not in known:
            raise ValueError(
                f"norm={norm!r} is not one that {type(self).__name__} knows; choose one of"
                f" {', '.join(map(repr, known))}"
            )
        for option, owner in OPTIONS.items():
            value, default = getattr(self, option), getattr(NormalizedLayer, option)
            if norm != owner and value != default:
                raise ValueError(
                    f"{option}={value!r} belongs to norm={owner!r} and has no meaning for"
                    f" norm={norm!r}; leave it at {default!r}"
                )

    def gain(self, features: int) -> Array | None:
        """Declares `scale`, unless `use_scale` is off."""
        if not self.use_scale:
            return None
        return self.param("scale", self.scale_init, (features,), self.param_dtype)

    def normalize(
        self,
        norm: str | None,
        x: Array,
        mask: Array | None,
        use_running_average: bool | None,
        *,
        num_spatial_axes: int = 0,
        dtype: DType | None,
    ) -> Array:
        """x (cases..., positions..., C) -> normalized, times the gain, plus the bias, in `dtype`.

        Declares gain and bias; without a norm there is no gain, and "weight" has had its own in the
        kernel.
        """
        scale = None if norm in (None, "weight") else self.gain(x.shape[-1])
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, x.shape[-1:], self.param_dtype)
        wide = x.astype(statistics_dtype(canonicalize_dtype(x)))
        wide = zero_padding(wide, mask)
        normalized = self._statistics(norm, wide, mask, use_running_average, num_spatial_axes)
        # Zero before the gain, too: with epsilon 0 a row of zeros has become 0 * inf.
        normalized = zero_padding(normalized, mask)
        y = zero_padding(affine(normalized, scale, bias, (x.ndim - 1,)), mask)
        return y.astype(canonicalize_dtype(x, scale, bias, dtype=dtype))

    def _statistics(
        self,
        norm: str | None,
        x: Array,
        mask: Array | None,
        use_running_average: bool | None,
        num_spatial_axes: int,
    ) -> Array:
        first = x.ndim - 1 - num_spatial_axes
        spatial, case = tuple(range(first, x.ndim - 1)), tuple(range(first, x.ndim))
        if norm == "layer":
            return layer_norm(x, axis=case, epsilon=self.epsilon)
        if norm == "rms":
            return rms_norm(x, axis=case, epsilon=self.epsilon)
        if norm == "group":
            return group_norm(x, num_groups=self.num_groups, axis=spatial, epsilon=self.epsilon)
        if norm == "instance":
            return instance_norm(x, axis=spatial, epsilon=self.epsilon)
        if norm == "batch":
            if mask is not None:
                mask = mask.reshape(mask.shape + (1,) * num_spatial_axes)
                mask = jnp.broadcast_to(mask, x.shape[:-1])
            return self._over_the_batch(x, mask, use_running_average)
        return x

    def _over_the_batch(
        self, x: Array, mask: Array | None, use_running_average: bool | None
    ) -> Array:
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        shape, dtype = x.shape[-1:], statistics_dtype(self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        if use_running_average:
            statistics = (mean.value, var.value)
            return batch_norm(x, mask=mask, epsilon=self.epsilon, statistics=statistics)
        if not self.is_initializing():
            # Computed once more in `batch_norm`, which keeps digits that a mean of 1e5 has not:
            # under jit the compiler merges the two.
            statistics = batch_statistics(x, mask=mask, unbiased=self.unbiased)
            for running, value in zip((mean, var), statistics, strict=True):
                new = self.momentum * running.value + (1 - self.momentum) * value
                if mask is not None:
                    # A batch without a real case has nothing to say.
                    new = jnp.where(jnp.any(mask), new, running.value)
                running.value = new.astype(dtype)
        return batch_norm(x, mask=mask, epsilon=self.epsilon, unbiased=self.unbiased)


class Normalize(NormalizedLayer):
    """One of the norms, by name, with gain and bias for each channel.

    An input is (cases..., positions..., C). `num_spatial_axes` says how many axes before the last
    are positions within one case, as the height and width of an image are; the steps of a sequence
    are cases. Statistics run over

    * "layer", "rms": the positions and channels of one case;
    * "group": the positions of one case and each group of neighbouring channels;
    * "instance": the positions of one case, for each channel apart;
    * "batch": all cases and positions, for each channel apart;
    * None: nothing. The layer is the identity, has no parameters, and keeps only the mask's rule.

    "rms" has a bias like the others unless `use_bias` is off: the norms shall differ in their
    statistics and in nothing else.

    "batch" behaves as `flax.linen.BatchNorm` with ``use_fast_variance=False``: the collection
    `batch_stats` holds the running `mean` and `var`, which a call in training mode updates if the
    collection is mutable, and fails if not; initializing leaves them as they start, 0 and 1. Under
    ``jit`` with a batch spread over devices the statistics are those of the whole batch.

    Attributes:
      norm: "layer", "rms", "batch", "group", "instance" or None.
      num_spatial_axes: see above; "instance" needs at least one.
      epsilon, use_scale, use_bias, num_groups, momentum, unbiased, use_running_average, dtype,
        param_dtype, scale_init, bias_init: see `NormalizedLayer`.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[1.0, 2.0, 3.0], [4.0, 6.0, 8.0]])
    >>> y, variables = Normalize("layer").init_with_output(jax.random.key(0), x)
    >>> [round(value, 3) for value in y[1].tolist()], sorted(variables["params"])
    ([-1.225, 0.0, 1.225], ['bias', 'scale'])
    >>> layer = Normalize("batch", momentum=0.9)
    >>> variables = layer.init(jax.random.key(0), x, use_running_average=False)
    >>> y, state = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    >>> [round(value, 3) for value in state["batch_stats"]["mean"].tolist()]
    [0.25, 0.4, 0.55]
    """

    norm: Norm = "layer"
    num_spatial_axes: int = 0

    @nn.compact
    def __call__(
        self, x: Array, *, mask: Array | None = None, use_running_average: bool | None = None
    ) -> Array:
        """Normalizes `x`.

        Args:
          x: (cases..., positions..., C).
          mask: bool, True = real, of the shape of the cases: (B,), or (B, T) for sequences.
          use_running_average: for "batch", see the attribute, in place of which it is given; the
            other norms do the same in training and evaluation.

        Returns:
          Of the shape of `x`, in `dtype`; zero where `mask` is False.

        Raises:
          ValueError: `norm` is not known, an option is given that it has not, or `x` or `mask` has
            a shape that does not fit.
        """
        self.check_norm(self.norm, NORMS)
        x = jnp.asarray(x)
        if not 0 <= self.num_spatial_axes < x.ndim:
            raise ValueError(
                f"num_spatial_axes={self.num_spatial_axes}, but x {x.shape} has"
                f" {x.ndim - 1} axes before its channels"
            )
        if self.norm == "instance" and self.num_spatial_axes == 0:
            raise ValueError(
                "norm='instance' takes its statistics over the positions of a case: say with"
                " num_spatial_axes how many axes before the channels these are"
            )
        mask = real_cases(mask, x.shape[: x.ndim - 1 - self.num_spatial_axes])
        if self.norm is None:
            return zero_padding(x, mask).astype(canonicalize_dtype(x, dtype=self.dtype))
        return self.normalize(
            self.norm,
            x,
            mask,
            use_running_average,
            num_spatial_axes=self.num_spatial_axes,
            dtype=self.dtype,
        )


def real_cases(mask: Array | None, cases: tuple[int, ...]) -> Array | None:
    """The mask as an array, after a check that it is one of `cases`."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape != cases:
        raise ValueError(f"mask has shape {mask.shape}, but the inputs have cases {cases}")
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool (True = real), got {mask.dtype}")
    return mask

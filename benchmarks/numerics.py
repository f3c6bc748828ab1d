"""How many digits do the norms and the cells keep, beside those of Flax?

    python benchmarks/numerics.py > docs/numerics.md

Every error is against the same computation in float64, on the same (already rounded) inputs. It
needs jax and flax only, and takes about a minute on two CPU cores.
"""

import platform

import flax
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

import lnjax  # noqa: E402

ROWS, WIDTH = 64, 512
FLAX = "flax.linen.LayerNorm()"
FLAX_TWO_PASS = "the same, use_fast_variance=False"


def layer_norms(epsilon):
    """Three layer norms without gain and bias, with one epsilon."""

    def flax_norm(fast):
        layer = nn.LayerNorm(
            epsilon=epsilon, use_scale=False, use_bias=False, use_fast_variance=fast
        )
        return lambda x: layer.apply({}, x)

    return {
        "lnjax.layer_norm": lambda x: lnjax.layer_norm(x, epsilon=epsilon),
        FLAX: flax_norm(True),
        FLAX_TWO_PASS: flax_norm(False),
    }


def exact_layer_norm(x, epsilon):
    x = np.asarray(x, np.float64)
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)


def table(corner, columns, rows):
    """A Markdown table; `rows` maps a name to its cells."""
    yield f"| {corner} | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, cells in rows.items():
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def digits(value):
    return f"{value:.1e}" if np.isfinite(value) else str(value)


def shifted_rows():
    yield "## Rows with a large mean"
    yield ""
    yield (
        f"{ROWS} rows of {WIDTH} with unit variance, float32, epsilon 1e-5; largest absolute error"
        " of the normalized row."
    )
    yield ""
    means, rng = (0, 1e2, 1e3, 3e3, 1e4, 1e5), np.random.default_rng(0)
    noise = rng.normal(size=(ROWS, WIDTH))
    rows = {}
    for name, norm in layer_norms(1e-5).items():
        rows[name] = []
        for mean in means:
            x = (mean + noise).astype(np.float32)
            error = np.abs(np.asarray(jax.jit(norm)(x), np.float64) - exact_layer_norm(x, 1e-5))
            rows[name].append(digits(error.max()))
    yield from table("mean of the row", [f"{mean:g}" for mean in means], rows)


def half_rows():
    yield "## Half precision inputs"
    yield ""
    yield (
        "The same in bfloat16 and float16, output in the dtype of the input; largest error in units"
        " of the last place of 1 (half a unit is the rounding of the output itself; values reach"
        " 4, where it is two)."
    )
    yield ""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(ROWS, WIDTH))
    cases = [(dtype, mean) for dtype in (jnp.bfloat16, jnp.float16) for mean in (0, 10, 100)]
    rows = {}
    for name, norm in layer_norms(1e-5).items():
        rows[name] = []
        for dtype, mean in cases:
            x = jnp.asarray(mean + noise, dtype)
            error = np.abs(np.asarray(jax.jit(norm)(x), np.float64) - exact_layer_norm(x, 1e-5))
            rows[name].append(f"{error.max() / float(jnp.finfo(dtype).eps):.2f}")
    columns = [f"{jnp.dtype(dtype).name}, mean {mean}" for dtype, mean in cases]
    yield from table("", columns, rows)


def rows_without_variance():
    yield "## Rows without variance"
    yield ""
    yield (
        "Such a row is the first step of every recurrent network: LN of W h with h = 0. Float32,"
        " epsilon 1e-5. Largest absolute value of the output (it should be 0), and of the gradient"
        " to the row for a random cotangent of unit deviation (bounded by epsilon ** -0.5 = 316"
        " times that of the cotangent)."
    )
    yield ""
    rng = np.random.default_rng(0)
    cotangent = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    cases = {"zero row": 0.0, "constant 0.1": 0.1, "constant 1e5 / 3": 1e5 / 3}
    rows = {}
    for name, norm in layer_norms(1e-5).items():
        rows[name] = []
        for value in cases.values():
            x = np.full((ROWS, WIDTH), value, np.float32)
            y, pullback = jax.vjp(jax.jit(norm), x)
            (gradient,) = pullback(cotangent)
            output, slope = (float(jnp.max(jnp.abs(a))) for a in (y, gradient))
            rows[name].append(f"{digits(output)}, {slope:.0f}")
    yield from table("output, gradient", list(cases), rows)


class ComposedLSTMCell(nn.RNNCellBase):
    """The LN-LSTM as one writes it from Flax's Dense and LayerNorm."""

    features: int
    dtype: object = None

    @nn.compact
    def __call__(self, carry, x):
        c, h = carry

        def norm(name):
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)

        def dense(name):
            return nn.Dense(4 * self.features, use_bias=False, dtype=self.dtype, name=name)

        summed = norm("ln_h")(dense("h")(h)) + norm("ln_x")(dense("x")(x))
        i, f, g, o = jnp.split(summed, 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(norm("ln_c")(c))
        return (c, h), h

    def initialize_carry(self, rng, input_shape):
        zeros = jnp.zeros((*input_shape[:-1], self.features), self.dtype or jnp.float32)
        return zeros, zeros

    @property
    def num_feature_axes(self):
        return 1


def composed_variables(params):
    """Ours for the cell above; its bias of the input side is our one bias."""
    zeros = jnp.zeros_like(params["bias"])
    return {
        "params": {
            "cell": {
                "h": {"kernel": params["recurrent_kernel"]},
                "x": {"kernel": params["kernel"]},
                "ln_h": {"scale": params["scale_h"], "bias": zeros},
                "ln_x": {"scale": params["scale_x"], "bias": params["bias"]},
                "ln_c": {"scale": params["scale_c"], "bias": params["bias_c"]},
            }
        }
    }


def sequences():
    yield "## The LN-LSTM over long sequences"
    yield ""
    yield (
        "B 4, H 64, random inputs, initial weights but gains of 0.3 (with gains of 1 the untrained"
        " cell is chaotic: any two roundings part after some hundred steps), from a zero state;"
        " largest absolute error of the outputs, and of the gradient of the recurrent kernel for a"
        " random cotangent relative to its largest element. The composition is Flax's Dense and"
        " LayerNorm under `nn.RNN`; bfloat16 means `dtype=bfloat16` and inputs in it."
    )
    yield ""
    batch, features, width = 4, 64, 16
    gains = nn.initializers.constant(0.3)
    rng = np.random.default_rng(0)
    rows = {}
    columns = []
    for steps in (100, 3200):
        xs = jnp.asarray(rng.normal(size=(batch, steps, width)))
        cotangent = jnp.asarray(rng.normal(size=(batch, steps, features)) / np.sqrt(steps))
        wide = lnjax.RNN(lnjax.LSTMCell(features, param_dtype=jnp.float64, scale_init=gains))
        variables = wide.init(jax.random.key(0), xs[:, :1])
        exact = loss_and_gradient(wide, xs, cotangent)(variables)
        for dtype in (jnp.float32, jnp.bfloat16):
            columns.append(f"T {steps}, {jnp.dtype(dtype).name}")
            half = None if dtype == jnp.float32 else dtype
            low = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
            composed = composed_variables(low["params"]["cell"])
            for name, layer, given in (
                ("lnjax", lnjax.RNN(lnjax.LSTMCell(features, dtype=half)), low),
                ("composed in Flax", nn.RNN(ComposedLSTMCell(features, dtype=half)), composed),
            ):
                (ys, gradient) = loss_and_gradient(layer, xs.astype(dtype), cotangent)(given)
                error = float(jnp.max(jnp.abs(ys.astype(jnp.float64) - exact[0])))
                scale = float(jnp.max(jnp.abs(exact[1])))
                slope = float(jnp.max(jnp.abs(gradient.astype(jnp.float64) - exact[1]))) / scale
                rows.setdefault(name, []).append(f"{digits(error)}, {digits(slope)} ({ys.dtype})")
    yield from table("outputs, gradient (dtype of outputs)", columns, rows)


def loss_and_gradient(layer, xs, cotangent):
    def loss(variables):
        ys = layer.apply(variables, xs)
        return jnp.vdot(ys.astype(cotangent.dtype), cotangent), ys

    def run(variables):
        (_, ys), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
        cell = gradient["params"]["cell"]
        return ys, cell["recurrent_kernel"] if "recurrent_kernel" in cell else cell["h"]["kernel"]

    return jax.jit(run)


def padding():
    yield "## Padding"
    yield ""
    yield "A plain LSTM over a batch with rows of length 3 and 0, NaN in the padding."
    yield ""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(2, 5, 3)).astype(np.float32)
    xs[0, 3:] = xs[1] = np.nan
    lengths = jnp.array([3, 0])
    start = (jnp.full((2, 4), 0.5, jnp.float32), jnp.full((2, 4), 0.25, jnp.float32))
    rows = {}
    for name, layer in (
        ("lnjax", lnjax.RNN(lnjax.LSTMCell(4, norm=None), return_carry=True)),
        ("flax.linen", nn.RNN(nn.LSTMCell(4, param_dtype=jnp.float32), return_carry=True)),
    ):
        variables = layer.init(jax.random.key(0), jnp.zeros((2, 5, 3), jnp.float32))

        def loss(variables, layer=layer):
            carry, ys = layer.apply(variables, xs, initial_carry=start, seq_lengths=lengths)
            return jnp.sum(jnp.where(jnp.arange(5)[:, None] < 3, ys[0], 0)), (carry, ys)

        gradient, (carry, ys) = jax.grad(loss, has_aux=True)(variables)
        finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
        held = bool((carry[1][1] == start[1][1]).all())
        zero = bool((ys[0, 3:] == 0).all())
        rows[name] = ["yes" if answer else "no" for answer in (finite, held, zero)]
    columns = ["gradient is finite", "length 0 returns the initial carry", "padding outputs 0"]
    yield from table("", columns, rows)


def main():
    print("# Numerics\n")
    print(
        f"Printed by `python benchmarks/numerics.py`: jax {jax.__version__}, flax"
        f" {flax.__version__}, Python {platform.python_version()},"
        f" {jax.devices()[0].platform}.\n"
    )
    for section in (shifted_rows, half_rows, rows_without_variance, sequences, padding):
        for line in section():
            print(line)


if __name__ == "__main__":
    main()

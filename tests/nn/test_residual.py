import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lnjax
from lnjax.nn import Residual
from tests.nn.sequences import H, from_lengths, random_variables
from tests.trees import assert_close, assert_equal

NORMS = {"layer": lnjax.layer_norm, "rms": lnjax.rms_norm}


@pytest.fixture
def xs(rng):
    return rng.normal(size=(4, 5, H)).astype(np.float32)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_is_its_equation(xs, placement, norm):
    block = Residual(nn.Dense(H), placement=placement, norm=norm, epsilon=1e-3)
    variables = random_variables(block, xs)
    params = variables["params"]
    assert sorted(params) == (["layer"] if norm is None else ["layer", "normalize"])

    def normalize(x):
        if norm is None:
            return x
        return NORMS[norm](x, **params["normalize"], epsilon=1e-3)

    def layer(x):
        return nn.Dense(H).apply({"params": params["layer"]}, x)

    expected = xs + layer(normalize(xs)) if placement == "pre" else normalize(xs + layer(xs))
    assert_close(block.apply(variables, xs), expected)


def test_starts_as_the_plain_norm(xs):
    params = Residual(nn.Dense(H)).init(jax.random.key(0), xs)["params"]["normalize"]
    assert_equal(params, {"scale": np.ones(H), "bias": np.zeros(H)})


def test_attention_with_arguments_of_its_own(xs):
    attention = nn.MultiHeadDotProductAttention(num_heads=2, deterministic=True)
    block = Residual(attention, placement="post", norm=None)
    variables = random_variables(block, xs)
    mask = nn.make_causal_mask(xs[..., 0])
    # Keys and values as a positional argument, the mask of attention by name.
    got = block.apply(variables, xs, 2 * xs, mask=mask)
    assert_close(
        got, xs + attention.apply({"params": variables["params"]["layer"]}, xs, 2 * xs, mask=mask)
    )


def test_around_an_rnn(xs):
    rnn = lnjax.RNN(lnjax.SimpleCell(H))
    block = Residual(rnn)
    lengths = np.array([5, 0, 3, 2])
    xs = np.where(from_lengths(lengths)[..., None], xs, 0)
    variables = random_variables(block, xs)
    carry, ys = block.apply(variables, xs, seq_lengths=lengths, return_carry=True)
    inner = {"params": variables["params"]["layer"]}
    normalized = lnjax.layer_norm(xs, **variables["params"]["normalize"])
    end, added = rnn.apply(inner, normalized, seq_lengths=lengths, return_carry=True)
    assert_close((carry, ys), (end, xs + added))
    assert not np.asarray(ys)[~from_lengths(lengths)].any()
    assert_close(block.apply(variables, xs, seq_lengths=lengths), ys)


def test_after_a_post_norm_zeros_are_the_bias(xs):
    block = Residual(nn.Dense(H, use_bias=False), placement="post")
    variables = random_variables(block, xs)
    got = block.apply(variables, np.zeros_like(xs))
    bias = variables["params"]["normalize"]["bias"]
    assert_close(got, np.broadcast_to(bias, xs.shape))


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_half_precision_stays_half_precision(xs, placement):
    block = Residual(nn.Dense(H, dtype=jnp.bfloat16), placement=placement)
    variables = random_variables(block, xs)
    got = block.apply(variables, xs.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    assert_close(got.astype(np.float32), block.apply(variables, xs), 0.1)


def test_gradients_go_around_the_layer(xs):
    block = Residual(nn.Dense(H, kernel_init=nn.initializers.zeros_init()), norm="layer")
    variables = block.init(jax.random.key(0), xs)
    cotangent = np.random.default_rng(1).normal(size=xs.shape).astype(np.float32)
    _, vjp = jax.vjp(lambda xs: block.apply(variables, xs), jnp.asarray(xs))
    assert_equal(vjp(cotangent)[0], cotangent)


class Triple(nn.Module):
    def __call__(self, x):
        return x, x, x


@pytest.mark.parametrize(
    "block, message",
    [
        (Residual(nn.Dense(H + 1)), r"cannot add x \(4, 5, 4\).*Dense.*\(4, 5, 5\)"),
        (Residual(nn.Dense(1)), r"cannot add x"),  # not by broadcasting either
        (Residual(Triple()), "Triple returned a tuple of 3"),
        (Residual(nn.Dense(H), placement="middle"), r"placement='middle'.*'pre', 'post'"),
        (Residual(nn.Dense(H), norm="batch"), r"norm='batch'.*'layer', 'rms', None"),
    ],
    ids=lambda case: "" if isinstance(case, Residual) else case[:12],
)
def test_refuses_with_a_clear_message(xs, block, message):
    with pytest.raises(ValueError, match=message):
        block.init(jax.random.key(0), xs)
    with pytest.raises(TypeError, match=r"Residual\(Dense\) takes floating point x, got int32"):
        Residual(nn.Dense(H)).init(jax.random.key(0), np.ones((2, H), np.int32))

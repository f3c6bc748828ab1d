import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.ops import group_norm, instance_norm, layer_norm
from tests import norm_oracles as oracles
from tests.oracles import numerical_gradients
from tests.trees import assert_close, assert_equal

grouped = jax.jit(group_norm, static_argnames=("num_groups", "axis", "epsilon"))
instance = jax.jit(instance_norm, static_argnames=("axis", "epsilon"))
SHAPES_AND_GROUPS = [((4, 6), 2), ((2, 5, 6), 3), ((2, 3, 2, 4), 1), ((2, 3, 2, 4), 2)]


def case(rng, shape, dtype=np.float32):
    x = rng.normal(1.0, 2.0, shape).astype(dtype)
    scale, bias = rng.normal(size=(2, shape[-1])).astype(dtype)
    return x, scale, bias


@pytest.mark.parametrize("shape, num_groups", SHAPES_AND_GROUPS)
def test_equals_the_oracle(rng, shape, num_groups):
    arguments = case(rng, shape)
    y = grouped(*arguments, num_groups=num_groups)
    assert y.dtype == jnp.float32
    assert_close(y, oracles.group_norm(*arguments, num_groups))


@pytest.mark.parametrize("shape, num_groups", SHAPES_AND_GROUPS)
def test_equals_the_oracle_in_float64(rng, x64, shape, num_groups):
    arguments = case(rng, shape, np.float64)
    y = grouped(*arguments, num_groups=num_groups)
    assert_close(y, oracles.group_norm(*arguments, num_groups), 1e-10)


def test_instance_norm_equals_the_oracle(rng, x64):
    arguments = case(rng, (2, 4, 3, 5), np.float64)
    assert_close(instance(*arguments), oracles.group_norm(*arguments, num_groups=5), 1e-10)


def test_equals_torch(rng):
    torch = pytest.importorskip("torch")
    x, scale, bias = case(rng, (2, 4, 3, 6))
    channels_first = torch.tensor(x).movedim(-1, 1).requires_grad_()
    parameters = {"weight": torch.tensor(scale), "bias": torch.tensor(bias)}
    for ours, theirs in (
        (lambda x: grouped(x, scale, bias, num_groups=2), torch.nn.functional.group_norm),
        (lambda x: instance(x, scale, bias), torch.nn.functional.instance_norm),
    ):
        groups = () if theirs is torch.nn.functional.instance_norm else (2,)
        expected = theirs(channels_first, *groups, **parameters)
        y, vjp = jax.vjp(ours, x)
        assert_close(y, expected.movedim(1, -1).detach().numpy())
        cotangent = rng.normal(size=x.shape).astype(np.float32)
        (gradient,) = torch.autograd.grad(
            expected, channels_first, torch.tensor(cotangent).movedim(-1, 1)
        )
        assert_close(vjp(cotangent)[0], gradient.movedim(1, -1).numpy())


def test_the_number_of_groups_reaches_from_layer_norm_to_instance_norm(rng):
    x, scale, bias = case(rng, (2, 3, 2, 4))
    everything = layer_norm(x, axis=(1, 2, 3)) * scale[None, None, None] + bias[None, None, None]
    assert_close(grouped(x, scale, bias, num_groups=1), everything, 1e-6)
    assert_close(grouped(x, scale, bias, num_groups=4), instance(x, scale, bias), 1e-6)


def test_axis_says_what_a_case_is(rng):
    x, scale, bias = case(rng, (2, 3, 5, 4))
    every_position = grouped(x, scale, bias, num_groups=2, axis=())
    flat = oracles.group_norm(x.reshape(-1, 4), scale, bias, 2)
    assert_close(every_position, flat.reshape(x.shape))
    rows = oracles.group_norm(x.reshape(6, 5, 4), scale, bias, 2).reshape(x.shape)
    assert_close(grouped(x, scale, bias, num_groups=2, axis=2), rows)
    assert_close(grouped(x, scale, bias, num_groups=2, axis=(-2,)), rows)
    positions = oracles.group_norm(x.reshape(6, 5, 4), scale, bias, 4).reshape(x.shape)
    assert_close(instance(x, scale, bias, axis=2), positions)
    whole = oracles.group_norm(x.reshape(1, 6, 5, 4), scale, bias, 4).reshape(x.shape)
    assert_close(instance(x, scale, bias, axis=(0, 1, 2)), whole)


def test_the_usual_number_of_groups_is_32(rng):
    x = rng.normal(size=(2, 64)).astype(np.float32)
    assert_equal(group_norm(x), group_norm(x, num_groups=32))


@pytest.mark.parametrize("function", [lambda x: grouped(x, num_groups=2), instance])
def test_a_large_mean_costs_no_digits(rng, function):
    means = np.repeat([0.0, 1e3, 1e5, -1e5], 2)[:, None, None]
    x = rng.normal(means, 1.0, (8, 40, 4)).astype(np.float32)  # the oracle sees it rounded, too
    expected = oracles.group_norm(x, num_groups=4 if function is instance else 2)
    np.testing.assert_allclose(function(x), expected, atol=1e-5)


def test_a_constant_group_gives_exactly_the_bias(rng):
    x = np.tile(np.repeat([0.1, 1e5 + 0.3], 3).astype(np.float32), (2, 7, 1))
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)
    expected = np.broadcast_to(bias, x.shape)
    assert_equal(grouped(x, scale, bias, num_groups=2), expected)
    assert_equal(instance(x, scale, bias), expected)


@pytest.mark.parametrize("dtype, bits", [(jnp.float16, 11), (jnp.bfloat16, 8)])
def test_half_precision_rounds_only_once(rng, dtype, bits):
    x = jnp.asarray(rng.normal(0, 1e3, (2, 50, 4)), dtype)
    scale, bias = rng.normal(size=(2, 4)).astype(np.float32)
    for y, groups in ((grouped(x, scale, bias, num_groups=2), 2), (instance(x, scale, bias), 4)):
        assert y.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(y, np.float64),
            oracles.group_norm(x, scale, bias, groups),
            rtol=1.02 * 2.0**-bits,
            atol=2e-6,
        )


@pytest.mark.parametrize("num_groups", [2, 4])
def test_gradients_equal_differences_of_the_oracle(rng, x64, num_groups):
    x, scale, bias = case(rng, (2, 3, 4), np.float64)
    cotangent = rng.normal(size=x.shape)
    expected = numerical_gradients(
        lambda x, scale, bias: (cotangent * oracles.group_norm(x, scale, bias, num_groups)).sum(),
        {"x": x, "scale": scale, "bias": bias},
    )
    functions = [lambda *args: grouped(*args, num_groups=num_groups)]
    if num_groups == 4:
        functions.append(instance)
    for function in functions:
        gradients = jax.vjp(function, x, scale, bias)[1](cotangent)
        for gradient, name in zip(gradients, ("x", "scale", "bias"), strict=True):
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "num_groups, nearby", [(32, "24 and 48"), (7, "6 and 8"), (0, "1 would"), (96, "48 would")]
)
def test_refuses_groups_that_do_not_divide_and_names_some_that_do(num_groups, nearby):
    with pytest.raises(ValueError, match=rf"num_groups={num_groups} .* 48 channels.*{nearby}"):
        group_norm(jnp.ones((2, 48)), num_groups=num_groups)


@pytest.mark.parametrize("axis", [3, -4, (1, 1), (1, -2)])
def test_refuses_axes_that_are_none(axis):
    for function in (
        lambda x: group_norm(x, num_groups=1, axis=axis),
        lambda x: instance_norm(x, axis=axis),
    ):
        with pytest.raises(ValueError, match="axis"):
            function(jnp.ones((2, 3, 4)))


@pytest.mark.parametrize("axis", [2, -1, (1, 2)])
def test_refuses_the_axis_of_the_channels(axis):
    for function in (
        lambda x: group_norm(x, num_groups=1, axis=axis),
        lambda x: instance_norm(x, axis=axis),
    ):
        with pytest.raises(ValueError, match="channels"):
            function(jnp.ones((2, 3, 4)))


def test_instance_norm_refuses_cases_without_positions():
    with pytest.raises(ValueError, match="positions"):
        instance_norm(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="positions"):
        instance_norm(jnp.ones((2, 3, 4)), axis=())


@pytest.mark.parametrize("name", ["scale", "bias"])
@pytest.mark.parametrize("shape", [(3,), (1,), (), (3, 4), (1, 4)])
def test_refuses_parameters_of_another_shape(name, shape):
    for function in (lambda x, **p: group_norm(x, num_groups=2, **p), instance_norm):
        with pytest.raises(ValueError, match=name):
            function(jnp.ones((2, 3, 4)), **{name: jnp.ones(shape)})


def test_refuses_what_is_not_floating_point():
    with pytest.raises(TypeError, match=r"group_norm.*int32"):
        group_norm(jnp.ones((2, 4), jnp.int32), num_groups=2)
    with pytest.raises(TypeError, match=r"instance_norm.*bool"):
        instance_norm(jnp.ones((2, 3, 4), bool))

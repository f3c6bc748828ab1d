import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.ops import weight_norm
from tests import norm_oracles as oracles
from tests.oracles import numerical_gradients
from tests.trees import assert_close, assert_equal

jitted = jax.jit(weight_norm, static_argnames=("axis", "epsilon"))


@pytest.mark.parametrize("shape", [(5, 3), (3, 3, 2, 4)])
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_equals_the_oracle(rng, shape, epsilon):
    kernel = rng.normal(size=shape).astype(np.float32)
    scale = rng.normal(size=shape[-1]).astype(np.float32)
    y = jitted(kernel, scale, epsilon=epsilon)
    assert y.dtype == jnp.float32
    assert_close(y, oracles.weight_norm(kernel, scale, epsilon))
    assert_close(jitted(kernel, epsilon=epsilon), oracles.weight_norm(kernel, None, epsilon))


def test_equals_the_oracle_in_float64(rng, x64):
    kernel, scale = rng.normal(size=(5, 3)), rng.normal(size=3)
    assert_close(jitted(kernel, scale), oracles.weight_norm(kernel, scale), 1e-10)


def test_any_axes_may_be_those_of_incoming_weights(rng):
    kernel = rng.normal(size=(2, 3, 4)).astype(np.float32)
    scale = rng.normal(size=(3, 4)).astype(np.float32)
    expected = oracles.weight_norm(kernel.reshape(2, 12), scale.ravel()).reshape(2, 3, 4)
    assert_close(jitted(kernel, scale, axis=0), expected)
    expected = oracles.weight_norm(kernel.reshape(2, 12).T, scale[0, :2]).T.reshape(2, 3, 4)
    assert_close(jitted(kernel, scale[0, :2], axis=(-1, 1)), expected)


def test_equals_torch(rng):
    torch = pytest.importorskip("torch")
    kernel = rng.normal(size=(5, 3)).astype(np.float32)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 3, bias=False))
    gain, direction = layer.parametrizations.weight.parameters()
    with torch.no_grad():
        direction.copy_(torch.tensor(kernel.T))
        gain.copy_(torch.tensor([[0.5], [2.0], [-1.0]]))
    scale = gain.detach().numpy()[:, 0]
    y, vjp = jax.vjp(jitted, kernel, scale)
    assert_close(y, layer.weight.detach().numpy().T)
    cotangent = rng.normal(size=kernel.shape).astype(np.float32)
    of_gain, of_direction = torch.autograd.grad(
        layer.weight, (gain, direction), torch.tensor(cotangent.T)
    )
    assert_close(vjp(cotangent), (of_direction.numpy().T, of_gain.numpy()[:, 0]))


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_gradients_equal_differences_of_the_oracle(rng, x64, epsilon):
    kernel, scale, cotangent = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(4, 3))
    expected = numerical_gradients(
        lambda kernel, scale: (cotangent * oracles.weight_norm(kernel, scale, epsilon)).sum(),
        {"kernel": kernel, "scale": scale},
    )
    _, vjp = jax.vjp(lambda *args: jitted(*args, epsilon=epsilon), kernel, scale)
    assert_close(vjp(cotangent), (expected["kernel"], expected["scale"]), 1e-7)


def test_a_zero_vector_counts_as_one_of_length_one(rng):
    kernel = rng.normal(size=(4, 3)).astype(np.float32)
    kernel[:, 1] = 0
    scale, cotangent = np.array([1, 3, 1], np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    y, vjp = jax.vjp(jitted, kernel, scale)
    assert_equal(y[:, 1], np.zeros(4))
    of_kernel, of_scale = vjp(cotangent)
    assert_close(of_kernel[:, 1], 3 * cotangent[:, 1], 1e-6)
    assert_equal(of_scale[1], 0)
    assert np.isfinite(of_kernel).all() and np.isfinite(of_scale).all()
    hessian = jax.hessian(lambda kernel: (cotangent * jitted(kernel, scale)).sum())(kernel)
    assert np.isfinite(hessian).all()


def test_a_vector_whose_squares_underflow_stays_finite():
    y, vjp = jax.vjp(jitted, jnp.full((3, 1), 1e-30))
    assert np.isfinite(y).all() and np.isfinite(vjp(jnp.ones((3, 1)))[0]).all()


@pytest.mark.parametrize("dtype, bits", [(jnp.float16, 11), (jnp.bfloat16, 8)])
def test_half_precision_rounds_only_once(rng, dtype, bits):
    # In float16 the squares of 1e3 overflow, and those of 1e-4 vanish.
    kernel = jnp.asarray(rng.normal(0, [1, 1e3, 1e-4], (50, 3)), dtype)
    y = jitted(kernel, np.full(3, 2.0, np.float32))
    assert y.dtype == dtype
    expected = oracles.weight_norm(kernel, np.full(3, 2.0))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=1.02 * 2.0**-bits)


def test_refuses_what_does_not_fit():
    with pytest.raises(TypeError, match=r"weight_norm.*int32"):
        weight_norm(jnp.ones((2, 3), jnp.int32))
    for axis in (2, -3, (0, 0), ()):
        with pytest.raises(ValueError, match="axis"):
            weight_norm(jnp.ones((2, 3)), axis=axis)
    for shape in ((2,), (1,), (), (2, 3), (1, 3)):
        with pytest.raises(ValueError, match="scale"):
            weight_norm(jnp.ones((2, 3)), jnp.ones(shape))
    with pytest.raises(ValueError, match="axis"):
        weight_norm(jnp.ones(3))

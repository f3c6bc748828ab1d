"""Products with narrow operands: what is narrow in the derivative, in both modes, and how exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.ops import product
from tests.jaxprs import equations


def case(rng):
    return (
        rng.normal(size=(5, 6, 40)).astype(np.float32),
        rng.normal(size=(40, 3)).astype(np.float32),
        rng.normal(size=(5, 6, 3)).astype(np.float32),
    )


def operands(function, *args):
    return [
        tuple(str(v.aval.dtype) for v in equation.invars)
        for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)
        if equation.primitive.name == "dot_general"
    ]


def pulled(x, kernel, cotangent, dtype):
    y, vjp = jax.vjp(lambda *both: product(*both, dtype), x, kernel)
    return y, *vjp(cotangent)


def test_bfloat16_in_both_passes(rng):
    x, kernel, cotangent = case(rng)
    half = ("bfloat16", "bfloat16")
    assert operands(lambda *a: pulled(*a, jnp.bfloat16), x, kernel, cotangent) == [half] * 3

    def with_respect_to_kernel(kernel):
        return jax.grad(lambda k: jnp.sum(product(x, k, jnp.bfloat16)))(kernel)

    assert operands(with_respect_to_kernel, kernel) == [half] * 2  # none of zeros
    push = lambda x, k: jax.jvp(lambda *b: product(*b, jnp.bfloat16), (x, k), (x, k))[1]  # noqa: E731
    assert set(operands(push, x, kernel)) == {half}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_values_and_gradients(rng, dtype):
    """Sums of 40 products in float32; the operands, and in bfloat16 the gradients, are rounded."""
    x, kernel, cotangent = case(rng)
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-10, "float32": 2.0**-21}[dtype]
    y, d_x, d_kernel = (
        np.asarray(leaf, np.float64) for leaf in pulled(x, kernel, cotangent, dtype)
    )
    for got, left, right in (
        (y, x, kernel),
        (d_x, cotangent, kernel.T),
        (d_kernel, x.reshape(-1, 40).T, cotangent.reshape(-1, 3)),
    ):
        left, right = left.astype(np.float64), right.astype(np.float64)
        bound = np.abs(left) @ np.abs(right) * 3 * unit
        assert np.all(np.abs(got - left @ right) <= bound)
    # Sums are no coarser than float32: operands that are exact give what float64 gives.
    ones = np.ones((2, 1001), np.float32)
    assert np.all(product(ones, ones.T, dtype) == 1001) and product(ones, ones.T).dtype == "float32"


def test_it_can_be_mapped_and_differentiated_twice(rng):
    x, kernel, _ = case(rng)
    mapped = jax.vmap(lambda row: product(row, kernel, jnp.bfloat16))(x)
    np.testing.assert_array_equal(mapped, product(x, kernel, jnp.bfloat16))
    curvature = jax.hessian(lambda a: jnp.sum(product(a * x[0], kernel, jnp.bfloat16) ** 2))
    expected = 2 * np.sum((x[0].astype(np.float64) @ kernel) ** 2)
    np.testing.assert_allclose(curvature(1.0), expected, rtol=0.03)


def test_wider_dtypes_are_plain_products(rng):
    x, kernel, cotangent = case(rng)
    with jax.enable_x64(True):
        got = pulled(*(jnp.asarray(leaf, jnp.float64) for leaf in (x, kernel, cotangent)), None)
        assert {leaf.dtype for leaf in got} == {jnp.dtype("float64")}

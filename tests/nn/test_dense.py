from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lnjax.nn import Dense, Normalize
from tests import norm_oracles
from tests.oracles import layer_norm, numerical_gradients
from tests.trees import assert_close, assert_equal

N, D, H = 12, 4, 6
NORMS = ("layer", "rms", "batch", "weight", "group", None)
norms = pytest.mark.parametrize("norm", NORMS)


def layer_of(norm, **attributes):
    return Dense(H, norm, **({"num_groups": 2} if norm == "group" else {}), **attributes)


def random_variables(layer, x, seed=0):
    """Parameters and running statistics that hide nothing by being zero or one."""
    rng = np.random.default_rng(seed)
    variables = jax.eval_shape(
        lambda x: layer.init(jax.random.key(0), x, use_running_average=False), x
    )
    return jax.tree.map(lambda a: rng.uniform(-1, 2, a.shape).astype(a.dtype), variables)


@cache
def compiled(layer, use_running_average):
    def apply(variables, x, mask):
        options = {"mask": mask, "use_running_average": use_running_average}
        return layer.apply(variables, x, **options, mutable=["batch_stats"])

    return jax.jit(apply)


def train(layer, variables, x, mask=None):
    """Outputs and new running statistics."""
    return compiled(layer, False)(variables, x, mask)


def expected_outputs(norm, params, x, epsilon=1e-5):
    """Eq. 5, or its like for the other norms, for x (N, D)."""
    kernel = params["kernel"]
    affine = params.get("scale"), params.get("bias")
    if norm == "weight":
        kernel = norm_oracles.weight_norm(kernel, affine[0], epsilon)
    summed = np.array([[np.dot(case, weights) for weights in kernel.T] for case in x])
    if norm == "layer":
        return layer_norm(summed, *affine, epsilon=epsilon)
    if norm == "rms":
        root = np.array([(np.mean(a**2) + epsilon) ** 0.5 for a in summed])
        return norm_oracles.affine(summed / root[:, None], *affine)
    if norm == "batch":
        return norm_oracles.batch_norm(summed, *affine, epsilon=epsilon)
    if norm == "group":
        return norm_oracles.group_norm(summed, *affine, 2, epsilon)
    return norm_oracles.affine(summed, None, affine[1])


@norms
def test_equals_the_equations(rng, x64, norm):
    x = rng.normal(size=(N, D))
    layer = layer_of(norm, param_dtype=jnp.float64)
    variables = random_variables(layer, x)
    y, _ = train(layer, variables, x)
    assert_close(y, expected_outputs(norm, variables["params"], x), 1e-10)


@norms
def test_gradients_equal_differences_of_the_equations(rng, x64, norm):
    x, cotangent = rng.normal(size=(5, D)), rng.normal(size=(5, H))
    layer = layer_of(norm, param_dtype=jnp.float64)
    variables = random_variables(layer, x)
    expected = numerical_gradients(
        lambda x, **params: (cotangent * expected_outputs(norm, params, x)).sum(),
        {"x": x, **variables["params"]},
    )
    _, vjp = jax.vjp(
        lambda params, x: train(layer, variables | {"params": params}, x)[0],
        variables["params"],
        x,
    )
    of_params, of_x = vjp(cotangent)
    assert_close({"x": of_x, **of_params}, expected, 1e-7)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "group"])
def test_equals_two_layers_of_flax(rng, norm):
    theirs = {
        "layer": nn.LayerNorm(epsilon=1e-5, use_fast_variance=False),
        "rms": nn.RMSNorm(epsilon=1e-5),
        "batch": nn.BatchNorm(use_running_average=False, use_fast_variance=False),
        "group": nn.GroupNorm(2, epsilon=1e-5, use_fast_variance=False),
    }
    x = rng.normal(size=(N, D)).astype(np.float32)
    layer = layer_of(norm)
    variables = random_variables(layer, x)
    params = variables["params"]
    y, state = train(layer, variables, x)
    with jax.numpy_rank_promotion("allow"):
        summed = nn.Dense(H, use_bias=False).apply({"params": {"kernel": params["kernel"]}}, x)
        rest = {k: v for k, v in params.items() if k != "kernel" and (k, norm) != ("bias", "rms")}
        expected, expected_state = theirs[norm].apply(
            variables | {"params": rest}, summed, mutable=["batch_stats"]
        )
    if norm == "rms":
        expected = expected + params["bias"][None]
    assert_close((y, state), (expected, expected_state))


@pytest.mark.parametrize("norm", ["weight", None])
def test_equals_one_layer_of_flax(rng, norm):
    x = rng.normal(size=(N, D)).astype(np.float32)
    layer = Dense(H, norm)
    variables = random_variables(layer, x)
    theirs = nn.Dense(H) if norm is None else nn.WeightNorm(nn.Dense(H), epsilon=1e-5)
    with jax.numpy_rank_promotion("allow"):
        tree = theirs.init(jax.random.key(0), x)
        named = {jax.tree_util.keystr(path): path for path, _ in jax.tree.leaves_with_path(tree)}
        ours = [
            next(leaf for name, leaf in variables["params"].items() if path.endswith(f"{name}']"))
            for path in named
        ]
        expected = theirs.apply(jax.tree.unflatten(jax.tree.structure(tree), ours), x)
    assert_close(train(layer, variables, x)[0], expected)


@norms
def test_parameters_are_flat_and_there_is_one_bias(norm):
    variables = layer_of(norm).init(jax.random.key(0), jnp.ones((N, D)), use_running_average=False)
    shapes = {"kernel": (D, H), "scale": (H,), "bias": (H,)}
    if norm is None:
        del shapes["scale"]
    assert jax.tree.map(jnp.shape, variables["params"]) == shapes
    statistics = {"mean": (H,), "var": (H,)} if norm == "batch" else {}
    assert jax.tree.map(jnp.shape, variables.get("batch_stats", {})) == statistics


def test_without_a_norm_it_starts_as_the_layer_of_flax():
    x = jnp.ones((N, D))
    ours, theirs = (layer.init(jax.random.key(3), x) for layer in (Dense(H, None), nn.Dense(H)))
    assert_equal(ours, theirs)


@norms
def test_gain_and_bias_may_be_left_out(rng, norm):
    x = rng.normal(size=(N, D)).astype(np.float32)
    layer = layer_of(norm, use_scale=False, use_bias=False)
    variables = random_variables(layer, x)
    assert set(variables["params"]) == {"kernel"}
    y, _ = train(layer, variables, x)
    assert_close(y, expected_outputs(norm, variables["params"], x))


@norms
def test_any_number_of_axes_may_lead(rng, norm):
    x = rng.normal(size=(3, 2, 2, D)).astype(np.float32)
    layer = layer_of(norm)
    variables = random_variables(layer, x)
    y, _ = train(layer, variables, x)
    flat = expected_outputs(norm, variables["params"], x.reshape(N, D))
    assert_close(y, flat.reshape(3, 2, 2, H))
    if norm != "batch":
        assert_close(train(layer, variables, x[0, 0, 0])[0], flat[0])


def test_attributes_reach_the_norm(rng):
    x = rng.normal(size=(4, D)).astype(np.float32)
    layer = Dense(H, "batch", unbiased=True, momentum=0.5, epsilon=0.3)
    variables = random_variables(layer, x)
    y, state = train(layer, variables, x)
    summed = x @ variables["params"]["kernel"]
    apart = Normalize("batch", unbiased=True, momentum=0.5, epsilon=0.3)
    rest = {k: variables["params"][k] for k in ("scale", "bias")}
    assert_close((y, state), train(apart, variables | {"params": rest}, summed))
    mean, var = rng.uniform(1, 2, (2, H)).astype(np.float32)
    variables |= {"batch_stats": {"mean": mean, "var": var}}
    y, _ = compiled(layer, True)(variables, x, None)
    statistics = mean, var
    expected = norm_oracles.batch_norm(summed, **rest, epsilon=0.3, statistics=statistics)
    assert_close(y, expected)


# Masks.


@norms
@pytest.mark.parametrize("epsilon", [1e-5, 0.0])
@pytest.mark.some(5)
def test_masked_equals_only_the_real_cases(rng, x64, norm, epsilon):
    x, cotangent = rng.normal(size=(3, 4, D)), rng.normal(size=(3, 4, H))
    mask = rng.uniform(size=(3, 4)) < 0.6
    x[~mask] = np.nan
    layer = layer_of(norm, epsilon=epsilon, param_dtype=jnp.float64)
    variables = random_variables(layer, x)

    def run(variables, x, mask=None):
        y, state = train(layer, variables, x, mask)
        return y, state.get("batch_stats", {})

    (y, state), vjp = jax.vjp(lambda *args: run(*args, mask=mask), variables, x)
    (real_y, real_state), real_vjp = jax.vjp(run, variables, x[mask])
    assert_close((y[mask], state), (real_y, real_state), 1e-10)
    assert_equal(y[~mask], np.zeros_like(y[~mask]))
    of_variables, of_x = vjp((cotangent, state))
    expected, real_of_x = real_vjp((cotangent[mask], state))
    assert_close((of_variables, of_x[mask]), (expected, real_of_x), 1e-9)
    assert_equal(of_x[~mask], np.zeros_like(of_x[~mask]))


# Precision.


@norms
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_in_float32_and_rounds_once(rng, norm, dtype):
    # 500 products of one sign, summed in bfloat16, would be off by percents.
    x = jnp.asarray(rng.uniform(0.5, 1.0, (N, 500)), dtype)
    layer = layer_of(norm, dtype=dtype, param_dtype=dtype, use_bias=False)
    variables = random_variables(layer, x)
    y, _ = train(layer, variables, x)
    assert y.dtype == dtype
    params, wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables["params"], x))
    expected = expected_outputs(norm, params, wide)
    unit = 2.0 ** (-11 if dtype == jnp.float16 else -8)
    # The normalized kernel is rounded, too; else only what float32 sums and cancels is left.
    tolerance = 0.05 * np.abs(expected).max() * unit if norm == "weight" else 5e-4
    np.testing.assert_allclose(
        np.asarray(y, np.float64), expected, rtol=1.05 * unit, atol=tolerance
    )


def test_dtypes_are_those_of_flax():
    for x_dtype, param_dtype, dtype in (
        (jnp.bfloat16, jnp.float32, None),
        (jnp.bfloat16, jnp.bfloat16, None),
        (jnp.float32, jnp.float32, jnp.bfloat16),
        (jnp.int32, jnp.float32, None),
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype}
        x = jnp.ones((N, D), x_dtype)
        expected = nn.Dense(H, **options).init_with_output(jax.random.key(0), x)[0].dtype
        for norm in ("layer", "weight", None):
            y, variables = Dense(H, norm, **options).init_with_output(jax.random.key(0), x)
            assert y.dtype == expected
            assert all(a.dtype == param_dtype for a in jax.tree.leaves(variables))


def test_precision_reaches_the_product():
    layer = Dense(H, precision="highest")
    variables = layer.init(jax.random.key(0), jnp.ones((N, D)))
    jaxpr = str(jax.make_jaxpr(layer.apply)(variables, jnp.ones((N, D))))
    assert "HIGHEST" in jaxpr


# Table 1 of the paper, without gain, bias and epsilon.

GAMMA, SHIFT = np.array([0.3, -1.0, 2.0, 0.7]), np.array([1.0, -2.0, 0.5, 3.0])
DIAGONAL = np.array([1.0, 3.7, 1.0, 1.0, 1.0, 1.0])
TRANSFORMATIONS = {
    "weight matrix re-scaled": lambda w, x: (3.7 * w, x),
    "weight matrix re-centered": lambda w, x: (w + GAMMA[:, None], x),
    "one weight vector re-scaled": lambda w, x: (w * DIAGONAL[None], x),
    "data set re-scaled": lambda w, x: (w, 3.7 * x),
    "data set re-centered": lambda w, x: (w, x + SHIFT[None]),
    "one case re-scaled": lambda w, x: (w, np.concatenate([3.7 * x[:1], x[1:]])),
}
INVARIANT = {
    "batch": (True, False, True, True, True, False),
    "weight": (True, False, True, False, False, False),
    "layer": (True, True, False, True, False, True),
}


@pytest.mark.parametrize("norm", INVARIANT)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_invariances(rng, x64, norm, transformation):
    layer = Dense(H, norm, use_scale=False, use_bias=False, epsilon=0.0, param_dtype=jnp.float64)
    x, kernel = rng.normal(size=(N, D)), rng.normal(size=(D, H))
    moved_kernel, moved_x = TRANSFORMATIONS[transformation](kernel, x)
    state = {"batch_stats": {"mean": np.zeros(H), "var": np.ones(H)}} if norm == "batch" else {}
    y, _ = train(layer, {"params": {"kernel": kernel}, **state}, x)
    moved, _ = train(layer, {"params": {"kernel": moved_kernel}, **state}, moved_x)
    same = np.abs(moved - y).max() < 1e-9
    assert same == INVARIANT[norm][list(TRANSFORMATIONS).index(transformation)]
    assert same or np.abs(moved - y).max() > 1e-2


# Refusals.


@pytest.mark.parametrize(
    "norm, options, match",
    [
        ("instance", {}, "'instance'.*Dense.*'layer', 'rms', 'batch', 'weight', 'group', None"),
        ("none", {}, "'none'"),
        ("layer", {"momentum": 0.9}, "momentum"),
        ("weight", {"unbiased": True}, "unbiased"),
        (None, {"num_groups": 2}, "num_groups"),
        ("group", {}, "num_groups=32"),
    ],
)
def test_refuses_what_has_no_meaning(norm, options, match):
    with pytest.raises(ValueError, match=match):
        Dense(H, norm, **options).init(jax.random.key(0), jnp.ones((N, D)))


@norms
@pytest.mark.parametrize("mask", [np.ones((N, D), bool), np.ones(D, bool), np.ones(N)])
def test_refuses_masks_that_do_not_fit(norm, mask):
    with pytest.raises(ValueError, match="mask"):
        layer_of(norm).init(
            jax.random.key(0), jnp.ones((N, D)), mask=mask, use_running_average=False
        )

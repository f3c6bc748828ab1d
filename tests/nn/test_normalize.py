from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnjax.nn import Normalize
from tests import norm_oracles
from tests.oracles import layer_norm, numerical_gradients
from tests.trees import assert_close, assert_equal

B, T, C = 4, 3, 6
WITH_FIXTURES = settings(
    deadline=None,
    derandomize=True,
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VARIANTS = {
    "layer": {},
    "rms": {},
    "batch": {},
    "batch, unbiased": {"unbiased": True},
    "group": {"num_groups": 2},
    "instance": {},
    "None": {},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def layer_of(variant, num_spatial_axes=1, **attributes):
    """Inputs are (B, T, C); by default T is an axis of positions."""
    norm = None if variant == "None" else variant.split(",")[0]
    return Normalize(norm, num_spatial_axes, **VARIANTS[variant], **attributes)


def random_variables(layer, x, seed=0):
    """Parameters and running statistics that hide nothing by being zero or one."""
    rng = np.random.default_rng(seed)
    variables = jax.eval_shape(
        lambda x: layer.init(jax.random.key(0), x, use_running_average=False), x
    )
    return jax.tree.map(lambda a: rng.uniform(0.5, 2.0, a.shape).astype(a.dtype), variables)


@cache
def compiled(layer, train):
    options = {"mutable": ["batch_stats"]} if train else {}

    def apply(variables, x, mask):
        return layer.apply(variables, x, mask=mask, use_running_average=not train, **options)

    return jax.jit(apply)


@partial(jax.jit, static_argnames="layer")
def pull(layer, variables, x, mask, cotangent):
    """Training's (outputs, statistics), their gradients at (cotangent, statistics), evaluation."""

    def run(variables, x):
        y, state = layer.apply(
            variables, x, mask=mask, use_running_average=False, mutable=["batch_stats"]
        )
        return y, state.get("batch_stats", {})

    results, vjp = jax.vjp(run, variables, x)
    evaluated = layer.apply(variables, x, mask=mask, use_running_average=True)
    return results, vjp((cotangent, results[1])), evaluated


def train(layer, variables, x, mask=None):
    """Outputs and new running statistics."""
    return compiled(layer, True)(variables, x, mask)


def evaluate(layer, variables, x, mask=None):
    return compiled(layer, False)(variables, x, mask)


def expected_outputs(variant, params, x):
    """What the layer gives in training for x (B, T, C), or (B, H, W, C), with positions."""
    scale, bias = params.get("scale"), params.get("bias")
    case = tuple(range(1, x.ndim))
    if variant == "layer":
        return norm_oracles.affine(layer_norm(x, axis=case), scale, bias)
    if variant == "rms":
        square = [np.mean(np.square(np.asarray(a, np.float64))) for a in x]
        root = np.sqrt(np.array(square) + 1e-5).reshape((-1,) + (1,) * (x.ndim - 1))
        return norm_oracles.affine(x / root, scale, bias)
    if variant.startswith("batch"):
        return norm_oracles.batch_norm(x, scale, bias, unbiased="unbiased" in variant)
    if variant in ("group", "instance"):
        return norm_oracles.group_norm(x, scale, bias, 2 if variant == "group" else x.shape[-1])
    return x


# Against the equations and against Flax.


@variants
@pytest.mark.parametrize("shape", [(B, T, C), (B, T, 2, C)])
def test_equals_the_oracle(rng, x64, variant, shape):
    x = rng.normal(1.0, 2.0, shape)
    layer = layer_of(variant, len(shape) - 2, param_dtype=jnp.float64)
    variables = random_variables(layer, x)
    y, _ = train(layer, variables, x)
    assert_close(y, expected_outputs(variant, variables.get("params", {}), x), 1e-10)


@pytest.mark.parametrize("variant", ["layer", "rms", "group"])
def test_without_positions_every_row_is_a_case(rng, variant):
    x = rng.normal(1.0, 2.0, (B, T, C)).astype(np.float32)
    layer = layer_of(variant, 0)
    variables = random_variables(layer, x)
    y, _ = train(layer, variables, x)
    flat = expected_outputs(variant, variables["params"], x.reshape(B * T, C))
    assert_close(y, flat.reshape(x.shape))


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (Normalize("layer"), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)),
        (Normalize("rms", use_bias=False), nn.RMSNorm(epsilon=1e-5)),
        (Normalize("layer", use_scale=False), nn.LayerNorm(epsilon=1e-5, use_scale=False)),
        (
            Normalize("group", 1, num_groups=3, epsilon=1e-3),
            nn.GroupNorm(3, epsilon=1e-3, use_fast_variance=False),
        ),
        (Normalize("instance", 1), nn.InstanceNorm(epsilon=1e-5, use_fast_variance=False)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_is_the_layer_of_flax(rng, ours, theirs):
    x = rng.normal(1.0, 2.0, (B, T, C)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        variables = theirs.init(jax.random.key(0), x)
        assert_equal(ours.init(jax.random.key(0), x), variables)
        variables = jax.tree.map(lambda a: a + np.linspace(0, 1, C, dtype=np.float32), variables)
        assert_close(ours.apply(variables, x), theirs.apply(variables, x))


@pytest.mark.parametrize("masked", [False, True])
def test_batch_is_the_batch_norm_of_flax(rng, masked):
    theirs = nn.BatchNorm(momentum=0.8, use_fast_variance=False)
    ours = Normalize("batch", momentum=0.8)
    mask = rng.uniform(size=(B, T)) < 0.6 if masked else None
    real = np.ones((B, T), bool) if mask is None else mask
    xs = rng.normal(1.0, 2.0, (3, B, T, C)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        variables = theirs.init(jax.random.key(0), xs[0], use_running_average=False)
        own = ours.init(jax.random.key(0), xs[0], use_running_average=False)
        assert_equal(own, variables)
        for x in xs:
            expected, state = theirs.apply(
                variables,
                x,
                use_running_average=False,
                mask=None if mask is None else mask[..., None],
                mutable=["batch_stats"],
            )
            y, new = train(ours, own, x, mask)
            assert_close((y[real], new), (expected[real], state))
            variables, own = variables | state, own | new
        expected = theirs.apply(variables, xs[0], use_running_average=True)
    assert_close(evaluate(ours, own, xs[0], mask)[real], expected[real])


def test_a_large_mean_costs_no_digits(rng):
    x = rng.normal([0.0, 1e3, 1e4, 1e5, -1e5, 10.0], 1.0, (50, 6)).astype(np.float32)
    layer = Normalize("batch")
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, state = train(layer, variables, x)
    np.testing.assert_allclose(y, norm_oracles.batch_norm(x), atol=1e-5)
    _, variance = norm_oracles.batch_statistics(x)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.99 + 0.01 * variance, rtol=1e-6)


# State.


def test_initializing_leaves_the_running_statistics(rng):
    x = rng.normal(5.0, 2.0, (B, C)).astype(np.float32)
    variables = Normalize("batch").init(jax.random.key(0), x, use_running_average=False)
    assert_equal(variables["batch_stats"], {"mean": np.zeros(C), "var": np.ones(C)})


def test_training_without_a_mutable_collection_fails(rng):
    layer, x = Normalize("batch"), jnp.ones((B, C))
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    with pytest.raises(errors.ModifyScopeVariableError):
        layer.apply(variables, x, use_running_average=False)


def test_evaluation_changes_no_state_and_sees_no_other_row(rng):
    layer, x = Normalize("batch"), rng.normal(size=(B, C)).astype(np.float32)
    variables = random_variables(layer, x)
    y, state = layer.apply(variables, x, use_running_average=True, mutable=["batch_stats"])
    assert_equal(state["batch_stats"], variables["batch_stats"])
    assert_close(y[:1], layer.apply(variables, x[:1], use_running_average=True), 1e-6)


def test_use_running_average_is_attribute_or_argument(rng):
    x = rng.normal(size=(B, C)).astype(np.float32)
    layer = Normalize("batch")
    variables = random_variables(layer, x)
    fixed = Normalize("batch", use_running_average=True)
    assert_equal(fixed.apply(variables, x), layer.apply(variables, x, use_running_average=True))
    with pytest.raises(ValueError, match="use_running_average"):
        layer.apply(variables, x)
    with pytest.raises(ValueError, match="use_running_average"):
        fixed.apply(variables, x, use_running_average=True)


def test_the_unbiased_variance_enters_the_running_one(rng):
    x = rng.normal(size=(B, C)).astype(np.float32)
    layer = Normalize("batch", unbiased=True, momentum=0.0)
    variables = random_variables(layer, x)
    _, state = train(layer, variables, x)
    assert_close(state["batch_stats"]["var"], np.var(x, axis=0, ddof=1))


def test_a_batch_without_a_real_case_leaves_the_running_statistics(rng):
    x = np.full((B, C), np.nan, np.float32)
    layer = Normalize("batch")
    variables = random_variables(layer, x)
    y, state = train(layer, variables, x, np.zeros(B, bool))
    assert_equal((y, state["batch_stats"]), (np.zeros((B, C)), variables["batch_stats"]))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("batch")])
def test_other_norms_keep_no_state_and_do_the_same_in_evaluation(rng, variant):
    x = rng.normal(size=(B, T, C)).astype(np.float32)
    layer = layer_of(variant)
    variables = random_variables(layer, x)
    assert set(variables) <= {"params"}
    y, state = train(layer, variables, x)
    assert not state
    assert_equal(y, evaluate(layer, variables, x))
    assert_close(y, layer.apply(variables, x))


# Masks: one law for all norms.


def random_case(mask, seed, bad=np.nan):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, (*mask.shape, T, C))
    x[~mask] = bad
    return x, rng.normal(size=x.shape)


@variants
@WITH_FIXTURES
@given(
    mask=st.lists(st.booleans(), min_size=B, max_size=B).filter(any),
    epsilon=st.sampled_from([1e-5, 0.0]),
    seed=st.integers(0, 99),
)
@pytest.mark.some(4)
def test_masked_equals_only_the_real_cases(x64, variant, mask, epsilon, seed):
    mask = np.array(mask)
    x, cotangent = random_case(mask, seed)
    layer = layer_of(variant, epsilon=epsilon, param_dtype=jnp.float64)
    variables = random_variables(layer, x)
    got = jax.tree.map(np.asarray, pull(layer, variables, x, mask, cotangent))
    (y, state), (of_variables, of_x), seen = got
    real = pull(layer, variables, x[mask], None, cotangent[mask])
    (real_y, real_state), (expected, real_of_x), real_seen = real
    assert_close((y[mask], state), (real_y, real_state), 1e-10)
    assert_close((of_variables, of_x[mask]), (expected, real_of_x), 1e-9)
    assert_close(seen[mask], real_seen, 1e-10)
    for leaf in (y, of_x, seen):
        assert_equal(leaf[~mask], np.zeros_like(leaf[~mask]))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "instance"])
def test_steps_of_a_sequence_may_be_masked(rng, variant):
    x = rng.normal(size=(B, T, C)).astype(np.float32)
    mask = rng.uniform(size=(B, T)) < 0.6
    x[~mask] = np.nan
    layer = layer_of(variant, 0)
    variables = random_variables(layer, x)
    (y, state), (real_y, real_state) = (
        train(layer, variables, x, mask),
        train(layer, variables, x[mask]),
    )
    assert_close((y[mask], state), (real_y, real_state))
    assert_equal(y[~mask], np.zeros_like(y[~mask]))


@pytest.mark.parametrize("variant", ["layer", "rms", "batch", "group"])
def test_gradients_equal_differences_of_the_oracle(rng, x64, variant):
    x, cotangent = rng.normal(size=(2, 2, 3, 4))
    layer = layer_of(variant, param_dtype=jnp.float64)
    variables = random_variables(layer, x)
    expected = numerical_gradients(
        lambda x, scale, bias: (
            cotangent * expected_outputs(variant, {"scale": scale, "bias": bias}, x)
        ).sum(),
        {"x": x, **variables["params"]},
    )
    _, vjp = jax.vjp(
        lambda params, x: train(layer, variables | {"params": params}, x)[0],
        variables["params"],
        x,
    )
    of_params, of_x = vjp(cotangent)
    assert_close({"x": of_x, **of_params}, expected, 1e-7)


# Options and dtypes.


def test_without_a_norm_it_is_the_identity(rng):
    x = rng.normal(size=(B, C)).astype(np.float32)
    y, variables = Normalize(None).init_with_output(jax.random.key(0), x)
    assert not variables
    assert_equal(y, x)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_gain_and_bias_may_be_left_out(rng, norm):
    x = rng.normal(size=(B, C)).astype(np.float32)
    for use_scale, use_bias in ((False, True), (True, False), (False, False)):
        layer = Normalize(norm, use_scale=use_scale, use_bias=use_bias, use_running_average=False)
        y, variables = layer.init_with_output(jax.random.key(0), x)
        names = {"scale": use_scale, "bias": use_bias}
        assert set(variables.get("params", ())) == {name for name, used in names.items() if used}
        assert_close(y, expected_outputs(norm, {}, x))


def test_initializers_are_used(rng):
    layer = Normalize(
        scale_init=nn.initializers.constant(0.1), bias_init=nn.initializers.constant(2.0)
    )
    params = layer.init(jax.random.key(0), jnp.ones((B, C)))["params"]
    assert_close(params, {"scale": np.full(C, 0.1), "bias": np.full(C, 2.0)})


@variants
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_takes_its_statistics_in_float32(rng, variant, dtype):
    x = jnp.asarray(rng.normal(0, 1e3, (B, T, C)), dtype)  # the square overflows float16
    layer = layer_of(variant, dtype=dtype, param_dtype=dtype)
    variables = random_variables(layer, x)
    y, state = train(layer, variables, x)
    assert y.dtype == dtype
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(state))
    assert all(a.dtype == dtype for a in jax.tree.leaves(variables.get("params", {})))
    as_float64 = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, x))
    expected = expected_outputs(variant, as_float64[0].get("params", {}), as_float64[1])
    tolerance = 1.02 * 2.0 ** (-11 if dtype == jnp.float16 else -8)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=tolerance, atol=1e-5)


def test_dtypes_are_those_of_flax():
    for x_dtype, param_dtype, dtype, expected in (
        (jnp.bfloat16, jnp.float32, None, jnp.float32),
        (jnp.bfloat16, jnp.bfloat16, None, jnp.bfloat16),
        (jnp.float32, jnp.float32, jnp.bfloat16, jnp.bfloat16),
        (jnp.int32, jnp.float32, None, jnp.float32),
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype}
        x = jnp.ones((2, C), x_dtype)
        y, variables = Normalize("layer", **options).init_with_output(jax.random.key(0), x)
        assert y.dtype == expected == nn.LayerNorm(**options).apply(variables, x).dtype


@pytest.mark.parametrize(
    "norm, options, match",
    [
        ("weight", {}, "'weight' is not one that Normalize knows.*'layer', 'rms', 'batch'"),
        ("none", {}, "'none'"),
        ("layer", {"num_groups": 2}, "num_groups=2 belongs to norm='group'"),
        ("layer", {"momentum": 0.9}, "momentum=0.9 belongs to norm='batch'"),
        ("group", {"unbiased": True}, "unbiased=True belongs to norm='batch'"),
        (None, {"momentum": 0.9}, "momentum=0.9"),
        ("instance", {}, "num_spatial_axes"),
        ("layer", {"num_spatial_axes": 2}, "num_spatial_axes=2"),
        ("layer", {"num_spatial_axes": -1}, "num_spatial_axes=-1"),
        ("group", {}, "num_groups=32"),
    ],
)
def test_refuses_what_has_no_meaning(norm, options, match):
    with pytest.raises(ValueError, match=match):
        Normalize(norm, **options).init(jax.random.key(0), jnp.ones((2, C)))


@variants
@pytest.mark.parametrize("shape", [(B, T), (C,), (), (B, 1)])
def test_refuses_masks_of_another_shape(variant, shape):
    x = jnp.ones((B, T, C))
    layer = layer_of(variant)
    with pytest.raises(ValueError, match=r"mask has shape.*cases \(4,\)"):
        layer.init(jax.random.key(0), x, mask=np.ones(shape, bool), use_running_average=False)


def test_refuses_masks_that_are_not_bool():
    with pytest.raises(ValueError, match="bool"):
        Normalize().init(jax.random.key(0), jnp.ones((B, C)), mask=jnp.ones(B))

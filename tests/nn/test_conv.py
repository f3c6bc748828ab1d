import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lnjax.nn import Conv, Dense, Normalize
from tests import norm_oracles
from tests.trees import assert_close, assert_equal

B, SIDE, C, F = 4, 6, 3, 4
NORMS = ("layer", "rms", "batch", "weight", "group", "instance", None)
norms = pytest.mark.parametrize("norm", NORMS)


def options_of(norm):
    return {"num_groups": 2} if norm == "group" else {}


def random_variables(layer, x, seed=0):
    """Parameters and running statistics that hide nothing by being zero or one."""
    rng = np.random.default_rng(seed)
    variables = jax.eval_shape(
        lambda x: layer.init(jax.random.key(0), x, use_running_average=False), x
    )
    return jax.tree.map(lambda a: rng.uniform(-1, 2, a.shape).astype(a.dtype), variables)


def train(layer, variables, x, mask=None):
    """Outputs and new running statistics."""

    @jax.jit
    def apply(variables, x, mask):
        options = {"mask": mask, "use_running_average": False}
        return layer.apply(variables, x, **options, mutable=["batch_stats"])

    return apply(variables, x, mask)


@pytest.fixture
def images(rng):
    return rng.normal(size=(B, SIDE, SIDE, C)).astype(np.float32)


@norms
def test_is_the_convolution_of_flax_and_then_the_norm(images, norm):
    geometry = {"strides": 2, "padding": "VALID", "kernel_dilation": (1, 2)}
    layer = Conv(F, (3, 2), norm, **geometry, **options_of(norm))
    variables = random_variables(layer, images)
    params = variables["params"]
    y, state = train(layer, variables, images)
    kernel = params["kernel"]
    if norm == "weight":
        kernel = norm_oracles.weight_norm(kernel, params["scale"], epsilon=1e-5)
    convolution = nn.Conv(F, (3, 2), use_bias=False, **geometry)
    summed = convolution.apply({"params": {"kernel": kernel.astype(np.float32)}}, images)
    affine = params.get("scale"), params["bias"]
    summed = np.asarray(summed, np.float64)
    if norm == "layer":
        expected = norm_oracles.group_norm(summed, *affine, 1)
    elif norm == "rms":
        root = np.sqrt(np.square(summed).mean(axis=(1, 2, 3), keepdims=True) + 1e-5)
        expected = norm_oracles.affine(summed / root, *affine)
    elif norm == "batch":
        expected = norm_oracles.batch_norm(summed, *affine)
        mean, variance = norm_oracles.batch_statistics(summed)
        old = variables["batch_stats"]
        new = {"mean": 0.99 * old["mean"] + 0.01 * mean, "var": 0.99 * old["var"] + 0.01 * variance}
        assert_close(state["batch_stats"], new)
    elif norm in ("group", "instance"):
        expected = norm_oracles.group_norm(summed, *affine, 2 if norm == "group" else F)
    else:
        expected = norm_oracles.affine(summed, None, affine[1])
    assert_close(y, expected)


@norms
def test_parameters_are_flat_and_there_is_one_bias(images, norm):
    layer = Conv(F, (3, 3), norm, **options_of(norm))
    variables = layer.init(jax.random.key(0), images, use_running_average=False)
    shapes = {"kernel": (3, 3, C, F), "scale": (F,), "bias": (F,)}
    if norm is None:
        del shapes["scale"]
    assert jax.tree.map(jnp.shape, variables["params"]) == shapes
    statistics = {"mean": (F,), "var": (F,)} if norm == "batch" else {}
    assert jax.tree.map(jnp.shape, variables.get("batch_stats", {})) == statistics


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": (3, 3)},
        {"kernel_size": (3, 3), "strides": (2, 1), "padding": ((1, 1), (0, 2))},
        {"kernel_size": (2, 3), "padding": "CIRCULAR"},
        {"kernel_size": (2, 3), "padding": 1, "input_dilation": 2},
        {"kernel_size": (3, 1), "feature_group_count": 3, "kernel_dilation": 2},
        {"kernel_size": [3, 3], "strides": None, "precision": "highest"},
    ],
)
def test_without_a_norm_it_is_the_layer_of_flax(images, geometry):
    ours, theirs = Conv(6, norm=None, **geometry), nn.Conv(6, **geometry)
    expected, variables = theirs.init_with_output(jax.random.key(0), images)
    y, own = ours.init_with_output(jax.random.key(0), images)
    assert_equal(own, variables)
    assert_close(y, expected, 1e-6)


def test_one_axis_of_positions_and_an_integer_for_the_kernel(rng):
    xs = rng.normal(size=(B, 7, C)).astype(np.float32)
    variables = random_variables(Conv(F, 3, padding="CAUSAL"), xs)
    y, _ = train(Conv(F, 3, padding="CAUSAL"), variables, xs)
    kernel = {"params": {"kernel": variables["params"]["kernel"]}}
    summed = nn.Conv(F, 3, padding="CAUSAL", use_bias=False).apply(kernel, xs)
    affine = variables["params"]["scale"], variables["params"]["bias"]
    assert_close(y, norm_oracles.group_norm(summed, *affine, 1))


@norms
def test_any_number_of_axes_may_lead(images, norm):
    layer = Conv(F, (3, 3), norm, **options_of(norm))
    variables = random_variables(layer, images)
    y, _ = train(layer, variables, images)
    twice, _ = train(layer, variables, images.reshape(2, 2, SIDE, SIDE, C))
    assert_close(twice.reshape(y.shape), y, 1e-6)
    if norm != "batch":
        assert_close(train(layer, variables, images[1])[0], y[1])


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "instance"])
def test_a_kernel_of_one_position_is_a_dense_layer(rng, norm):
    x = rng.normal(size=(B, 1, C)).astype(np.float32)
    conv, dense = Conv(F, 1, norm, **options_of(norm)), Dense(F, norm, **options_of(norm))
    variables = random_variables(dense, x[:, 0])
    y, state = train(dense, variables, x[:, 0])
    params = variables["params"] | {"kernel": variables["params"]["kernel"][None]}
    assert_close(train(conv, variables | {"params": params}, x), (y[:, None], state))


@norms
def test_masked_equals_only_the_real_images(rng, x64, norm):
    x = rng.normal(size=(B, SIDE, SIDE, C))
    mask = np.array([True, False, True, False])
    x[~mask] = np.nan
    layer = Conv(F, (3, 3), norm, strides=2, param_dtype=jnp.float64, **options_of(norm))
    variables = random_variables(layer, x)
    cotangent = rng.normal(size=(B, SIDE // 2, SIDE // 2, F))

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


@norms
def test_gradients_equal_those_of_torch(rng, x64, norm):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(B, SIDE, SIDE, C))
    layer = Conv(F, (3, 3), norm, padding=1, param_dtype=jnp.float64, **options_of(norm))
    variables = random_variables(layer, x)
    params = variables["params"]
    leaves = {k: torch.tensor(v).requires_grad_() for k, v in {"x": x, **params}.items()}
    kernel = leaves["kernel"].permute(3, 2, 0, 1)
    if norm == "weight":
        length = (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        kernel = kernel / length * leaves["scale"][:, None, None, None]
    summed = torch.nn.functional.conv2d(leaves["x"].movedim(-1, 1), kernel, padding=1)
    f = torch.nn.functional
    if norm == "layer":
        y = f.layer_norm(summed, summed.shape[1:])
    elif norm == "rms":
        y = summed / (summed.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    elif norm == "batch":
        y = f.batch_norm(summed, None, None, training=True)
    elif norm == "group":
        y = f.group_norm(summed, 2)
    elif norm == "instance":
        y = f.instance_norm(summed)
    else:
        y = summed
    y = y.movedim(1, -1)
    if norm not in ("weight", None):
        y = y * leaves["scale"]
    y = y + leaves["bias"]
    ours, vjp = jax.vjp(
        lambda x, params: train(layer, variables | {"params": params}, x)[0], x, params
    )
    assert_close(ours, y.detach().numpy(), 1e-10)
    cotangent = rng.normal(size=ours.shape)
    expected = torch.autograd.grad(y, list(leaves.values()), torch.tensor(cotangent))
    of_x, of_params = vjp(cotangent)
    expected = dict(zip(leaves, (g.numpy() for g in expected), strict=True))
    assert_close({"x": of_x, **of_params}, expected, 1e-9)


@norms
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.some(5)
def test_half_precision_takes_its_statistics_in_float32(images, norm, dtype):
    # Without jit, under which the compiler may keep more digits of the summed inputs than `dtype`.
    training = {"use_running_average": False, "mutable": ["batch_stats"]}
    layer = Conv(F, (3, 3), norm, dtype=dtype, **options_of(norm))
    variables = random_variables(layer, images)
    y, state = layer.apply(variables, images, **training)
    assert y.dtype == dtype
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves((variables, state)))
    cotangent = images[..., :1].repeat(F, axis=-1)
    gradients = jax.grad(lambda v: (train(layer, v, images)[0] * cotangent).sum())(variables)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(gradients))
    if norm == "weight":
        return
    kernel = {"params": {"kernel": variables["params"]["kernel"]}}
    summed = nn.Conv(F, (3, 3), use_bias=False, dtype=dtype).apply(kernel, images)
    assert summed.dtype == dtype
    rest = {k: v for k, v in variables["params"].items() if k != "kernel"}
    if norm is None:
        expected = summed.astype(jnp.float32) + rest["bias"][None, None, None]
    else:
        apart = Normalize(norm, 2, **options_of(norm))
        wide = summed.astype(jnp.float32)
        expected, expected_state = apart.apply(variables | {"params": rest}, wide, **training)
        assert_close(state, expected_state)
    assert_close(y.astype(jnp.float32), expected, 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-11)


def test_epsilon_and_initializers_are_used(images):
    layer = Conv(
        F,
        (3, 3),
        epsilon=3.0,
        kernel_init=nn.initializers.constant(0.5),
        scale_init=nn.initializers.constant(0.1),
        bias_init=nn.initializers.constant(2.0),
    )
    y, variables = layer.init_with_output(jax.random.key(0), images)
    names = {"kernel": 0.5, "scale": 0.1, "bias": 2.0}
    assert_close(
        variables["params"],
        {name: np.full_like(variables["params"][name], value) for name, value in names.items()},
    )
    kernel = {"params": {"kernel": variables["params"]["kernel"]}}
    summed = nn.Conv(F, (3, 3), use_bias=False).apply(kernel, images)
    assert_close(y, 0.1 * norm_oracles.group_norm(summed, num_groups=1, epsilon=3.0) + 2)


def test_precision_reaches_the_convolution(images):
    layer = Conv(F, (3, 3), precision="highest")
    variables = layer.init(jax.random.key(0), images)
    assert "HIGHEST" in str(jax.make_jaxpr(layer.apply)(variables, images))


@pytest.mark.parametrize(
    "attributes, match",
    [
        ({"norm": "none"}, "'none'.*Conv.*'instance', 'weight', None"),
        ({"norm": 2}, "norm=2"),
        ({"momentum": 0.9}, "momentum"),
        ({"norm": "weight", "num_groups": 2}, "num_groups"),
        ({"norm": "group"}, "num_groups=32"),
        ({"feature_group_count": 2}, "feature_group_count=2"),
        ({"kernel_size": (3, 3, 3, 3)}, "axes of positions"),
    ],
)
def test_refuses_what_has_no_meaning(images, attributes, match):
    with pytest.raises(ValueError, match=match):
        Conv(F, **({"kernel_size": (3, 3)} | attributes)).init(jax.random.key(0), images)


@pytest.mark.parametrize("mask", [np.ones((B, SIDE), bool), np.ones(C, bool), np.ones(B)])
def test_refuses_masks_that_do_not_fit(images, mask):
    with pytest.raises(ValueError, match="mask"):
        Conv(F, (3, 3)).init(jax.random.key(0), images, mask=mask)

"""`dtype=bfloat16` in every task: what is bfloat16, what stays float32, and what that costs.

The programs are read as jaxprs, which needs no compilation; the gradients are compared in the slow
suite, one task in the fast one.
"""

import json
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import tasks
from lnjax.training.step import run_shapes
from tests import runs
from tests.jaxprs import equations
from tests.tasks import small

HALF = jnp.dtype(jnp.bfloat16)
PRODUCTS = ("dot_general", "conv_general_dilated")
# The products that are float32 on purpose: attention windows (positions in pixels) and their
# reading and writing of a float32 canvas; the window of handwriting (positions in letters).
LEAST_SHARE = {"draw": 0.6, "handwriting": 0.7}
# What the gradient of the window adds up over the points is sensitive in float32, too.
FARTHEST = {"handwriting": 0.3}

every_task = pytest.mark.parametrize("name", small.NAMES)


def program(name, norm="layer"):
    """Every equation of the loss and its gradient."""
    task, batch = small.make_task(name, "bfloat16", norm), small.make_batch(name)

    def value(params, state):
        return small.loss(task, params, state, batch)

    closed = jax.make_jaxpr(jax.value_and_grad(value, has_aux=True))(*small.shapes(name, norm))
    return list(equations(closed.jaxpr))


@every_task
@pytest.mark.some(4)
def test_products_are_bfloat16_and_sums_of_norms_float32(name):
    found = program(name)
    kinds = Counter(
        tuple(operand.aval.dtype for operand in equation.invars)
        for equation in found
        if equation.primitive.name in PRODUCTS
    )
    # None has operands of two dtypes: that is what a float32 cotangent makes of the backward pass.
    assert all(len(set(kind)) == 1 for kind in kinds), kinds
    share = kinds[HALF, HALF] / sum(kinds.values())
    print(f"{name}: {share:.2f} of {sum(kinds.values())} products")
    assert share >= LEAST_SHARE.get(name, 1.0), kinds
    assert share == 1 or name in LEAST_SHARE
    for equation in found:
        if equation.primitive.name in ("reduce_sum", "rsqrt", "sqrt", "exp", "log"):
            assert equation.invars[0].aval.dtype != HALF, equation


WITH_STATE = [("pi_mnist", "batch"), ("convnet", "batch"), ("attentive_reader", "batch_everywhere")]


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "layer") for name in small.NAMES), *WITH_STATE]
)
@pytest.mark.some(5)
def test_parameters_moments_and_statistics_stay_float32(name, norm):
    task, tx = small.make_task(name, "bfloat16", norm), optax.adam(1e-3)
    shapes = run_shapes(small.make_batch(name), task=task, tx=tx)
    state, sums = shapes["state"], shapes["sums"]
    assert bool(state.model_state) == (norm != "layer")
    for part in (state.params, state.model_state, state.opt_state, sums):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            assert leaf.dtype in (jnp.float32, jnp.int32), path
    before = jax.tree.leaves(small.shapes(name, norm))
    after = jax.tree.leaves((state.params, state.model_state))
    assert [leaf.dtype for leaf in after] == [leaf.dtype for leaf in before]


@pytest.mark.parametrize("name", ["pi_mnist", "convnet", "handwriting", "skip_thoughts", "draw"])
@pytest.mark.some(2)
def test_layers_give_bfloat16(name):
    """What a layer of the network hands on, as Flax records it."""
    task, batch = small.make_task(name, "bfloat16"), small.make_batch(name)
    shapes = small.shapes(name)
    given: dict[str, set] = {}

    def record(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        if context.method_name == "__call__":
            kind = type(context.module).__name__
            ys = out[1] if isinstance(out, tuple) else out
            given.setdefault(kind, set()).update(
                leaf.dtype for leaf in jax.tree.leaves(ys) if hasattr(leaf, "dtype")
            )
        return out

    with nn.intercept_methods(record):
        jax.eval_shape(lambda *of: small.loss(task, *of, batch), *shapes)
    layers = {kind: dtypes for kind, dtypes in given.items() if kind in ("Dense", "Conv", "RNN")}
    assert layers or name == "draw"
    assert all(dtypes == {HALF} for dtypes in layers.values()), layers


def compare(name):
    """Loss and gradient with bfloat16 as far from those with float32: relative, in L2."""
    params, state = small.variables(name, noise=0.3)
    batch = small.make_batch(name)
    got = []
    for dtype in ("float32", "bfloat16"):
        task = small.make_task(name, dtype)

        def value(params, task=task):
            return small.loss(task, params, state, batch)[0]

        got.append(jax.jit(jax.value_and_grad(value))(params))
    (loss, gradient), (half_loss, half_gradient) = got
    assert half_loss.dtype == jnp.float32
    off = optax.tree.norm(jax.tree.map(jnp.subtract, half_gradient, gradient))
    return abs(half_loss - loss) / abs(loss), off / optax.tree.norm(gradient)


def check_close(name):
    loss, gradient = compare(name)
    print(f"{name}: loss {loss:.1e}, gradient {gradient:.1e}")
    assert 0 < loss < 0.01 and 0 < gradient < FARTHEST.get(name, 0.1)


@pytest.mark.parametrize("name", ["pi_mnist"])
def test_loss_and_gradient_are_close_to_those_of_float32(name):
    check_close(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", small.NAMES[1:])
def test_loss_and_gradient_are_close_in_the_other_tasks(name):
    check_close(name)


@every_task
@pytest.mark.parametrize("dtype", ["float8", "int32", "bfloat", "float16", "float64", ""])
def test_another_dtype_is_refused_before_data_are_prepared(name, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("LNJAX_DATA_DIR", str(tmp_path / "data"))
    config = ConfigDict({"dtype": dtype})  # no other key is looked at before
    if name == "order_embeddings":
        from configs import order_embeddings

        config = order_embeddings.get_config("smoke")
        config.dtype = dtype
    with pytest.raises(ValueError, match=f"^dtype='{dtype}' is not known; there are 'float32' and"):
        tasks.load(name).make_data(config)
    assert not (tmp_path / "data").exists()


def test_float16_is_told_why(tmp_path):
    with pytest.raises(ValueError, match="float16 ends at 65504 and would need the loss scaled"):
        tasks.load("draw").make_data(ConfigDict({"dtype": "float16"}))


@pytest.mark.slow
@every_task
def test_twenty_steps_are_those_of_float32(name, tmp_path, tmp_path_factory, monkeypatch):
    """To what training makes of roundings; in so few steps not every loss falls, in either."""
    runs.share_caches(tmp_path_factory, monkeypatch)
    found = {}
    for dtype in ("bfloat16", "float32"):
        folder = tmp_path / dtype
        arguments = [f"--config=configs/{name}.py:smoke", f"--config.dtype={dtype}"]
        done = runs.run(["train.py", *arguments, f"--workdir={folder}"])
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert np.isfinite([value for line in lines for value in line.values()]).all()
        found[dtype] = [line["train/loss"] for line in lines if "train/loss" in line]
    print(name, found)
    assert len(found["float32"]) > 1
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0.05, atol=0.05)

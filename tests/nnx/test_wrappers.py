"""What a user of Flax NNX does with any module, done with those of lnjax.nnx."""

import copy
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import lnjax
import lnjax.nnx as fronts
from tests.trees import assert_close, assert_equal

B, T, D, H = 2, 4, 3, 5
LENGTHS = np.array([4, 2])


def lstm(**attributes):
    return fronts.LSTMCell(D, H, **attributes, rngs=nnx.Rngs(0))


def noisy(rngs):
    """A layer that draws."""
    cell = fronts.SimpleCell(D, H, norm=None, rngs=rngs)
    return fronts.RNN(fronts.Zoneout(cell, h=0.3, rngs=rngs), implementation="scan")


def parameters(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


def test_an_ensemble_is_its_members(xs):
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return noisy(rngs)

    ensemble = make(nnx.Rngs(0))
    assert ensemble.cell.cell.kernel.shape == (3, D, H)
    definition, state = nnx.split(ensemble)
    members = [jax.tree.map(lambda leaf, m=m: leaf[m], state) for m in range(3)]
    call = nnx.jit(nnx.vmap(lambda module, xs: module(xs), in_axes=(0, None)))
    ys = call(ensemble, xs)
    for member, got in zip(members, ys, strict=True):
        assert_close(nnx.merge(definition, member)(xs), got, 1e-5)
    assert (ys[0] != ys[1]).any()
    assert (call(ensemble, xs) != ys).any()


def test_eval_shape_and_pure_dicts_restore_a_module(xs):
    module = noisy(nnx.Rngs(1))
    pure = nnx.to_pure_dict(nnx.state(module))
    abstract = nnx.eval_shape(lambda: noisy(nnx.Rngs(0)))
    assert isinstance(abstract.cell.cell.kernel.get_value(), jax.ShapeDtypeStruct)
    definition, state = nnx.split(abstract)
    nnx.replace_by_pure_dict(state, pure)
    restored = nnx.merge(definition, state)
    assert_equal(restored(xs), module(xs))


@pytest.mark.parametrize("copied", [nnx.clone, copy.deepcopy])
def test_a_copy_is_apart(copied, xs):
    module = noisy(nnx.Rngs(0))
    other = copied(module)
    assert_equal(other(xs), module(xs))
    before = parameters(module)
    other.cell.cell.kernel[...] = jnp.zeros((D, H))
    assert_equal(parameters(module), before)


def test_parameters_can_be_set_and_made_another_type(xs):
    layer = fronts.Dense(D, H, norm=None, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.ones((D, H))
    expected = np.broadcast_to(xs.sum(-1, keepdims=True), (B, T, H))
    assert_close(layer(xs), expected)

    class Frozen(nnx.Variable):
        pass

    layer.kernel = Frozen(layer.kernel[...])  # so that gradients of nnx.Param leave it out
    assert_close(layer(xs), expected)
    assert parameters(layer) == {}


def test_an_optimizer_step_decreases_the_loss(xs):
    model = fronts.RNN(lstm(), implementation="scan")
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return jnp.mean((model(xs, seq_lengths=LENGTHS) - 0.5) ** 2)

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    losses = [float(step(model, optimizer)) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def test_modules_are_pytrees_for_plain_jax(xs):
    model = fronts.RNN(lstm(sites=["input", "cell"]))
    expected = model(xs)
    assert_close(jax.jit(lambda model, xs: model(xs))(model, xs), expected, 1e-5)
    assert_close(jax.jit(model)(xs), expected, 1e-5)


def test_lists_are_no_obstacle_to_jit(xs):
    layer = fronts.Conv(D, H, [2], strides=[1], padding=[[0, 1]], rngs=nnx.Rngs(0))
    call = nnx.jit(lambda layer, xs: layer(xs))
    assert call(layer, xs).shape == call(layer, xs).shape == (B, T, H)
    hash(layer.linen())
    hash(lstm(sites=["input"]).linen())


def test_the_bidirectional_of_flax_takes_the_cells_and_the_layers(xs):
    cells = [fronts.SimpleCell(D, H, norm=None, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    theirs = nnx.Bidirectional(*map(nnx.RNN, cells))
    ours = fronts.Bidirectional(*map(fronts.RNN, cells))
    mixed = nnx.Bidirectional(*map(fronts.RNN, cells))
    got, expected = theirs(xs, seq_lengths=LENGTHS), ours(xs, seq_lengths=LENGTHS)
    real = np.arange(T) < LENGTHS[:, None]
    assert_close(got[real], expected[real], 1e-5)  # elsewhere Flax computes on
    assert_close(mixed(xs, seq_lengths=LENGTHS), expected, 1e-5)


def test_the_rnn_of_flax_draws_anew_too(xs):
    layer = nnx.RNN(noisy(nnx.Rngs(0)).cell)
    assert (layer(xs) != layer(xs)).any()


def test_the_initial_carry_takes_rngs_a_stream_or_nothing():
    cell = lstm(carry_init=linen.initializers.normal())
    by_rngs = cell.initialize_carry((B, D), nnx.Rngs(0, carry=1))
    by_stream = cell.initialize_carry((B, D), nnx.Rngs(0, carry=1).carry)
    assert_equal(by_rngs, by_stream)
    constant = cell.initialize_carry((B, D))
    assert_equal(constant, cell.initialize_carry((B, D)))
    assert (constant[0] != by_rngs[0]).any()
    ones = cell.initialize_carry((B, D), carry_init=linen.initializers.ones)
    assert_equal(ones, (np.ones((B, H)), np.ones((B, H))))


def test_a_layer_takes_rngs_for_its_initial_carry(xs):
    cell = lstm(carry_init=linen.initializers.normal())
    carry = cell.initialize_carry((B, D), nnx.Rngs(carry=1))
    layer = fronts.RNN(cell)
    assert_equal(layer(xs, rngs=nnx.Rngs(carry=1)), layer(xs, initial_carry=carry))
    assert_equal(layer(xs, rngs=nnx.Rngs(carry=1).carry), layer(xs, initial_carry=carry))


@pytest.mark.parametrize("wrapper", [fronts.LearnedCarry, fronts.Zoneout])
def test_only_a_plain_cell_takes_another_initial_carry(wrapper):
    cell = wrapper(lstm(), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=wrapper.__name__):
        cell.initialize_carry((B, D), carry_init=linen.initializers.ones)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "BatchNormLSTMCell", "Dense", "Conv"])
def test_the_signature_shows_the_attributes_of_linen(name):
    ours = inspect.signature(getattr(fronts, name)).parameters
    theirs = inspect.signature(getattr(lnjax, name)).parameters
    assert list(ours)[:2] == ["in_features", "features"]
    assert list(ours)[-1] == "rngs"
    assert set(ours) == {*theirs, "in_features", "rngs"} - {"parent", "name"}
    for attribute in set(theirs) - {"parent", "name"}:
        assert ours[attribute].default == theirs[attribute].default


def test_an_instance_has_the_signature_of_its_call_and_a_subclass_its_own():
    class Mine(fronts.LSTMCell):
        def __init__(self, width, *, rngs):
            super().__init__(D, width, norm="rms", rngs=rngs)

    assert list(inspect.signature(lstm()).parameters) == ["carry", "inputs"]
    assert next(iter(inspect.signature(fronts.RNN).parameters)) == "cell"
    assert inspect.signature(Mine).parameters["norm"].default == "layer"
    assert fronts.RNN(Mine(H, rngs=nnx.Rngs(0)))(jnp.ones((B, T, D))).shape == (B, T, H)


RNGS = nnx.Rngs(0)
REFUSED = {
    "typo": (lambda: lstm(nrom="layer"), TypeError, "'nrom'"),
    "typo of a layer": (lambda: fronts.RNN(lstm(), revers=True), TypeError, "'revers'"),
    "unknown norm": (lambda: lstm(norm="typo"), ValueError, "norm='typo'"),
    "cell of flax": (
        lambda: fronts.RNN(nnx.LSTMCell(D, H, rngs=RNGS)),
        TypeError,
        "expected a cell of lnjax.nnx, got flax.nnx.*LSTMCell",
    ),
    "cell of linen": (lambda: fronts.RNN(lnjax.LSTMCell(H)), TypeError, "got lnjax.cells.lstm"),
    "layer as a cell": (lambda: fronts.RNN(fronts.RNN(lstm())), TypeError, "a cell of lnjax.nnx"),
    "cell as a layer": (lambda: fronts.Stack([lstm()]), TypeError, "a layer of lnjax.nnx"),
    "layer of flax": (
        lambda: fronts.Bidirectional(nnx.RNN(lstm()), fronts.RNN(lstm())),
        TypeError,
        "a layer of lnjax.nnx, got flax.nnx",
    ),
    "no rngs": (lambda: fronts.LSTMCell(D, H), TypeError, "'rngs'"),
    "rngs None": (lambda: fronts.Dense(D, H, rngs=None), TypeError, "rngs must be an nnx.Rngs"),
    "a key as rngs": (
        lambda: fronts.Zoneout(lstm(), h=0.1, rngs=jax.random.key(0)),
        TypeError,
        "rngs must be an nnx.Rngs",
    ),
    "no stream": (
        lambda: fronts.RecurrentDropout(lstm(), rngs=nnx.Rngs(params=0)),
        KeyError,
        "dropout",
    ),
    "stack without rngs": (
        lambda: fronts.Stack([fronts.RNN(lstm())], dropout=0.1),
        ValueError,
        "give rngs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_where_it_is_made(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


def test_a_representation_shows_parameters_and_attributes():
    shown = repr(fronts.RNN(lstm(), time_major=True))
    for word in ("RNN(", "time_major=True", "LSTMCell(", "norm = 'layer'", "kernel=Param("):
        assert word in shown


def test_an_initializer_of_linen_with_partitioning_names_the_axes_for_nnx():
    boxed = linen.with_partitioning(linen.initializers.lecun_normal(), ("in", "out"))
    automatic = (jax.sharding.AxisType.Auto,) * 2
    with jax.set_mesh(jax.make_mesh((1, 1), ("in", "out"), axis_types=automatic)):
        layer = fronts.Dense(D, H, kernel_init=boxed, rngs=nnx.Rngs(0))
        specification = nnx.get_partition_spec(nnx.state(layer))["kernel"].get_value()
        assert specification == jax.sharding.PartitionSpec("in", "out")
        assert layer(jnp.ones((B, D))).shape == (B, H)

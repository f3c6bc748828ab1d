"""Every module of lnjax.nnx is the Linen module of its name: trees, outputs, gradients, state."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lnjax
import lnjax.nnx as fronts
from lnjax.nn import Bidirectional, Conv, Dense, Normalize, Stack
from tests.trees import assert_close, assert_equal

B, T, D, H = 3, 4, 2, 5  # all different
LENGTHS = np.array([4, 1, 2])
MODES = {"use_running_average": False}


# The norms of the cells are tested with the cells. "scan" compiles in half the time.
FAST = {"implementation": "scan"}


def cell_of(cell, width, in_features, **attributes):
    """A Linen cell and what makes its namesake."""
    attributes |= {"max_steps": T} if cell == "BatchNormLSTMCell" else {"norm": None}
    return (
        getattr(lnjax, cell)(width, **attributes),
        lambda rngs: getattr(fronts, cell)(in_features, width, **attributes, rngs=rngs),
    )


def rnn(width=H, in_features=D, cell="SimpleCell", **attributes):
    linen, make = cell_of(cell, width, in_features)
    attributes |= FAST
    return lnjax.RNN(linen, **attributes), lambda rngs: fronts.RNN(make(rngs), **attributes)


def wrapped(name, cell="SimpleCell", **attributes):
    linen, make = cell_of(cell, H, D)

    def make_layer(rngs):
        cell = getattr(fronts, name)(make(rngs), **attributes, rngs=rngs)
        return fronts.RNN(cell, **FAST)

    return lnjax.RNN(getattr(lnjax, name)(linen, **attributes), **FAST), make_layer


def stack(*layers, **attributes):
    return (
        Stack([linen for linen, _ in layers], **attributes),
        lambda rngs: fronts.Stack([make(rngs) for _, make in layers], **attributes, rngs=rngs),
    )


def bidirectional(forward, backward, **attributes):
    return (
        Bidirectional(forward[0], backward[0], **attributes),
        lambda rngs: fronts.Bidirectional(forward[1](rngs), backward[1](rngs), **attributes),
    )


def normalize(norm, **attributes):
    attributes = {"norm": norm, **attributes} | (MODES if norm == "batch" else {})
    return Normalize(**attributes), lambda rngs: fronts.Normalize(D, **attributes, rngs=rngs)


def dense(norm, **attributes):
    attributes = {"norm": norm, **attributes} | (MODES if norm == "batch" else {})
    return Dense(H, **attributes), lambda rngs: fronts.Dense(D, H, **attributes, rngs=rngs)


def conv(norm, size=(3,), **attributes):
    attributes = {"norm": norm, **attributes} | (MODES if norm == "batch" else {})
    return (
        Conv(H, size, **attributes),
        lambda rngs: fronts.Conv(D, H, size, **attributes, rngs=rngs),
    )


CASES = {
    "normalize-layer": normalize("layer", num_spatial_axes=1),
    "normalize-rms": normalize("rms"),
    "normalize-batch": normalize("batch", momentum=0.9),
    "normalize-group": normalize("group", num_groups=1),
    "normalize-instance": normalize("instance", num_spatial_axes=1),
    "normalize-None": normalize(None),
    "dense-layer": dense("layer"),
    "dense-batch": dense("batch"),
    "dense-weight": dense("weight", use_bias=False),
    "conv-group": conv("group", num_groups=H, strides=[2]),
    "conv-batch": conv("batch", padding=[[0, 2]]),
    "conv-size": conv(None, size=2),
    "rnn": rnn(reverse=True),
    "bidirectional": bidirectional(rnn(), rnn(H + 1)),
    "stack-None": stack(rnn(), rnn(H + 1, H)),
    "stack-residual": stack(rnn(), rnn(H, H, reverse=True, keep_order=True), skip="residual"),
    "stack-input_output": stack(rnn(), rnn(H, D + H), skip="input_output"),
    "stack-dropout": stack(rnn(), rnn(H, H), dropout=0.5, deterministic=False),
    "learned carry": wrapped("LearnedCarry", learned=["h"]),
    "recurrent dropout": wrapped("RecurrentDropout", rate=0.4),
    "zoneout": wrapped("Zoneout", "LSTMCell", c=0.3, h=0.2),
    "batch norm inside": stack(
        dense("batch"), bidirectional(rnn(1, H), rnn(2, H, "BatchNormLSTMCell")), skip=None
    ),
}
every_case = pytest.mark.parametrize("name", CASES)
RECURRENT = ("rnn", "bidirectional", "stack-i", "stack-r", "learned", "zone", "recurrent")


def merged(variables):
    """{"params": {...}, "batch_stats": {...}} as one tree, which is how NNX has it."""

    def merge(one, other):
        both = {key: merge(one[key], other[key]) for key in one.keys() & other.keys()}
        return {**one, **other, **both}

    return merge(variables.get("params", {}), variables.get("batch_stats", {}))


def draws(module):
    """What the streams of a module draw next."""
    streams = [node for _, node in nnx.iter_graph(nnx.clone(module))]
    return {s.tag: s() for s in streams if isinstance(s, nnx.RngStream)}


def values(module, *filters):
    return nnx.to_pure_dict(nnx.state(module, filters or (nnx.Param, nnx.BatchStat)))


def random_variables(linen, xs, seed=0):
    rng = np.random.default_rng(seed)

    def variable(path, leaf):
        noise = rng.normal(0.2, 0.7, leaf.shape).astype(np.float32)
        return abs(noise) + 0.3 if path[-1].key.startswith(("var", "count")) else noise

    rngs = {name: jax.random.key(0) for name in ("params", "dropout", "zoneout")}
    shapes = jax.eval_shape(linen.init, rngs, xs)
    return jax.tree_util.tree_map_with_path(variable, dict(shapes))


def cotangent(shape):
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


class Both:
    """One training call of a case, with the gradients, by Linen and by NNX."""

    def __init__(self, name):
        linen, make = CASES[name]
        self.xs = np.random.default_rng(1).normal(size=(B, T, D)).astype(np.float32)
        self.variables = random_variables(linen, self.xs)
        self.module = make(nnx.Rngs(0))
        self.shapes = jax.tree.map(np.shape, values(self.module))
        nnx.update(self.module, merged(self.variables))
        keys = draws(self.module)
        arguments = {"seq_lengths": LENGTHS} if name.startswith(RECURRENT) else {}
        state = {kind: tree for kind, tree in self.variables.items() if kind != "params"}

        def linen_loss(params, xs):
            ys, changed = linen.apply(
                {"params": params, **state}, xs, rngs=keys, mutable=list(state), **arguments
            )
            return jnp.vdot(ys, cotangent(ys.shape)), (ys, changed)

        def nnx_loss(module, xs):
            ys = module(xs, **arguments)
            return jnp.vdot(ys, cotangent(ys.shape)), ys

        differentiate = jax.jit(jax.value_and_grad(linen_loss, (0, 1), has_aux=True))
        result = differentiate(self.variables.get("params", {}), self.xs)
        (_, (self.ys, self.changed)), (self.to_params, self.to_xs) = result
        differentiate = nnx.jit(nnx.value_and_grad(nnx_loss, argnums=(0, 1), has_aux=True))
        (_, self.got), (to_params, self.got_to_xs) = differentiate(self.module, self.xs)
        self.got_to_params = nnx.to_pure_dict(to_params)


both = cache(Both)


@every_case
@pytest.mark.some(8)
def test_names_and_shapes_are_those_of_linen(name):
    case = both(name)
    assert case.shapes == jax.tree.map(np.shape, merged(case.variables))


@every_case
def test_outputs_are_those_of_linen(name):
    case = both(name)
    assert_close(case.got, case.ys, 1e-6)
    assert np.asarray(case.ys).any()


@every_case
def test_gradients_are_those_of_linen(name):
    case = both(name)
    assert_close(case.got_to_params, dict(case.to_params), 1e-5)
    assert_close(case.got_to_xs, case.to_xs, 1e-5)


@every_case
def test_a_training_call_leaves_the_statistics_that_linen_does_and_nothing_else(name):
    case = both(name)
    assert_equal(values(case.module, nnx.Param), dict(case.variables.get("params", {})))
    changed = case.changed.get("batch_stats", {})
    assert_close(values(case.module, nnx.BatchStat), dict(changed), 1e-5)
    if "batch" in name:
        old = jax.tree.leaves(case.variables["batch_stats"])
        assert all((a != b).any() for a, b in zip(old, jax.tree.leaves(changed), strict=True))


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


BATCH_NORMS = ("normalize-batch", "conv-batch", "batch norm inside")


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_eval_freezes_the_statistics_and_train_frees_them(name, xs):
    _, make = CASES[name]
    module, call = make(nnx.Rngs(0)), nnx.jit(lambda module, xs: module(xs))
    call(module, xs)
    trained = values(module, nnx.BatchStat)
    module.eval()
    first, second = call(module, xs), call(module, 2 * xs)
    assert_equal(values(module, nnx.BatchStat), trained)
    # A row does not depend on the others.
    assert_close(call(module, xs[:1]), first[:1], 1e-5)
    assert (first != second).any()
    module.train()
    call(module, xs**2)
    moved = jax.tree.map(lambda a, b: (a != b).any(), values(module, nnx.BatchStat), trained)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", ["dense-batch", "batch norm inside", "zoneout"])
def test_a_module_in_evaluation_may_be_closed_over(name, xs):
    # Storing a value, the same one even, would be a side effect that the trace does not allow.
    module = CASES[name][1](nnx.Rngs(0))
    module.eval()
    assert_close(jax.jit(lambda xs: module(xs))(xs), module(xs), 1e-5)


def test_the_call_overrides_the_mode_of_batch_norm(xs):
    layer = CASES["dense-batch"][1](nnx.Rngs(0))
    frozen = layer(xs, use_running_average=True)
    assert_equal(values(layer, nnx.BatchStat), {"mean": np.zeros(H), "var": np.ones(H)})
    layer.eval()
    assert_equal(layer(xs), frozen)
    assert (layer(xs, use_running_average=False) != frozen).any()
    assert layer.mean[...].any()


@pytest.mark.parametrize("name", ["dense-batch", "zoneout", "stack-dropout"])
def test_nnx_view_sets_the_mode_of_a_copy(name, xs):
    module = CASES[name][1](nnx.Rngs(0))
    view = nnx.view(module, deterministic=True, use_running_average=True)
    assert_equal(view(xs), view(xs))
    assert (module(xs) != view(xs)).any()
    module.eval()
    assert_equal(view(xs), module(xs))


DROPOUTS = ("stack-dropout", "recurrent dropout", "zoneout")


@pytest.mark.parametrize("name", DROPOUTS)
def test_draws_change_from_call_to_call_until_eval(name, xs):
    _, make = CASES[name]
    module, call = make(nnx.Rngs(0)), nnx.jit(lambda module, xs: module(xs))
    first, second = call(module, xs), call(module, xs)
    assert (first != second).any()
    assert (module(xs) != module(xs)).any()
    again = make(nnx.Rngs(0))
    assert_close(again(xs), first, 1e-5)  # and not compiled
    assert (make(nnx.Rngs(0, dropout=1, zoneout=1))(xs) != first).any()
    nnx.reseed(module, dropout=3, zoneout=3)
    seeded = call(module, xs)
    nnx.reseed(module, dropout=3, zoneout=3)
    assert_equal(call(module, xs), seeded)
    module.eval()
    assert_equal(call(module, xs), call(module, xs))


@pytest.mark.parametrize("shared", ["layer", "cell"])
def test_one_object_in_two_places_has_one_state(shared, xs):
    # The second direction starts with the statistics that the first has left, as in Linen.
    linen_cell, make = cell_of("BatchNormLSTMCell", H, D)
    cell = make(nnx.Rngs(0))
    layers, linen_layers = [fronts.RNN(cell, **FAST)] * 2, [lnjax.RNN(linen_cell, **FAST)] * 2
    if shared == "cell":
        layers[1], linen_layers[1] = fronts.RNN(cell, **FAST), lnjax.RNN(linen_cell, **FAST)
    module, linen = fronts.Bidirectional(*layers), Bidirectional(*linen_layers)
    variables = random_variables(linen, xs)
    nnx.update(cell, merged(variables)["forward_rnn"]["cell"])

    apply = jax.jit(lambda variables, xs: linen.apply(variables, xs, mutable=["batch_stats"]))
    ys, changed = apply(variables, xs)
    assert_close(nnx.jit(lambda module, xs: module(xs))(module, xs), ys, 1e-5)
    assert_close(values(cell, nnx.BatchStat), changed["batch_stats"]["forward_rnn"]["cell"], 1e-5)


def test_one_layer_for_both_directions_has_one_set_of_parameters(xs):
    layer = rnn()[1](nnx.Rngs(0))
    both_ways = fronts.Bidirectional(layer, layer)
    assert len(values(both_ways)) == 1
    assert_close(both_ways(xs)[..., H:], layer(xs, reverse=True, keep_order=True), 1e-5)
    copy = nnx.clone(both_ways)
    assert copy.forward_rnn is copy.backward_rnn

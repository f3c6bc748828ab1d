"""The one train step: against NumPy, over many steps, with each thing that must need no branch."""

import logging
import zlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lnjax.training.state import TrainState, init_state, stream_rngs
from lnjax.training.step import eval_step, output_step, run_shapes, train_step, train_steps
from tests.training.toy_tasks import MOMENTUM, Linear, Normalized, make_batch

RNG = jax.random.key(0)
NETS = [Normalized("layer"), Normalized("batch")]
NOISY = Linear(rng_streams=("noise",), noise=0.3)
every_net = pytest.mark.parametrize("task", NETS, ids=lambda task: task.norm)


def start(task, tx, rows=16):
    return init_state(RNG, make_batch(0, rows), task=task, tx=tx)


def run(task, tx, state, batches, rng=RNG):
    """The state after `batches`, and the sums of each step."""
    each = []
    for batch in batches:
        state, sums = train_step(state, batch, rng, task=task, tx=tx)
        each.append(sums)
    return state, each


def assert_same_bits(got, want):
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def described(tree):
    return jax.tree.structure(tree), [(a.shape, a.dtype) for a in jax.tree.leaves(tree)]


# ---- one step --------------------------------------------------------------------------------


def test_one_step_of_gradient_descent_is_what_numpy_says():
    task, tx = Linear(), optax.sgd(0.1)
    batch = make_batch(1, rows=10, real=7)
    state = start(task, tx)
    state = state.replace(params={"w": jnp.float32([1, -2, 3]), "b": jnp.float32(0.5)})
    state, sums = train_step(state, batch, RNG, task=task, tx=tx)

    x, y = batch["x"][:7].astype(np.float64), batch["y"][:7].astype(np.float64)
    error = x @ [1, -2, 3] + 0.5 - y
    grad_w, grad_b = 2 * error @ x / 7, 2 * error.mean()
    np.testing.assert_allclose(state.params["w"], [1, -2, 3] - 0.1 * grad_w, rtol=1e-5)
    np.testing.assert_allclose(state.params["b"], 0.5 - 0.1 * grad_b, rtol=1e-5)
    assert state.step == 1 and state.step.dtype == jnp.int32
    norm, count = sums.pop("grad_norm")
    assert norm == pytest.approx(np.sqrt(grad_w @ grad_w + grad_b**2), rel=1e-5) and count == 1
    assert sums["loss"][0] == pytest.approx(error @ error, rel=1e-5) and sums["loss"][1] == 7
    assert sums["train"] == (1, 1)
    assert set(sums) == {"loss", "train"}


@every_net
def test_the_loss_falls(task):
    tx = optax.adam(1e-2)
    state, sums = run(task, tx, start(task, tx), [make_batch(seed) for seed in range(80)])
    losses = [n / d for n, d in (s["loss"] for s in sums)]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    assert state.step == 80


def test_batch_norm_is_a_collection_that_keeps_its_tree():
    task, tx = NETS[1], optax.sgd(0.0)
    state = start(task, tx)
    tree = described(state)
    kernel = np.array(state.params["Dense_0"]["kernel"])
    batch = make_batch(3, real=5)
    state, _ = train_step(state, batch, RNG, task=task, tx=tx)
    assert described(state) == tree and set(state.model_state) == {"batch_stats"}
    statistics = state.model_state["batch_stats"]["BatchNorm_0"]
    summed = batch["x"][:5].astype(np.float64) @ kernel  # real rows only
    np.testing.assert_allclose(
        statistics["mean"], (1 - MOMENTUM) * summed.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        statistics["var"], MOMENTUM + (1 - MOMENTUM) * summed.var(axis=0), rtol=1e-4
    )
    assert start(NETS[0], tx).model_state == {}


def test_evaluation_trains_nothing():
    task, tx = NETS[1], optax.sgd(0.1)
    state, _ = run(task, tx, start(task, tx), [make_batch(1), make_batch(2)])
    kept = jax.tree.map(np.array, state)
    first = eval_step(state, make_batch(3), RNG, task=task)
    assert_same_bits(state, kept)
    assert first["train"] == (0, 1) and "grad_norm" not in first
    # Running statistics, not the batch's: a row's error does not depend on the rows beside it.
    rows = [{name: leaf[i : i + 1] for name, leaf in make_batch(3).items()} for i in range(16)]
    alone = [eval_step(state, row, RNG, task=task)["loss"][0] for row in rows]
    assert float(first["loss"][0]) == pytest.approx(float(sum(alone)), rel=1e-5)
    assert output_step(state, make_batch(3), RNG, task=task) == {}


@every_net
def test_what_stands_in_masked_rows_reaches_nothing(task):
    tx = optax.adam(1e-2)
    clean, dirty = make_batch(4, real=9), make_batch(4, real=9)
    for name in ("x", "y"):
        clean[name][9:], dirty[name][9:] = 0, 1e6
    for batches in ([clean], [clean, clean]):  # the second shows the gradients of the first
        got = run(task, tx, start(task, tx), [dirty] * len(batches))
        assert_same_bits(got, run(task, tx, start(task, tx), batches))
    state = start(task, tx)
    got = eval_step(state, dirty, RNG, task=task)
    assert_same_bits(got, eval_step(state, clean, RNG, task=task))


# ---- compilation and memory ------------------------------------------------------------------


@every_net
def test_everything_is_compiled_once(task, caplog):
    tx = optax.adam(1e-2)
    batches = [jax.device_put(make_batch(seed)) for seed in range(3)]
    others = [Normalized(task.norm, name="compiled once") for _ in range(3)]  # built apart, equal
    assert others[0] == others[1] and others[0] is not others[1]
    state = start(others[0], tx)
    sizes = train_step._cache_size(), eval_step._cache_size(), output_step._cache_size()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for i in range(20):
            which = others[i % 3]
            state, _ = train_step(state, batches[i % 3], RNG, task=which, tx=tx)
            if i % 5 == 0:
                eval_step(state, batches[0], RNG, task=which)
                output_step(state, batches[0], RNG, task=which)
    for name in ("train_step", "eval_step", "output_step"):
        compiled = [r for r in caplog.messages if f"XLA compilation of jit({name})" in r]
        assert len(compiled) == 1, (name, compiled)
    assert train_step._cache_size() == sizes[0] + 1
    assert (eval_step._cache_size(), output_step._cache_size()) == (sizes[1] + 1, sizes[2] + 1)


@pytest.mark.parametrize("step", [train_step, train_steps], ids=["one", "several"])
def test_the_state_is_donated(step):
    task, tx = NETS[1], optax.adam(1e-2)
    state = start(task, tx)
    batch = make_batch(0)
    if step is train_steps:
        batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), batch)
    old = jax.tree.leaves(state)
    new, _ = step(state, batch, RNG, task=task, tx=tx)
    assert all(leaf.is_deleted() for leaf in old)
    eval_step(new, make_batch(0), RNG, task=task)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_run_shapes_are_those_of_a_run():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    for task in (NETS[1], NOISY):
        batch = make_batch(0)
        state, sums = train_step(start(task, tx), batch, RNG, task=task, tx=tx)
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
        for given in (batch, abstract):
            shapes = run_shapes(given, task=task, tx=tx)
            assert set(shapes) == {"state", "sums"}
            assert described(shapes["state"]) == described(state)
            assert described(shapes["sums"]) == described(sums)


# ---- several steps in one call ---------------------------------------------------------------


@pytest.mark.parametrize("task", [*NETS, NOISY], ids=lambda task: getattr(task, "norm", "noisy"))
@pytest.mark.some(2)
def test_several_steps_in_one_call_are_the_same_steps(task):
    tx = optax.adam(1e-2)
    batches = [make_batch(seed, real=10 + seed) for seed in range(5)]
    one_by_one, each = run(task, tx, start(task, tx), batches)
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches)
    at_once, sums = train_steps(start(task, tx), stacked, RNG, task=task, tx=tx)
    assert at_once.step == 5
    # The loop is another program: sums are added in another order, so not the same bits.
    chex.assert_trees_all_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)
    added = jax.tree.map(lambda *leaves: sum(leaves), *each)
    chex.assert_trees_all_close(sums, added, rtol=1e-5)
    assert sums["loss"][1] == 10 + 11 + 12 + 13 + 14 and sums["grad_norm"][1] == 5


# ---- random streams --------------------------------------------------------------------------


def test_streams_are_pinned():
    """These numbers must not change between versions: a resumed run would draw others."""
    assert zlib.crc32(b"dropout") == 0x9289EFC9
    at_step = jax.random.fold_in(jax.random.key(7), 5)
    want = jax.random.fold_in(at_step, 0x9289EFC9)
    got = stream_rngs(jax.random.key(7), 5, ("dropout",))
    assert jax.random.key_data(got["dropout"]).tolist() == jax.random.key_data(want).tolist()
    assert jax.random.key_data(got["dropout"]).tolist() == [4162905677, 593887902]


def test_streams_depend_on_run_step_and_name_alone():
    def words(seed, step, names, name):
        keys = stream_rngs(jax.random.key(seed), step, names)
        assert tuple(keys) == names
        return tuple(jax.random.key_data(keys[name]).tolist())

    alone = words(0, 3, ("latent",), "latent")
    assert words(0, 3, ("dropout", "latent"), "latent") == alone
    assert words(0, jnp.int32(3), ("latent", "dropout"), "latent") == alone
    seen = {
        words(seed, step, ("dropout", "latent"), name)
        for seed in range(3)
        for step in range(4)
        for name in ("dropout", "latent")
    }
    assert len(seen) == 3 * 4 * 2 and alone in seen
    assert stream_rngs(RNG, 0, ()) == {}


def test_a_resumed_run_draws_the_same_numbers():
    tx = optax.sgd(0.05)
    batches = [make_batch(seed) for seed in range(8)]
    whole, _ = run(NOISY, tx, start(NOISY, tx), batches)
    half, _ = run(NOISY, tx, start(NOISY, tx), batches[:5])
    saved = jax.tree.map(np.array, half)
    resumed, _ = run(NOISY, tx, jax.device_put(saved), batches[5:])
    assert_same_bits(resumed, whole)
    another, _ = run(NOISY, tx, start(NOISY, tx), batches, rng=jax.random.key(1))
    assert not np.array_equal(another.params["w"], whole.params["w"])  # the noise is there
    more = Linear(rng_streams=("other", "noise"), noise=0.3)
    assert_same_bits(run(more, tx, start(more, tx), batches)[0], whole)


def test_the_same_batch_meets_other_noise_at_the_next_step():
    tx = optax.sgd(0.0)
    _, (first, second) = run(NOISY, tx, start(NOISY, tx), [make_batch(0)] * 2)
    _, (again, _) = run(NOISY, tx, start(NOISY, tx), [make_batch(0)] * 2)
    assert first["grad_norm"][0] != second["grad_norm"][0]
    assert first["grad_norm"][0] == again["grad_norm"][0]


# ---- what is about updates is a link of the optimizer ----------------------------------------


def average_params(decay):
    """A user's link: an exponential average of the parameters, in the optimizer's state."""

    def update(updates, averaged, params):
        new = optax.apply_updates(params, updates)
        averaged = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, averaged, new)
        return updates, averaged

    return optax.GradientTransformation(lambda params: params, update)


def test_an_average_of_the_parameters_is_a_link():
    # Its init returns the parameters themselves: a step could not be given the same buffer twice.
    task, tx = NETS[0], optax.chain(optax.adam(1e-2), average_params(0.8))
    state = start(task, tx)
    want = jax.tree.map(np.array, state.params)
    for seed in range(6):
        state, _ = train_step(state, make_batch(seed), RNG, task=task, tx=tx)
        want = jax.tree.map(lambda a, p: 0.8 * a + 0.2 * np.asarray(p), want, state.params)
    chex.assert_trees_all_close(state.opt_state[1], want, rtol=1e-5)


def test_freezing_is_a_link():
    task = NETS[1]
    frozen = {"Dense_0": True, "BatchNorm_0": False, "Dense_1": False}
    tx = optax.chain(optax.adam(1e-2), optax.masked(optax.set_to_zero(), frozen))
    state = start(task, tx)
    before = jax.tree.map(np.array, state.params)
    state, _ = run(task, tx, state, [make_batch(seed) for seed in range(3)])
    assert_same_bits(state.params["Dense_0"], before["Dense_0"])
    for name in ("BatchNorm_0", "Dense_1"):
        for got, old in zip(
            jax.tree.leaves(state.params[name]), jax.tree.leaves(before[name]), strict=True
        ):
            assert not np.array_equal(got, old)


def test_accumulating_gradients_is_a_link():
    task, one, many = Linear(), optax.sgd(0.1), optax.MultiSteps(optax.sgd(0.1), 2)
    tx = optax.GradientTransformation(many.init, many.update)
    halves = [make_batch(seed, rows=8) for seed in (1, 2)]
    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *halves)
    accumulated, _ = run(task, tx, start(task, tx, 8), halves)
    at_once, _ = run(task, one, start(task, one), [whole])
    chex.assert_trees_all_close(accumulated.params, at_once.params, rtol=1e-5)


def test_the_state_is_a_pytree_of_four():
    state = start(NETS[1], optax.adam(1e-2))
    assert isinstance(state, TrainState)
    assert list(vars(state)) == ["step", "params", "model_state", "opt_state"]
    assert isinstance(jax.tree.map(partial(jnp.add, 0), state), TrainState)

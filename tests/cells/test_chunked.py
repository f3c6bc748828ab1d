"""The chunked path: it is the plain scan, in values and all gradients, and is taken where it can.

The laws in test_common.py run it too, since "auto" takes it.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import lnjax
from lnjax.cells import Chunked, GRUCell, LSTMCell, Noise, SimpleCell
from lnjax.cells.choice import choose
from lnjax.cells.running import NO_NOISE
from tests.cells.cases import B, D, H, name_of
from tests.trees import assert_close

T = 11  # a prime: only chunks of 1 and 11 divide it
PLAIN = [LSTMCell(H), GRUCell(H), SimpleCell(H)]
CELLS = [
    *(cell.clone(norm=norm) for cell in PLAIN for norm in ("layer", "rms", None)),
    *(
        LSTMCell(H, sites=sites)
        for sites in [("cell",), ("recurrent",), ("input",), ("recurrent", "input", "carried_cell")]
    ),
    LSTMCell(H, norm="rms", sites=("input", "carried_cell")),
    SimpleCell(H, sites=("recurrent", "input"), activation=jax.nn.softplus),
    SimpleCell(H, norm="rms", sites=("recurrent",)),
]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=name_of)
plain_cells = pytest.mark.parametrize("cell", PLAIN, ids=name_of)


class Case:
    """Random everything: parameters, carry, inputs, mask, noise, cotangents; float64."""

    def __init__(self, cell, dtype=np.float64):
        rng = np.random.default_rng(7)

        def draw(leaf):
            return rng.normal(0.2, 0.7, leaf.shape).astype(dtype)

        variables, carry = jax.tree.map(draw, shapes(cell))
        self.cell = cell
        self.params = cell.apply(variables, D, method="parameters")
        self.carry = carry
        self.xs = rng.normal(size=(T, B, D)).astype(dtype)
        self.cotangents = jax.tree.map(draw, self.carry), draw(np.empty((T, B, H)))
        self.mask = rng.random((T, B)) < 0.7
        self.mask[:, -1] = False
        hold = tuple(rng.random((T, B, H)) < 0.3 for _ in jax.tree.leaves(carry))
        self.noise = Noise((rng.random((B, H)) < 0.6).astype(dtype) / dtype(0.6), hold)
        self.partly_held = Noise(None, (hold[0],) + (None,) * (len(hold) - 1))

    def pull(self, implementation, mask=None, noise=NO_NOISE, reverse=False):
        """Outputs, and gradients to parameters, carry, inputs and the dropout mask."""
        point = self.params, self.carry, self.xs, noise.dropout_h
        return pulled(self.cell, implementation, reverse, point, mask, noise, self.cotangents)

    def scan(self, mask=None, noise=NO_NOISE, reverse=False):
        """The same of the scan, with a mask that hides and noise that changes nothing for None.

        So one program of a cell and a direction is compared with all of its chunked ones.
        """
        nothing = np.ones_like(self.noise.dropout_h), tuple(map(np.zeros_like, self.noise.hold))
        hold = (None,) * len(nothing[1]) if noise.hold is None else noise.hold
        full = Noise(
            nothing[0] if noise.dropout_h is None else noise.dropout_h,
            tuple(n if h is None else h for h, n in zip(hold, nothing[1], strict=True)),
        )
        mask = np.ones_like(self.mask) if mask is None else mask
        outputs, gradients = self.pull("scan", mask, full, reverse)
        if noise.dropout_h is None:
            gradients = (*gradients[:-1], None)
        return outputs, gradients

    def compare(self, implementation, tolerance=1e-11, **arguments):
        assert_close(self.pull(implementation, **arguments), self.scan(**arguments), tolerance)


@cache
def shapes(cell):
    """Those of the variables and of the carry."""
    return jax.eval_shape(
        lambda: (
            cell.init(jax.random.key(0), D, method="parameters"),
            cell.initialize_carry(jax.random.key(0), (B, D)),
        )
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def pulled(cell, implementation, reverse, point, mask, noise, cotangents):
    def run(params, carry, xs, dropout_h):
        given = noise._replace(dropout_h=dropout_h)
        return cell.run(
            params, carry, xs, mask, given, reverse=reverse, implementation=implementation
        )

    outputs, vjp = jax.vjp(run, *point)
    return outputs, vjp(cotangents)


@every_cell
@pytest.mark.some(6)
def test_is_the_scan_in_all_gradients(cell, x64):
    case = Case(cell)
    case.compare(Chunked(4, 2), mask=case.mask, noise=case.noise, reverse=True)


LENGTHS = [
    (LSTMCell(H), Chunked(1), False),
    (LSTMCell(H), Chunked(4, 4, "recurrent"), False),
    (LSTMCell(H), Chunked(5, 3, "all"), True),
    (LSTMCell(H), Chunked(100, 100), False),
    (GRUCell(H), Chunked(5, 5, "recurrent"), True),
    (GRUCell(H), Chunked(T, 1, "all"), False),
    (SimpleCell(H), Chunked(4, 2, "all"), True),
    (SimpleCell(H), Chunked(3, 1, "recurrent"), False),
    (LSTMCell(H), Chunked(3, 3, "border"), True),
    (GRUCell(H), Chunked(4, 2, "border"), False),
    (SimpleCell(H), Chunked(5, 1, "border"), False),
]


@pytest.mark.parametrize(
    "cell, chunked, reverse",
    [pytest.param(*case, id=f"{name_of(case[0])}-{case[1:]}") for case in LENGTHS],
)
@pytest.mark.some(5)
def test_lengths_that_do_not_divide_the_time(cell, chunked, reverse, x64):
    Case(cell).compare(chunked, reverse=reverse)


@plain_cells
@pytest.mark.some(1)
def test_mask_and_noise_apart(cell, x64):
    case = Case(cell)
    case.compare(Chunked(4, saved="all"), noise=case.noise)
    case.compare(Chunked(4), noise=case.partly_held, mask=case.mask)
    case.compare(Chunked(3, saved="border"), noise=case.noise, mask=case.mask)


@plain_cells
def test_any_number_of_batch_axes(cell, x64):
    case = Case(cell)
    run = jax.jit(partial(cell.run, implementation="chunked"))
    expected = run(case.params, case.carry, case.xs, case.mask, case.noise)

    def split(leaf, axis):
        return leaf.reshape(*leaf.shape[:axis], 1, B, 1, *leaf.shape[axis + 1 :])

    noise = Noise(
        split(case.noise.dropout_h, 0), tuple(split(share, 1) for share in case.noise.hold)
    )
    carry = jax.tree.map(lambda leaf: split(leaf, 0), case.carry)
    got_carry, got = run(case.params, carry, split(case.xs, 1), split(case.mask, 1), noise)
    assert got.shape == (T, 1, B, 1, H)
    got_carry = jax.tree.map(lambda leaf: leaf.reshape(B, H), got_carry)
    assert_close((got_carry, got.reshape(T, B, H)), expected, 1e-12)


@plain_cells
def test_without_a_batch(cell, x64):
    case = Case(cell)
    first = jax.tree.map(lambda leaf: leaf[0], case.carry)
    run = jax.jit(partial(cell.run, implementation="chunked"))
    _, ys = run(case.params, first, case.xs[:, 0])
    _, expected = run(case.params, case.carry, case.xs)
    np.testing.assert_allclose(ys, expected[:, 0], rtol=1e-12)


@plain_cells
@pytest.mark.some(1)
def test_a_batch_by_vmap(cell, x64):
    case = Case(cell)

    def loss(carry, xs):
        carry, ys = cell.run(case.params, carry, xs, implementation=Chunked(4))
        return jnp.sum(jnp.sin(ys)), carry

    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    got = jax.jit(jax.vmap(gradient, in_axes=(0, 1)))(case.carry, case.xs)
    (to_carry, to_xs), carry = jax.jit(gradient)(case.carry, case.xs)
    assert_close(got, ((to_carry, to_xs.swapaxes(0, 1)), carry), 1e-11)


@plain_cells
@pytest.mark.some(2)
def test_gradients_of_gradients_in_reverse_mode(cell, x64):
    """The last chunk is shorter in one cell alone: it doubles the program."""
    case = Case(cell)
    steps = T if isinstance(cell, SimpleCell) else 8

    def penalty(xs, implementation):
        def loss(xs):
            return jnp.sum(
                jnp.sin(cell.run(case.params, case.carry, xs, implementation=implementation)[1])
            )

        return jnp.sum(jax.grad(loss)(xs) ** 2)

    gradient = jax.jit(jax.grad(penalty), static_argnums=1)
    xs = case.xs[:steps]
    assert_close(gradient(xs, Chunked(4)), gradient(xs, "scan"), 1e-10)


@plain_cells
def test_forward_mode_is_refused_but_by_the_scan(cell):
    case = Case(cell, np.float32)

    def push(implementation):
        run = partial(cell.run, case.params, case.carry, implementation=implementation)
        return jax.jvp(run, (case.xs,), (case.xs,))

    with pytest.raises(TypeError, match="forward-mode"):
        push("chunked")
    jax.jit(push, static_argnums=0)("scan")


@plain_cells
@pytest.mark.some(1)
def test_products_in_half_precision_stay_near(cell):
    half = cell.clone(dtype=jnp.bfloat16)
    case = Case(cell, np.float32)
    case.params = case.params._replace(
        **{  # gains near 1 make the recurrence chaotic, and rounding grow
            name: 0.3 * leaf
            for name, leaf in case.params._asdict().items()
            if leaf is not None and name.startswith("scale")
        }
    )
    (exact_carry, exact), exact_gradients = case.pull("scan")
    case.cell = half
    case.cotangents = case.cotangents[0], jnp.asarray(case.cotangents[1], jnp.bfloat16)
    (_, scanned), _ = case.pull("scan")
    (carry, ys), gradients = case.pull(Chunked(4))
    assert ys.dtype == jnp.bfloat16
    exact, scanned, near = (np.asarray(leaf, np.float32) for leaf in (exact, scanned, ys))
    assert np.mean(abs(near - exact)) < 1.5 * np.mean(abs(scanned - exact))
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, gradients))} == {jnp.dtype("float32")}
    assert_close((carry, near), (exact_carry, exact), 0.05)
    for got, expected in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(exact_gradients), strict=True
    ):
        got, expected = np.asarray(got), np.asarray(expected)
        assert np.abs(got - expected).max() < 0.05 * max(1.0, np.abs(expected).max())


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)


@plain_cells
@pytest.mark.parametrize(
    "implementation, by_hand",
    [("scan", False), ("auto", True), ("chunked", True), (Chunked(4), True)],
    ids=str,
)
def test_each_implementation_is_the_one_that_is_taken(cell, implementation, by_hand):
    case = Case(cell, np.float32)
    run = partial(cell.run, implementation=implementation)
    names = set(primitives(jax.make_jaxpr(run)(case.params, case.carry, case.xs).jaxpr))
    assert "scan" in names
    assert any(name.startswith("custom_vjp") for name in names) == by_hand
    assert not any(name.startswith(("remat", "checkpoint")) for name in names)


@plain_cells
def test_the_kernels_are_centred_and_a_step_has_one_mean(cell):
    """What layer norm costs beside the root mean square: the mean of the LSTM's c alone."""
    case = Case(cell, np.float32)

    def sums(norm):
        run = partial(cell.clone(norm=norm).run, implementation=Chunked(T))
        names = list(primitives(jax.make_jaxpr(run)(case.params, case.carry, case.xs).jaxpr))
        return names.count("reduce_sum")

    of_kernels = {"LSTMCell": 2, "GRUCell": 4, "SimpleCell": 2}[type(cell).__name__]
    of_c = 1 if isinstance(cell, LSTMCell) else 0
    assert sums("layer") - sums("rms") == of_kernels + of_c


@plain_cells
def test_the_saved_arrays_are_those_that_are_named(cell):
    case = Case(cell, np.float32)

    def stored(saved):
        """Numbers for each step and row, by the shapes of what the forward pass hands over."""

        def forward(xs):
            run = partial(cell.run, case.params, case.carry, implementation=Chunked(T, saved=saved))
            return jax.vjp(run, xs)[1]

        shapes = jax.tree.leaves(jax.eval_shape(forward, case.xs))
        return sum(leaf.size for leaf in shapes if leaf.shape[:3] == (1, T, B)) // (T * B)

    carries, width = len(cell.carry_names) * H, case.params.recurrent_kernel.shape[1]
    assert stored("border") == 0
    assert stored("carry") == carries
    assert stored("recurrent") == carries + width
    assert stored("all") == carries + 2 * width


def test_what_has_no_chunked_path_takes_the_scan_and_says_why_when_asked():
    cell = LSTMCell(H)
    case = Case(cell, np.float32)

    def run(carry=case.carry, xs=case.xs, noise=NO_NOISE, implementation="auto"):
        return cell.run(case.params, carry, xs, noise=noise, implementation=implementation)

    shares = Noise(None, (np.full((T, 1, 1), 0.5, np.float32), None))
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), case.carry)
    for arguments, reason in (
        ({"noise": shares}, "shares that are no bool"),
        ({"carry": half}, "several dtypes"),
        ({"xs": case.xs[:0]}, "no step"),
    ):
        names = set(
            primitives(jax.make_jaxpr(lambda arguments=arguments: run(**arguments))().jaxpr)
        )
        assert not any(name.startswith("custom_vjp") for name in names)
        with pytest.raises(ValueError, match=f"{reason}.*no chunked path"):
            run(**arguments, implementation="chunked")


def test_a_symbolic_length_takes_the_scan():
    case = Case(LSTMCell(H), np.float32)
    run = jax.jit(lambda xs: case.cell.run(case.params, case.carry, xs)[1])
    (steps,) = export.symbolic_shape("t")
    shape = jax.ShapeDtypeStruct((steps, B, D), jnp.float32)
    exported = export.export(run)(shape)
    np.testing.assert_allclose(exported.call(case.xs), run(case.xs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "implementation, unroll, message",
    [
        (Chunked(0), 1, "Chunked.length=0"),
        (Chunked(4, 0), 1, "Chunked.unroll=0"),
        (Chunked(4, saved="some"), 1, "Chunked.saved='some'.*'carry', 'recurrent', 'all'"),
        (Chunked(4), 2, "unroll=2 is said"),
    ],
    ids=str,
)
def test_wrong_chunks_are_refused(implementation, unroll, message):
    rnn = lnjax.RNN(LSTMCell(H), unroll=unroll, implementation=implementation)
    with pytest.raises(ValueError, match=message):
        rnn.init(jax.random.key(0), jnp.ones((B, T, D)))


@pytest.mark.parametrize("steps", [1, 2, 30, 100, 101, 6400])
@pytest.mark.parametrize("batch, features", [(1, 128), (8, 400), (64, 240), (1024, 2048)])
def test_the_choice_is_a_chunk_of_this_sequence(steps, batch, features):
    chosen = choose((steps, batch, 3), (features, 4 * features))
    assert chosen.length >= 1 and chosen.unroll <= max(chosen.length, 4)
    many = batch * features >= 4096
    assert many or chosen.length <= steps
    assert not many or chosen.length * batch * features <= 4 * 1024 * 2048
    # What the caller says of the loop's body holds.
    assert choose((steps, batch, 3), (features, 4 * features), unroll=3).unroll == 3

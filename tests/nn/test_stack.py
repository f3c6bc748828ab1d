import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given

import lnjax
from lnjax.nn import Bidirectional, Residual, Stack
from tests.nn.sequences import (
    LENGTHS,
    B,
    D,
    H,
    T,
    apply,
    assert_a_mask_is_truncation,
    few_examples,
    from_lengths,
    masks,
    random_variables,
)
from tests.trees import assert_close, assert_equal

SKIPS = (None, "residual", "input_output")
every_skip = pytest.mark.parametrize("skip", SKIPS, ids=str)


@pytest.fixture
def xs(rng):
    return rng.normal(size=(B, T, D)).astype(np.float32)


def simple(features=H, **attributes):
    return lnjax.RNN(lnjax.SimpleCell(features), **attributes)


def plain(features=H, **attributes):
    return lnjax.RNN(lnjax.SimpleCell(features, norm=None), **attributes)


def three(**attributes):
    return Stack([simple(), simple(), simple()], **attributes)


def part(variables, k):
    return {"params": variables["params"][f"layers_{k}"]}


@pytest.mark.parametrize(
    "layer",
    [
        Stack([plain(), lnjax.RNN(nn.SimpleCell(2))]),
        Stack([plain(), plain(reverse=True, keep_order=True)], skip="residual"),
        Stack([plain(), Bidirectional(plain(2), plain(3))], skip="input_output"),
    ],
    ids=lambda layer: str(layer.skip),
)
@few_examples
@given(mask=masks())
@pytest.mark.some(2)
def test_a_mask_is_truncation_for_outputs_and_all_gradients(layer, x64, mask):
    assert_a_mask_is_truncation(layer, mask)


@every_skip
def test_is_its_equations(xs, skip):
    stack = three(skip=skip)
    variables = random_variables(stack, xs)

    def layer(k, inputs):
        return apply(simple(), part(variables, k), inputs, seq_lengths=LENGTHS)

    first = layer(0, xs)
    if skip is None:
        expected = layer(2, layer(1, first))
    elif skip == "residual":
        second = first + layer(1, first)
        expected = second + layer(2, second)
    else:
        second = layer(1, np.concatenate([xs, first], axis=-1))
        third = layer(2, np.concatenate([xs, second], axis=-1))
        expected = np.concatenate([first, second, third], axis=-1)
    ys = apply(stack, variables, xs, seq_lengths=LENGTHS)
    assert_close(ys, expected)
    assert not np.asarray(ys)[~from_lengths(LENGTHS)].any()


def test_the_first_layer_is_never_skipped(xs):
    stack = Stack([simple(D), simple(D)], skip="residual")  # its widths would allow it
    variables = random_variables(stack, xs)
    first = apply(simple(D), part(variables, 0), xs)
    assert_close(apply(stack, variables, xs), first + apply(simple(D), part(variables, 1), first))


@every_skip
@pytest.mark.some(2)
def test_a_stream_in_pieces_is_the_whole(xs, skip):
    stack = three(skip=skip, return_carry=True)
    variables = random_variables(stack, xs)
    mask = np.random.default_rng(3).random((B, T)) < 0.6
    carries, ys = apply(stack, variables, xs, mask=mask)
    assert len(carries) == 3
    middle, start = apply(stack, variables, xs[:, :2], mask=mask[:, :2])
    end, rest = apply(stack, variables, xs[:, 2:], initial_carry=middle, mask=mask[:, 2:])
    assert_close((end, np.concatenate([start, rest], axis=1)), (carries, ys))


def test_layers_of_flax_take_lengths(xs):
    stack = Stack([nn.RNN(nn.SimpleCell(H)), nn.Bidirectional(*(nn.RNN(nn.SimpleCell(2)),) * 2)])
    ours = Stack([lnjax.RNN(nn.SimpleCell(H)), Bidirectional(*(lnjax.RNN(nn.SimpleCell(2)),) * 2)])
    variables = random_variables(stack, xs)
    real = from_lengths(LENGTHS)
    got = apply(stack, variables, xs, seq_lengths=LENGTHS)[real]
    assert_close(got, apply(ours, variables, xs, seq_lengths=LENGTHS)[real])
    with pytest.raises(TypeError, match="mask"):
        stack.apply(variables, xs, mask=real)


def test_layers_are_given_only_what_is_not_none(xs):
    # A dense layer knows of no time, a block around it neither.
    stack = Stack([simple(), nn.Dense(H), Residual(nn.Dense(H))])
    variables = random_variables(stack, xs)
    ys = stack.apply(variables, xs)
    expected = apply(simple(), part(variables, 0), xs)
    expected = nn.Dense(H).apply(part(variables, 1), expected)
    assert_close(ys, Residual(nn.Dense(H)).apply(part(variables, 2), expected))


def test_a_layer_that_returns_its_carry_unasked(xs):
    stack = Stack([simple(return_carry=True), simple(return_carry=True)])
    variables = random_variables(stack, xs)
    ys = stack.apply(variables, xs)
    assert_equal(stack.apply(variables, xs, return_carry=True)[1], ys)
    assert_close(ys, Stack([simple(), simple()]).apply(variables, xs))


def test_time_major_is_for_all_layers(xs):
    stack = Stack([simple(), simple(time_major=True)])
    variables = random_variables(three(), xs)
    variables = {"params": {k: variables["params"][k] for k in ("layers_0", "layers_1")}}
    expected = stack.apply(variables, xs, time_major=False, seq_lengths=LENGTHS)
    ys = stack.apply(variables, xs.swapaxes(0, 1), time_major=True, seq_lengths=LENGTHS)
    assert_close(np.swapaxes(ys, 0, 1), expected)


def test_stands_in_a_bidirectional_layer_and_in_a_stack(xs):
    towers = Bidirectional(Stack([simple(), simple()]), Stack([simple(), simple()]))
    variables = random_variables(towers, xs)
    ys = apply(towers, variables, xs, seq_lengths=LENGTHS)
    up = {"params": variables["params"]["forward_rnn"]}
    down = {"params": variables["params"]["backward_rnn"]}
    two = Stack([simple(), simple()])
    assert_close(ys[..., :H], apply(two, up, xs, seq_lengths=LENGTHS))
    row = two.apply(down, xs[2:3, :3][:, ::-1])  # the third has three real steps
    assert_close(ys[2:3, :3, H:], row[:, ::-1])

    nested = Stack([Stack([simple(), simple()]), simple()], return_carry=True)
    variables = random_variables(nested, xs)
    inner = variables["params"]["layers_0"]
    flat = {"params": inner | {"layers_2": variables["params"]["layers_1"]}}
    (of_inner, last), ys = nested.apply(variables, xs)
    assert_close(((*of_inner, last), ys), three(return_carry=True).apply(flat, xs))


# Dropout.


def identity():
    """A layer that shows what it is given."""

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, xs):
            self.sow("intermediates", "given", xs)
            return xs

    return Identity()


@every_skip
def test_dropout_stands_between_the_layers_only(skip):
    stack = Stack([identity(), identity(), identity()], dropout=0.25, skip=skip)
    xs = np.ones((4, 50, 3), np.float32)
    ys, state = stack.apply(
        {}, xs, deterministic=False, rngs={"dropout": jax.random.key(0)}, mutable="intermediates"
    )
    given = [state["intermediates"][f"layers_{k}"]["given"][0] for k in range(3)]
    assert_equal(given[0], xs)
    if skip is None:
        # Zero or 1 / 0.75, anew at each layer; the last output is what the last layer made.
        assert set(np.unique(given[1]).round(4)) == {0, np.float32(1.3333)}
        assert set(np.unique(given[2]).round(4)) == {0, np.float32(1.7778)}
        assert abs(np.mean(given[1] == 0) - 0.25) < 0.08
        assert_equal(ys, given[2])
    elif skip == "residual":
        assert_close(ys, xs + given[1] + given[2])
    else:
        assert_equal(given[1][..., :3], xs)
        assert (np.asarray(given[1][..., 3:]) == 0).any()
        assert_equal(ys, np.concatenate([xs, given[1], given[2]], axis=-1))


def test_when_there_is_dropout(xs):
    plain_stack = Stack([nn.Dense(H), nn.Dense(H)])
    stack = plain_stack.clone(dropout=0.5)
    variables = random_variables(plain_stack, xs)
    expected = apply(plain_stack, variables, xs)
    assert_equal(jax.jit(stack.clone(deterministic=True).apply)(variables, xs), expected)
    assert_close(stack.apply(variables, xs, deterministic=True), expected)
    stream = {"dropout": jax.random.key(0)}
    dropped = stack.apply(variables, xs, deterministic=False, rngs=stream)
    assert not np.allclose(dropped, expected)
    assert_equal(stack.clone(deterministic=False).apply(variables, xs, rngs=stream), dropped)
    with pytest.raises(Exception, match="deterministic"):
        stack.apply(variables, xs, rngs=stream)
    with pytest.raises(Exception, match="dropout"):
        stack.apply(variables, xs, deterministic=False)


def test_dropout_leaves_the_padding_zero(xs):
    stack = Stack([plain(), plain()], dropout=0.5, skip="residual", deterministic=False)
    variables = random_variables(stack.clone(deterministic=True), xs)
    mask = np.random.default_rng(3).random((B, T)) < 0.6
    poured = np.where(mask[..., None], xs, np.nan)
    ys = apply(stack, variables, poured, mask=mask, rngs={"dropout": jax.random.key(0)})
    assert np.isfinite(ys).all()
    assert not np.asarray(ys)[~mask].any()


# The initial carry, and refusals.


def test_each_layer_has_its_part_of_the_key():
    cell = nn.SimpleCell(H, carry_init=nn.initializers.uniform())
    stack = Stack([lnjax.RNN(cell), lnjax.RNN(cell.clone())], return_carry=True)
    xs = np.ones((B, 1, D), np.float32)
    variables = random_variables(stack, xs)
    nothing, key = {"seq_lengths": np.zeros(B, int)}, jax.random.key(7)
    carries, _ = stack.apply(variables, xs, init_key=key, **nothing)
    for carry, part_of_key in zip(carries, jax.random.split(key, 2), strict=True):
        assert_equal(carry, cell.initialize_carry(part_of_key, (B, D)))
    given, _ = stack.apply(variables, xs, init_key=key, initial_carry=carries[::-1], **nothing)
    assert_equal(given, carries[::-1])


@pytest.mark.parametrize(
    "stack, arguments, message",
    [
        (Stack([]), {}, "a stack needs at least one layer"),
        (three(skip="graves"), {}, r"skip='graves'.*None, 'residual', 'input_output'"),
        (three(dropout=1.5), {}, r"dropout=1.5 is no rate"),
        (three(), {"initial_carry": [0, 0]}, r"each of 3 layers, got 2"),
        (three(), {"reverse": True}, r"layers\[0\] runs in reverse.*keep_order=True"),
        (Stack([simple(), simple(reverse=True)]), {}, r"layers\[1\] runs in reverse"),
        (
            Stack([simple(), simple(2)], skip="residual"),
            {},
            r"\(4, 5, 4\) of layers\[1\] to its output \(4, 5, 2\)",
        ),
    ],
    ids=lambda case: "" if isinstance(case, Stack | dict) else case[:20],
)
def test_refuses_with_a_clear_message(xs, stack, arguments, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: stack.init(jax.random.key(0), jnp.asarray(xs), **arguments))

"""Memory of a gradient against the length of the sequence, from what the compiler reports.

Nothing runs: the temporary bytes of a compiled program are known before.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import lnjax
from lnjax.ops import scan_chunks, scan_sequence

B, H, D = 4, 32, 3
CARRY = 2 * B * H * 4  # bytes of c and h


def temporary_bytes(steps, implementation):
    """Of the gradient with respect to the parameters, of a loss of the last state."""
    rnn = lnjax.RNN(
        lnjax.LSTMCell(H), time_major=True, return_carry=True, implementation=implementation
    )
    xs = jax.ShapeDtypeStruct((steps, B, D), jnp.float32)
    params = jax.eval_shape(rnn.init, jax.random.key(0), xs)

    def loss(params, xs):
        (_, h), _ = rnn.apply(params, xs)
        return jnp.sum(jnp.square(h))

    compiled = jax.jit(jax.grad(loss)).lower(params, xs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def root(steps):
    return lnjax.Chunked(round(steps**0.5), saved="border")


def test_memory_grows_as_the_root_of_the_length():
    """16 times the steps: 4 times the memory, where storing every carry takes 16 times."""
    short, long = (temporary_bytes(steps, root(steps)) for steps in (256, 4096))
    assert long < 4.5 * short
    every = temporary_bytes(4096, lnjax.Chunked(64, saved="carry"))
    assert every > 4096 * CARRY > 3 * long


@pytest.mark.slow
def test_memory_of_all_lengths():
    lengths = (64, 256, 1024, 4096)
    rooted = [temporary_bytes(steps, root(steps)) for steps in lengths]
    every = [temporary_bytes(steps, lnjax.Chunked(round(steps**0.5))) for steps in lengths]
    fast = [temporary_bytes(steps, "auto") for steps in lengths]
    for row in zip(lengths, rooted, every, fast, strict=True):
        print(*row)
    for one, following in itertools.pairwise(rooted[1:]):  # at 64 steps the kernels weigh
        assert following < 2.4 * one
    for one, following in itertools.pairwise(every[1:]):  # that grow as the length: towards 4
        assert following > 2.4 * one


def test_memory_of_any_step_in_chunks():
    """`scan_chunks` around a loop of one's own, of which each step stores ten arrays."""

    def step(carry, x):
        for _ in range(10):
            carry = jnp.sin(carry) * x
        return carry, None

    def memory(steps, length):
        def last(carry, xs):
            if length is None:
                carry, _ = scan_sequence(step, carry, xs)
            else:
                carry, _ = scan_chunks(partial(scan_sequence, step), carry, xs, length)
            return jnp.sum(carry)

        start = jax.ShapeDtypeStruct((B, H), jnp.float32)
        xs = jax.ShapeDtypeStruct((steps, B, H), jnp.float32)
        compiled = jax.jit(jax.grad(last)).lower(start, xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(1024, None) > 5 * memory(1024, 32)

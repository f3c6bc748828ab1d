"""Which chunks the fast path takes: a small rule over shape and backend, from measurements.

`python benchmarks/choose.py` measures the candidates again, on any machine. What it showed:

* Storing what the products gave beats computing it twice, in time; in memory it costs five times
  the carry, a third of what the composition of Flax's modules stores. With ``saved="carry"`` a
  tenth remains.
* With many rows, what a step holds fills the second cache: few steps in a chunk, and all of them in
  the body of the loop, so that nothing is copied in or out.
* With few rows a chunk is as long as its summed inputs stay in the last cache, and the loop has one
  step in its body: more only take longer to compile.

Only CPUs were measured. An accelerator gets long chunks, since there starting a kernel is what
costs.
"""

import math

import jax

from lnjax.cells.chunked import Chunked

MANY_ROWS = 4096  # of B * H: from here on a step has work enough for the whole body of a loop
UNROLLED = 4
CHUNK_BYTES = 4 * 2**20  # of both summed inputs of a chunk, in float32
ACCELERATOR_STEPS = 128


def choose(inputs: tuple[int, ...], kernel: tuple[int, ...], unroll: int = 1) -> Chunked:
    """The chunks for inputs (T, B, ..., D) and a recurrent kernel (H, G).

    `unroll` above 1 is what the caller wants in the body of the loop, whatever the table says.
    """
    batch, (features, width) = math.prod(inputs[1:-1]), kernel
    if jax.default_backend() != "cpu":
        return Chunked(ACCELERATOR_STEPS, unroll, saved="all")
    if batch * features >= MANY_ROWS:
        return Chunked(UNROLLED, unroll if unroll > 1 else UNROLLED, saved="all")
    length = CHUNK_BYTES // (2 * 4 * batch * width)
    return Chunked(_even(inputs[0], max(length, UNROLLED)), unroll, saved="all")


def _even(steps: int, length: int) -> int:
    """A length not above the one given, such that the last of the chunks is not much shorter."""
    return math.ceil(steps / math.ceil(steps / length))

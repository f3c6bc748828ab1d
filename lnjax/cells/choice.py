"""Which chunks the fast path takes: a small rule over shape and backend, from measurements.

`python benchmarks/choose.py` measures the candidates again, on any machine. What it showed:

* Storing what the products gave beats computing it twice, in time; in memory it costs five times
  the carry, a third of what the composition of Flax's modules stores. With ``saved="carry"`` a
  tenth remains.
* With many rows, what a step holds fills the second cache: few steps in a chunk, and all of them in
  the body of the loop, so that nothing is copied in or out.
* With few rows a chunk has some 320 of them, over its steps: fewer and the products of a chunk, its
  weight gradients above all, are too small to be fast; with three times as many a chunk leaves the
  second cache, and takes up to a third longer. The loop has one step in its body: more take
  longer to compile, and are hardly faster.

Only CPUs were measured. An accelerator gets long chunks, since there starting a kernel is what
costs.
"""

import math

import jax

from lnjax.cells.chunked import Chunked

MANY_ROWS = 4096  # of B * H: from here on a step has work enough for the whole body of a loop
UNROLLED = 4
CHUNK_ROWS = 320  # of a chunk: steps * B, where rows are few
ACCELERATOR_STEPS = 128


def choose(inputs: tuple[int, ...], kernel: tuple[int, ...], unroll: int = 1) -> Chunked:
    """The chunks for inputs (T, B, ..., D) and a recurrent kernel (H, G).

    `unroll` above 1 is what the caller wants in the body of the loop, whatever the table says.
    """
    batch, features = math.prod(inputs[1:-1]), kernel[0]
    if jax.default_backend() != "cpu":
        return Chunked(ACCELERATOR_STEPS, unroll, saved="all")
    if batch * features >= MANY_ROWS:
        return Chunked(UNROLLED, unroll if unroll > 1 else UNROLLED, saved="all")
    length = max(CHUNK_ROWS // max(batch, 1), UNROLLED)
    return Chunked(_even(inputs[0], length), unroll, saved="all")


def _even(steps: int, length: int) -> int:
    """A length not above the one given, such that the last of the chunks is not much shorter."""
    return math.ceil(steps / math.ceil(steps / length))

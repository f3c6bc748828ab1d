"""What does memory of the root of T cost in time, and what do segments and bfloat16 save?

    python benchmarks/memory.py
    python benchmarks/memory.py --lengths=64,256,1024,4096,16384 --rounds=15
    python benchmarks/memory.py --lengths= --points=224,448

First the gradient of a layer-normalized LSTM (B 8, H 64, D 3) with respect to its parameters, of a
loss of its last state, for each T: what `auto` stores, every carry, and the carries before chunks
of the root of T. Then the gradient of the handwriting task on lines of `--points` points (16 lines,
the config's sizes) in one piece, in chunks, in segments, and in bfloat16. A program is timed in
turn with the others of its table; memory is what the compiler reports as temporary.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import digits, interleaved, machine_line, milliseconds, options, ratio, table

import lnjax

BATCH, FEATURES, INPUTS = 8, 64, 3
LINES, LETTERS = 16, 20
SPEC = {"alphabet": "abcdefgh", "offset_mean": [0.0, 0.0], "offset_std": [1.0, 1.0]}


def root(steps: int) -> int:
    return max(1, round(steps**0.5))


def measured(
    programs: Mapping[str, tuple[Callable[..., Any], tuple]], args: Any
) -> list[list[str]]:
    """Name, temporary MiB, milliseconds and ratio to the first, of each function and arguments."""
    calls, bytes_ = {}, {}
    for name, (function, arguments) in programs.items():
        compiled = jax.jit(function).lower(*arguments).compile()
        bytes_[name] = compiled.memory_analysis().temp_size_in_bytes

        def call(compiled: Any = compiled, arguments: tuple = arguments) -> None:
            jax.block_until_ready(compiled(*arguments))

        calls[name] = call
    times = interleaved(calls, args.rounds, args.seconds)
    first = next(iter(calls))
    return [
        [
            name,
            digits(bytes_[name] / 2**20),
            f"{bytes_[name] / bytes_[first]:.2f}",
            milliseconds(times[name]),
            ratio(times[name], times[first]),
        ]
        for name in calls
    ]


def of_a_layer(steps: int) -> dict[str, tuple[Callable[..., Any], tuple]]:
    xs = np.random.default_rng(0).normal(size=(steps, BATCH, INPUTS)).astype(np.float32)
    length = root(steps)
    programs = {}
    for name, implementation in {
        "auto": "auto",
        f'Chunked({length}, saved="carry")': lnjax.Chunked(length, saved="carry"),
        f'Chunked({length}, saved="border")': lnjax.Chunked(length, saved="border"),
    }.items():
        rnn = lnjax.RNN(
            lnjax.LSTMCell(FEATURES),
            time_major=True,
            return_carry=True,
            implementation=implementation,
        )

        def loss(variables: Any, xs: Any, rnn: Any = rnn) -> Any:
            (_, h), _ = rnn.apply(variables, xs)
            return jnp.sum(jnp.square(h))

        variables = jax.jit(rnn.init)(jax.random.key(0), xs[:1])
        programs[name] = jax.grad(loss), (variables, xs)
    return programs


def of_handwriting(points: int) -> dict[str, tuple[Callable[..., Any], tuple]]:
    """Of lines of `points` points; a segment is of a quarter, and is timed as what it is."""
    # The layer alone is measured where neither ml_collections nor the readers of data are.
    from configs import handwriting as config_file
    from tasks import handwriting

    config = config_file.get_config()
    rng, programs = np.random.default_rng(0), {}
    strokes = rng.normal(size=(LINES, points, 3)).astype(np.float32)
    strokes[..., 2] = strokes[..., 2] > 1.5
    part = points // 4
    for name, changes in {
        "whole lines": {},
        f"chunk={root(points)}": {"chunk": root(points)},
        f"bptt={part}, one segment": {"bptt": part},
        "dtype=bfloat16": {"dtype": "bfloat16"},
        f"dtype=bfloat16, chunk={root(points)}": {"dtype": "bfloat16", "chunk": root(points)},
    }.items():
        task = dataclasses.replace(handwriting.make_task(config, SPEC), **changes)
        read = strokes[:, : task.bptt or points]
        batch = {
            "strokes": read,
            "mask": np.ones(read.shape[:2], bool),
            "text": rng.integers(0, 8, (LINES, LETTERS)).astype(np.int32),
            "text_mask": np.ones((LINES, LETTERS), bool),
        }
        if task.bptt:
            batch |= {"before": read[:, 0], "start": np.zeros(LINES, bool)}
        variables = dict(jax.jit(task.init)(jax.random.key(0), batch))

        def loss(params: Any, state: Any, batch: Any, task: Any = task) -> Any:
            return task.loss(params, state, batch, {}, train=True)

        arguments = variables.pop("params"), variables, batch
        programs[name] = jax.grad(loss, has_aux=True), arguments
    return programs


def main() -> None:
    parser = options(__doc__)

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    parser.add_argument(
        "--lengths", type=numbers, default="64,256,1024,4096", help="T of the layer"
    )
    parser.add_argument("--points", type=numbers, default="224,896", help="points of the lines")
    args = parser.parse_args()
    columns = ["program", "temporary, MiB", ": first", "gradient, ms", ": first"]
    for steps in args.lengths:
        print(f"\nLSTM, T {steps}, B {BATCH}, H {FEATURES}, D {INPUTS}\n")
        print(table(columns, measured(of_a_layer(steps), args)), flush=True)
    for points in args.points:
        print(f"\nhandwriting, {LINES} lines of {points} points\n")
        print(table(columns, measured(of_handwriting(points), args)), flush=True)
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()

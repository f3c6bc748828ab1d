"""Is `lnjax.layer_norm` as fast as Flax's LayerNorm?

    python benchmarks/layer_norm.py

Forward, and value and gradient with respect to x, scale and bias, float32. It needs jax, flax and
numpy only; PyTorch takes part where it is installed. Times are medians over interleaved rounds, in
each of which a contender is called for at least a twentieth of a second. A ratio is that of the
medians, with the quartiles of the ratio within a round in brackets; below 1 is faster than Flax.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rivals import Runner, absence, build, jax_runner, time_passes, torch_runner
from timing import machine_line, milliseconds, options, ratio, table

import lnjax

SHAPES = ((8192, 1024), (64, 1000))
BASE = "flax.linen.LayerNorm()"

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def arrays(shape: tuple[int, int]) -> Arrays:
    """x, scale and bias."""
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(size=shape), rng.normal(size=shape[1:]), rng.normal(size=shape[1:])
    return x.astype(np.float32), scale.astype(np.float32), bias.astype(np.float32)


def of_lnjax(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Runner:
    def apply(params, x):
        return lnjax.layer_norm(x, *params)

    return jax_runner(apply, (jnp.asarray(scale), jnp.asarray(bias)), jnp.asarray(x))


def of_flax(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, **given: bool) -> Runner:
    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    return jax_runner(nn.LayerNorm(**given).apply, {"params": params}, jnp.asarray(x))


def of_torch(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Runner:
    import torch

    leaf, *params = (torch.from_numpy(array).requires_grad_() for array in (x, scale, bias))
    run = partial(torch_norm, params=params)
    return torch_runner(run, params, leaf)


def torch_norm(x, params):
    from torch.nn.functional import layer_norm

    return layer_norm(x, x.shape[-1:], *params)


CONTENDERS = {
    "lnjax.layer_norm": of_lnjax,
    BASE: of_flax,
    "the same, use_fast_variance=False": partial(of_flax, use_fast_variance=False),
    "torch.nn.functional.layer_norm": of_torch,
}


def main() -> None:
    args = options(__doc__, pause=True).parse_args()
    columns = ["contender", "forward, ms", ": Flax", "value and gradient, ms", ": Flax"]
    for shape in SHAPES:
        given = arrays(shape)
        runners, absent = build({name: partial(make, *given) for name, make in CONTENDERS.items()})
        times = time_passes(runners, args, ("forward", "gradient"))
        rows = []
        for name in runners:
            cells = (
                (milliseconds(seconds[name]), ratio(seconds[name], seconds[BASE]))
                for seconds in times.values()
            )
            rows.append([name, *(cell for pair in cells for cell in pair)])
        print(f"\n## {shape}\n\n{table(columns, rows)}{absence(absent)}", flush=True)
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()

"""What the other cases of a batch do to the outputs of one (paper Eq. 2 and 3): under batch norm a
lot, under layer norm nothing, to the last bit.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.analysis.batch_size import Norm, Perceptron, init_perceptron
from lnjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Influence:
    """What `influence_of_companions` measured, of the logits of a network at initialization.

    Attributes:
      norm: of the network.
      batch_sizes: (M,).
      own: (M,) root mean square deviation of the logits over cases, each the mean over companions:
        what the case itself decides.
      companions: (M,) root mean square deviation over the companions, of one case: what the other
        cases of the batch decide. Exactly 0 where they have no say.
    """

    norm: Norm
    batch_sizes: np.ndarray
    own: np.ndarray
    companions: np.ndarray


def influence_of_companions(
    images: Array,
    *,
    norm: Norm,
    batch_sizes: Sequence[int],
    num_cases: int = 16,
    num_draws: int = 32,
    features: int = 64,
    seed: int = 0,
) -> Influence:
    """How far the logits of a case move when the rest of its batch is drawn anew (training mode).

    Eq. 2 takes its statistics over the batch, Eq. 3 over the units of one case. In a batch of one
    batch norm leaves the bias alone: neither the case nor anything else has a say.

    Args:
      images: (N, D) floating point; the first `num_cases` are the cases, the rest companions.
      norm: of the `Perceptron`, at initialization.
      batch_sizes: of each m, a case and m - 1 companions.
      num_cases, num_draws: cases, and sets of companions for each; at least 2.
      features: of each hidden layer.
      seed: of the parameters and of the companions.

    Returns:
      `Influence`, its deviations computed in float64.

    Raises:
      ValueError: too few images for a batch, or fewer than two cases or draws.

    >>> import numpy as np
    >>> images = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    >>> for norm in ("layer", "batch"):
    ...     found = influence_of_companions(images, norm=norm, batch_sizes=[1, 4])
    ...     print((found.own > 0).tolist(), (found.companions > 0).tolist())
    [True, True] [False, False]
    [False, True] [False, True]
    """
    if min(num_cases, num_draws) < 2 or len(images) - num_cases < max(batch_sizes) - 1:
        raise ValueError(
            f"influence_of_companions: {num_cases} cases and {num_draws} draws of"
            f" {max(batch_sizes) - 1} companions from {len(images)} images; expected at least 2"
            " cases, 2 draws, and cases and companions together no more than the images"
        )
    network = Perceptron(norm, features=features, param_dtype=images.dtype)
    variables = init_perceptron(network, images.shape[-1], seed=seed)
    rng, own, companions = np.random.default_rng(seed), [], []
    draws = np.array(
        [
            rng.choice(np.arange(num_cases, len(images)), max(batch_sizes) - 1, replace=False)
            for _ in range(num_draws)
        ],
        np.int32,
    )
    for size in batch_sizes:
        # Always the largest batch, of which `size` rows are real: one program.
        real = np.arange(max(batch_sizes)) < size
        logits = np.asarray(_of_first(network, variables, images, num_cases, draws, real))
        # From the first draw on: equal logits give exactly 0.
        moved = logits.astype(np.float64) - logits[:, :1]
        companions.append(np.sqrt(np.mean(np.var(moved, axis=1))))
        own.append(np.sqrt(np.mean(np.var(logits.astype(np.float64).mean(axis=1), axis=0))))
    return Influence(norm, np.array(batch_sizes), np.array(own), np.array(companions))


@partial(jax.jit, static_argnames=("network", "num_cases"))
def _of_first(
    network: Perceptron, variables: Any, images: Array, num_cases: int, draws: Array, real: Array
) -> Array:
    """Logits (cases, draws, classes): each case as the first row of a batch, a draw its rest."""
    images = jnp.asarray(images)

    def logits(case: Array, others: Array) -> Array:
        batch = images[jnp.concatenate([case[None], others])]
        return network.apply(variables, batch, train=True, mask=real, mutable=["batch_stats"])[0][0]

    # One batch after another: side by side a case's products might be summed in another order.
    return jax.lax.map(
        lambda case: jax.lax.map(partial(logits, case), draws),
        jnp.arange(num_cases, dtype=draws.dtype),
    )

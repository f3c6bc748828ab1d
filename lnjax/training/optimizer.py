"""The optimizer of a run, as an optax chain made from the keys that every config has.

What is about updates is a link here, never an argument of the train step.
"""

from typing import Any

import optax

# optax.apply_if_finite lets the non-finite update through after this many in a row: a run whose
# every batch is broken should be seen to be broken.
MAX_SKIPPED_IN_A_ROW = 20


def learning_rate(config: Any) -> optax.Schedule:
    """The schedule: constant, or a cosine from `learning_rate` to a tenth of it at `num_steps`."""
    if config.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.1)
    raise ValueError(f"schedule={config.schedule!r} is not known; choose 'constant' or 'cosine'")


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Adam under a global-norm clip.

    Args:
      config: with `learning_rate`, `schedule`, `num_steps`, `clip_norm` (0: no clipping) and
        `nonfinite` ("stop": the loop ends the run; "skip": such an update is left out).

    Raises:
      ValueError: a value is not one of the known ones.
    """
    if not config.clip_norm >= 0:
        raise ValueError(f"clip_norm={config.clip_norm} must be positive, or 0 for no clipping")
    links = [] if config.clip_norm == 0 else [optax.clip_by_global_norm(config.clip_norm)]
    tx = optax.chain(*links, optax.adam(learning_rate(config)))
    if config.nonfinite == "stop":
        return tx
    if config.nonfinite == "skip":
        return optax.apply_if_finite(tx, max_consecutive_errors=MAX_SKIPPED_IN_A_ROW)
    raise ValueError(f"nonfinite={config.nonfinite!r} is not known; choose 'stop' or 'skip'")

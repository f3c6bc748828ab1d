"""The optimizer of a run, as an optax chain made from the keys that every config has.

What is about updates is a link here, never an argument of the train step. Links that optax does
not have are in `links`.
"""

from typing import Any

import optax

from lnjax.training.links import (
    apply_if_norm_finite,
    clip_by_root_of_global_norm,
    clip_by_tensor_norm,
    scale_by_uncorrected_adam,
)

# apply_if_norm_finite lets the non-finite update through after this many in a row: a run whose
# every batch is broken should be seen to be broken.
MAX_SKIPPED_IN_A_ROW = 20

# config.clip: what clip_norm is the bound of.
CLIPS = {
    "global": optax.clip_by_global_norm,  # the norm over all parameters
    "per_tensor": clip_by_tensor_norm,  # the norm of each array, as order embeddings
    "reader": clip_by_root_of_global_norm,  # the root of the norm, as the attentive reader
}

# config.adam: how its running means are corrected for having started at zero.
ADAMS = {
    "corrected": optax.scale_by_adam,
    "authors": scale_by_uncorrected_adam,  # practically not, as order embeddings, skip-thoughts
}


def _choice(key: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        choices = " or ".join(repr(name) for name in known)
        raise ValueError(f"{key}={value!r} is not known; choose {choices}")
    return known[value]


def learning_rate(config: Any) -> optax.Schedule:
    """The schedule: constant, or a cosine from `learning_rate` to a tenth of it at `num_steps`.

    A function of the number of updates, of which there is one for every `accumulate` steps.
    """
    if config.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    if config.schedule == "cosine":
        num_updates = config.num_steps // config.accumulate
        return optax.cosine_decay_schedule(config.learning_rate, num_updates, alpha=0.1)
    raise ValueError(f"schedule={config.schedule!r} is not known; choose 'constant' or 'cosine'")


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Adam under a clip, of the mean gradient of `accumulate` batches.

    A step of a run is a batch, with accumulation too: parameters, moments and the schedule move on
    at every `accumulate`-th of them, where the mean of the gradients since is clipped and used.
    Each batch counts the same in it, however many real cases its mask has.

    Args:
      config: with `learning_rate`, `schedule`, `num_steps`, `clip` (see CLIPS), `clip_norm` (0: no
        clipping), `adam` (see ADAMS), `accumulate` and `nonfinite` ("stop": the loop ends the run;
        "skip": such an update is left out, and the moments stay as they were; of several batches
        that are accumulated such a one is left out, and one more is taken in its place).

    Raises:
      ValueError: a value is not one of the known ones; `accumulate` is no number of batches, or
        `num_steps` would end among those of one update.
    """
    check_accumulate(config)
    if not config.clip_norm >= 0:
        raise ValueError(f"clip_norm={config.clip_norm} must be positive, or 0 for no clipping")
    clip, adam = _choice("clip", config.clip, CLIPS), _choice("adam", config.adam, ADAMS)
    clips = [] if config.clip_norm == 0 else [clip(config.clip_norm)]
    rate = optax.scale_by_learning_rate(learning_rate(config))
    # Nested as optax.adam is, for the checkpoints of runs that were made with that.
    tx = optax.chain(*clips, optax.chain(adam(), rate))
    if config.accumulate > 1:
        tx = optax.MultiSteps(tx, config.accumulate).gradient_transformation()
    if config.nonfinite == "stop":
        return tx
    if config.nonfinite == "skip":
        return apply_if_norm_finite(tx, max_consecutive_errors=MAX_SKIPPED_IN_A_ROW)
    raise ValueError(f"nonfinite={config.nonfinite!r} is not known; choose 'stop' or 'skip'")


def check_accumulate(config: Any) -> None:
    """Refuses an `accumulate` that is no number of batches, or that does not divide `num_steps`.

    Raises:
      ValueError: naming the key and what is expected.
    """
    every = config.accumulate
    if type(every) is not int or every < 1:
        raise ValueError(f"accumulate={every!r} must be an integer, 1 or larger: batches an update")
    if config.num_steps % every:
        raise ValueError(
            f"num_steps={config.num_steps} must be a multiple of accumulate={every}: a step is a"
            " batch, and the last ones would reach no update"
        )

"""Handwriting synthesis: Graves' network with layer-normalized LSTMs (paper 6.4, Fig. 5)."""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("paper", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant and variant not in VARIANTS:
        raise ValueError(f"configs/handwriting.py has no variant {variant!r}; known: {VARIANTS}")
    config = common.get_config()
    config.task = "handwriting"
    config.num_steps = 1000
    config.batch_size = 16
    config.schedule = "cosine"
    config.learning_rate = 5e-3
    config.features = 64  # units of each LSTM
    config.num_layers = 3
    config.window_components = 5
    config.mixture_components = 8
    config.points_per_letter = 12.0  # pace at which the window starts to move
    config.sigma_floor = 0.02  # added to the deviations, in units of the normalized offsets
    config.max_points = 256  # longer lines are cut to their first points
    config.max_letters = 24  # longer texts are cut
    config.eval_split = "validation"
    return config

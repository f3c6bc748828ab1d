"""Handwriting synthesis: Graves' network over layer-normalized LSTMs (paper 6.5, Fig. 5).

python train.py --config=configs/handwriting.py
python train.py --config=configs/handwriting.py --config.norm=none
python train.py --config=configs/handwriting.py:paper --config.data_dir=<folder of IAM-OnDB>
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("paper", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.task = "handwriting"
    config.num_steps = 1000
    config.batch_size = 16
    config.learning_rate = 1.4e-2
    config.schedule = "cosine"
    config.clip_norm = 10.0
    config.log_steps = 50
    config.eval_steps = 500
    config.checkpoint_steps = 500

    config.features = 64  # units of each LSTM
    config.num_layers = 3
    config.window_components = 5
    config.mixture_components = 8
    config.points_per_letter = 12.0  # the pace at which the window starts to move
    config.sigma_floor = 0.02  # added to the deviations, in units of the normalized offsets
    config.max_points = 224  # of longer lines the first points are taken; 0: no line is cut
    config.max_letters = 20  # of longer texts the first letters are read; 0: no text is cut
    config.chunk = 0  # store the state every so many points, compute the rest again; 0: store all
    config.bptt = 0  # train on segments of so many points, the state carried on; 0: on whole lines
    config.eval_split = "validation"

    if variant == "paper":
        config.data = "real"
        config.num_steps = 200_000
        config.batch_size = 8
        config.learning_rate = 1e-3  # not stated in the paper; Adam's default
        config.schedule = "constant"
        config.log_steps = 200
        config.eval_steps = 2000
        config.checkpoint_steps = 2000
        config.features = 400
        config.window_components = 10
        config.mixture_components = 20
        config.points_per_letter = 25.0
        config.sigma_floor = 0.0
        config.max_points = 500
        config.max_letters = 80
    elif variant == "smoke":
        config.num_steps = 20
        config.batch_size = 4
        config.eval_batch_size = 200
        config.log_steps = 5
        config.eval_steps = 20
        config.checkpoint_steps = 10
        config.features = 12
        config.num_layers = 2
        config.window_components = 2
        config.mixture_components = 2
        config.max_points = 48
        config.max_letters = 12
    elif variant:
        raise ValueError(f"configs/handwriting.py has no variant {variant!r}; known: {VARIANTS}")
    return config

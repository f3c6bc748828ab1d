"""DRAW over LSTMs with layer norm on the cell (paper 6.3, Fig. 4).

python train.py --config=configs/draw.py
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("paper", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.task = "draw"
    config.num_steps = 3000
    config.batch_size = 64
    config.learning_rate = 3e-3
    config.schedule = "cosine"
    config.log_steps = 50
    config.eval_steps = 500
    config.checkpoint_steps = 500

    config.features = 128  # units of the encoder's and of the decoder's LSTM
    config.latents = 16  # numbers in z at each glimpse
    config.glimpses = 8
    config.attention = True  # False: read and write the whole image at every glimpse
    config.read_size = 5  # N of the N x N filters of the window that reads
    config.write_size = 8  # and of the one that writes; without attention neither is used
    config.init_std = 0.05  # of the Gaussian that the kernels start with
    config.importance_samples = 0  # of L_K in evaluation (see tasks/draw/bound.py); 0 or 1: none
    config.eval_split = "validation"

    if variant == "paper":
        config.data = "real"
        config.num_steps = 78_125  # 200 epochs of 50,000 images
        config.batch_size = 128
        config.learning_rate = 1e-3
        config.schedule = "constant"
        config.log_steps = 100
        config.eval_steps = 3125  # 8 epochs
        config.checkpoint_steps = 3125
        config.features = 256
        config.latents = 100  # this and the windows: not stated in the paper; as in DRAW's own
        config.glimpses = 64
        config.read_size = 2
        config.write_size = 5
        config.init_std = 0.01
        config.eval_split = "test"
    elif variant == "smoke":
        config.num_steps = 20
        config.batch_size = 4
        config.eval_batch_size = 200
        config.log_steps = 5
        config.eval_steps = 20
        config.checkpoint_steps = 10
        config.features = 12
        config.latents = 3
        config.glimpses = 3
        config.read_size = 2
        config.write_size = 3
        config.importance_samples = 2
    elif variant:
        raise ValueError(f"configs/draw.py has no variant {variant!r}; known: {VARIANTS}")
    return config

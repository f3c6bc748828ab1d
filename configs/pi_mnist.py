"""Permutation-invariant MNIST: a perceptron with one of five norms (paper 6.6, Fig. 6).

python train.py --config=configs/pi_mnist.py
python train.py --config=configs/pi_mnist.py:small_batch --config.norm=batch
python train.py --config=configs/pi_mnist.py:paper --config.data_dir=<folder of the idx files>
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("small_batch", "paper", "paper_small_batch", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", *VARIANTS):
        raise ValueError(f"configs/pi_mnist.py has no variant {variant!r}; known: {VARIANTS}")
    real, small = variant.startswith("paper"), variant.endswith("small_batch")
    config = common.get_config()
    config.task = "pi_mnist"
    config.data = "real" if real else "embedded"
    config.batch_size = 4 if small else 128
    config.eval_batch_size = 500
    # Not stated in the paper: Adam's rate, rectified units, no regularization.
    config.learning_rate = 1e-3
    config.clip_norm = 0.0

    config.norm = "layer"  # or "rms", "batch", "weight", "none"
    config.features = 1000  # units of each hidden layer
    config.num_layers = 2  # hidden layers
    config.norm_logits = True  # norm=batch, weight: on the logits too, as the paper has batch norm
    # norm=batch: what a step leaves of the running averages, which then reach back over some 1,300
    # images at the large batch and 400 at the small one.
    config.momentum = 0.99 if small else 0.9
    config.unbiased = small  # norm=batch: the variance over m - 1, as the paper has it at batch 4

    # train/nll is the mean over an epoch, while the parameters move.
    epoch = round((55_000 if real else 4_000) / config.batch_size)
    config.log_steps = config.eval_steps = epoch
    config.num_steps = (10 if small and not real else 60) * epoch  # the figure's axis has 60
    config.checkpoint_steps = 10 * epoch

    if variant == "smoke":
        config.features = 16
        config.num_steps = 20
        config.log_steps = 5
        config.eval_steps = 20
        config.checkpoint_steps = 10
    return config

"""A small ConvNet with one of five norms: where the paper found batch norm ahead (6.7).

python train.py --config=configs/convnet.py
python train.py --config=configs/convnet.py --config.norm=batch
python train.py --config=configs/convnet.py:cifar10 --config.data_dir=<folder of CIFAR-10>
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("mnist", "fashion_mnist", "cifar10", "smoke")  # the paper gives no sizes to repeat


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", *VARIANTS):
        raise ValueError(f"configs/convnet.py has no variant {variant!r}; known: {VARIANTS}")
    real = variant in ("mnist", "fashion_mnist", "cifar10")
    config = common.get_config()
    config.task = "convnet"
    config.data = "real" if real else "embedded"
    config.dataset = variant if variant in ("fashion_mnist", "cifar10") else "digits"
    config.batch_size = 64
    config.eval_batch_size = 500
    config.learning_rate = 1e-3
    config.clip_norm = 0.0

    config.norm = "layer"  # or "rms", "batch", "weight", "none"
    config.features = 16  # channels of the first convolution; each further one has twice as many
    config.num_layers = 2  # convolutions, of stride 2
    config.kernel_size = 5
    config.momentum = 0.95  # norm=batch: what a step leaves of the running averages
    config.unbiased = False  # norm=batch: the variance over m - 1

    num_images = 4_000
    if real:
        num_images = 45_000 if variant == "cifar10" else 55_000
    # train/nll is the mean over an epoch, while the parameters move.
    epoch = round(num_images / config.batch_size)
    config.log_steps = config.eval_steps = config.checkpoint_steps = epoch
    config.num_steps = 20 * epoch
    if variant == "cifar10":
        config.features = 32
        config.num_layers = 3

    if variant == "smoke":
        config.features = 4
        config.kernel_size = 3
        config.num_steps = 20
        config.log_steps = 5
        config.eval_steps = 20
        config.checkpoint_steps = 10
    return config

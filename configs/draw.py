"""DRAW over LSTMs with layer norm on the cell (paper 6.4, Fig. 4).

python train.py --config=configs/draw.py                                       (2 minutes)
python train.py --config=configs/draw.py --config.norm=none
python train.py --config=configs/draw.py --config.attention=False
python train.py --config=configs/draw.py:paper --config.data_dir=<folder of the .amat files>
python sample.py --workdir=runs/draw --out=digits.gif

Fig. 4 shows the variational bound on the test set over 100 epochs, layer norm almost twice as fast;
after 200 epochs the paper has 82.09 nats, without the norm 82.36.

Measured on binarized_mnist/embedded (4,000 images thresholded at 128: another data set, not
comparable with these), two cores of an AMD EPYC, seed 0: eval/nats, the bound on 500 held-out
images with one sample each. Independent pixels reach 205.98.

    step                 400     800    1600    2400    parameters
    norm=layer         159.5   126.3  104.8    97.6       245,610
    norm=none          189.2   150.0  115.8   108.7       245,098
    attention=False    116.6   104.0   97.8    96.4     1,114,416

At the end of the first row 2 and 10 importance-weighted samples give 95.2 and 91.0 nats
(--config.importance_samples=10; one sample is the bound itself). One seed and one learning rate.

:paper has 960,491 parameters (959,467 and 1,024 of layer norm). One of its steps takes 1.1 s on the
two cores and 79 MB beside its arguments, for each glimpse is computed again in the backward pass
(without attention 1.6 s, 89 MB; with --config.dtype=bfloat16 1.0 s); the run of 78,125 steps would
take a day. It has not been run.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("paper", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.task = "draw"
    config.num_steps = 2400
    config.batch_size = 64
    config.learning_rate = 3e-3
    config.schedule = "cosine"
    config.log_steps = 50
    config.eval_steps = 400
    config.checkpoint_steps = 400

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

"""Order embeddings of images and captions over a layer-normalized GRU (paper 6.1, Table 2, Fig. 1).

python train.py --config=configs/order_embeddings.py
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("paper", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.task = "order_embeddings"
    config.num_steps = 600
    config.batch_size = 128
    config.eval_batch_size = 100
    config.learning_rate = 2e-3
    config.schedule = "cosine"
    config.clip = "per_tensor"
    config.clip_norm = 2.0
    config.log_steps = 25
    config.eval_steps = 100
    config.checkpoint_steps = 200

    config.similarity = "order"  # or "cosine", the symmetric rival
    config.margin = 0.0  # 0: that of the paper, 0.05 with the order and 0.2 with the cosine
    config.features = 128  # of the embeddings: units of the GRU
    config.word_features = 64
    config.max_tokens = 0  # of longer captions the first words are read; 0: no caption is cut
    config.fold_images = 500  # among which is searched, with all their captions
    config.test_folds = 1  # folds of the test split that are searched beside validation's first

    if variant == "paper":
        config.data = "real"
        config.num_steps = 88_500  # 100 epochs of 885 whole batches
        config.learning_rate = 1e-3
        config.schedule = "constant"
        config.adam = "authors"
        config.log_steps = 100
        config.eval_steps = 300
        config.checkpoint_steps = 1500
        config.features = 1024
        config.word_features = 300
        config.fold_images = 1000
        config.test_folds = 5
    elif variant == "smoke":
        config.num_steps = 20
        config.batch_size = 8
        config.log_steps = 5
        config.eval_steps = 20
        config.checkpoint_steps = 10
        config.features = 12
        config.word_features = 6
        config.fold_images = 50
    elif variant:
        raise ValueError(
            f"configs/order_embeddings.py has no variant {variant!r}; known: {VARIANTS}"
        )
    return config

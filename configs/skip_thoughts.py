"""Skip-thoughts over layer-normalized GRUs (paper 6.3, Fig. 3, Table 3).

python train.py --config=configs/skip_thoughts.py
python train.py --config=configs/skip_thoughts.py --config.norm=none
python train.py --config=configs/skip_thoughts.py:paper --config.data_dir=<folder of BookCorpus>

sentences/embedded, 1,000 steps in 128 s on two cores of an AMD EPYC, held-out books, one seed each;
a model of the frequencies of words alone has 5.195 nats per word:
                 nats per word   with the wrong centre   what the centre gives (standard error)
    norm=layer   3.528           3.663                   0.135 (0.006)
    norm=none    3.600           3.664                   0.064 (0.003)

--config.sentence_tasks=embedded/relatedness,embedded/speech evaluates the vectors too, as Fig. 3
does, at some 10 s for the five embedded sets an evaluation. :paper has not been run.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("paper", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.task = "skip_thoughts"
    config.num_steps = 1000
    config.batch_size = 32
    config.learning_rate = 4e-3
    config.schedule = "cosine"
    config.clip_norm = 5.0
    config.log_steps = 50
    config.eval_steps = 500
    config.checkpoint_steps = 500

    config.features = 192  # units of each GRU, the numbers in a sentence's vector
    config.embedding_features = 96
    config.vocabulary_size = 2000  # ids, with 0 (the end) and 1 (every other word)
    config.conditioned = False  # True: the vector enters every step of a decoder, as in 2015
    config.max_words = 24  # triples with a longer sentence are left out
    config.length_step = 25  # batches have centres of lengths up to the same multiple of this
    config.objective = "word"  # mean over the words, or "batch", their sum
    config.probability_floor = 0.0  # added to p in -log p where it is minimized
    config.softmax_rows = 256  # words whose logits are in memory at once
    config.init_scale = 0.1  # of the uniform numbers that tables and kernels of inputs start with
    config.eval_split = "validation"
    config.sentence_tasks = ""  # sets that vectors are evaluated on too, commas between their names
    config.sentence_dir = ""  # folder of the real ones: SICK, MR, CR, SUBJ, MPQA
    config.sentence_protocol = "quick"  # or "paper", "senteval": see lnjax/evaluation

    if variant == "paper":
        config.data = "real"
        config.num_steps = 1_000_000
        config.batch_size = 64  # as the public code; 128 and clip_norm 10 in the 2015 paper
        config.learning_rate = 2e-4
        config.schedule = "constant"
        config.adam = "authors"
        config.log_steps = 500
        config.eval_steps = 50_000
        config.checkpoint_steps = 10_000
        config.features = 2400
        config.embedding_features = 620
        config.vocabulary_size = 20_000
        config.max_words = 29
        config.length_step = 1
        config.objective = "batch"
        config.probability_floor = 1e-8
        config.softmax_rows = 1024
        config.sentence_protocol = "paper"
    elif variant == "smoke":
        config.num_steps = 20
        config.schedule = "constant"
        config.batch_size = 4
        config.eval_batch_size = 200
        config.log_steps = 5
        config.eval_steps = 20
        config.checkpoint_steps = 10
        config.features = 8
        config.embedding_features = 6
        config.vocabulary_size = 50
        config.max_words = 12
        config.length_step = 13
        config.softmax_rows = 64
    elif variant:
        raise ValueError(f"configs/skip_thoughts.py has no variant {variant!r}; known: {VARIANTS}")
    return config

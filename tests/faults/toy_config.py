"""A run of a second that has what faults meet: dropout, running statistics, several epochs.

Log, evaluation and checkpoint steps have no common multiple below the end, and an epoch is 9.25
steps, so that stopping anywhere is in the middle of something.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.task = "toy"
    config.batch_size = 4
    config.eval_batch_size = 8
    config.learning_rate = 1e-2
    config.num_steps = 60
    config.log_steps = 7
    config.eval_steps = 25
    config.checkpoint_steps = 10
    config.norm = "batch"  # or "none"
    config.dropout = 0.3
    config.features = 16
    config.num_threads = 2  # that read ahead
    config.broken_record = -1  # the record that holds a NaN; -1: none does
    config.huge_record = -1  # the one whose loss overflows, though its gradient does not
    config.unreadable_record = -1  # the one whose reading is an error
    return config

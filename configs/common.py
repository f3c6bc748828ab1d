"""The keys that every config has. A config file starts from here and changes what differs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = ""  # module of tasks/
    config.seed = 0  # of parameters, data order and every random stream
    config.num_steps = 1000  # train steps: one batch each
    config.batch_size = 32  # examples per step, over all devices
    config.accumulate = 1  # steps per update of the parameters, with the mean of their gradients
    config.eval_batch_size = 100  # examples per evaluation batch, over all devices
    config.learning_rate = 1e-3  # of Adam, at the start
    config.schedule = "constant"  # "constant" or "cosine" (down to a tenth at num_steps)
    config.adam = "corrected"  # or "authors": as their code, with early updates up to 6.6 times it
    config.clip_norm = 10.0  # bound of the gradient's norm, above which it is scaled; 0: none
    config.clip = "global"  # or "per_tensor"; or "reader", its odd rule (see training/links.py)
    config.norm = "layer"  # "layer" or "none"; a task may know more
    config.dtype = "float32"  # of products and activations; parameters and statistics: float32
    config.log_steps = 50  # write training metrics every so many steps
    config.eval_steps = 500  # evaluate and sample every so many steps, and at the end
    config.checkpoint_steps = 500  # write a checkpoint every so many steps, and at the end
    config.steps_per_call = 1  # train steps per dispatch; the three above are multiples of it
    config.mesh = ConfigDict()  # how many devices do what, see docs/scaling.md
    config.mesh.data = 1  # parts that each batch is cut into
    config.mesh.model = 1  # parts that the parameters of mesh.shard are cut into
    config.mesh.shard = ""  # which, and along which dimension: "embedding:0,kernel:1"
    config.data = "embedded"  # "embedded", the set that needs no files, or "real"
    config.data_dir = ""  # folder of the files of the real set
    config.nonfinite = "stop"  # at a loss that is not finite: "stop" the run or "skip" the update
    return config

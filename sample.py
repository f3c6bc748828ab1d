"""Uses a trained run: ``python sample.py --workdir=runs/handwriting --text="any line"``.

Handwriting: writes each --text (or each line of one) to --out, whose suffix chooses the picture:
.svg, .animated.svg (the pen writing), .png or .gif.

The newest good checkpoint of the run is read; nothing in its folder is changed, and no data set is
needed. Exit codes: 0 done; 2 wrong input, told in one line.
"""

import pathlib
from collections.abc import Callable

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

import tasks
from lnjax.training import workdir
from lnjax.training.checkpoint import CheckpointError, Checkpoints
from lnjax.training.command import EXIT_REFUSED, flags_parser, keep_compiled, tell
from lnjax.training.optimizer import make_optimizer
from lnjax.training.state import TrainState
from lnjax.training.step import run_shapes
from lnjax.training.task import Task
from tasks.handwriting import HandwritingTask, drawing, sampling

_WORKDIR = flags.DEFINE_string("workdir", "runs/handwriting", "folder of a trained run")
_SEED = flags.DEFINE_integer("seed", 0, "another seed, another hand")
_OUT = flags.DEFINE_string("out", "sample.svg", "file to write")
_TEXT = flags.DEFINE_multi_string("text", None, "handwriting: a line to write; may be repeated")
_BIAS = flags.DEFINE_float("bias", 0.5, "handwriting: 0 is as varied as learned, larger is neater")


def load(folder: pathlib.Path) -> tuple[Task, TrainState, int]:
    """The task of the run in `folder`, with its newest good state and the step of that.

    Raises:
      ValueError: there is no run in `folder`, or it has no checkpoint yet.
      CheckpointError: none of its checkpoints is usable.
    """
    run = workdir.read(folder)
    config = ConfigDict(run.config)
    task = tasks.load(config.task).make_task(config, run.spec)
    shapes = run_shapes(run.batch, task=task, tx=make_optimizer(config))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(shapes)
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint yet; let train.py write one")
    for line in restored.refused:
        tell(f"refused: {line}")
    return task, restored.tree["state"], restored.step


def write_text(task: HandwritingTask, state: TrainState, rng: jax.Array, out: pathlib.Path) -> None:
    """Handwriting: --text with --bias, drawn to `out`."""
    if _TEXT.value is None:
        raise ValueError('handwriting needs something to write: --text="any line"')
    texts = [line for text in _TEXT.value for line in text.split("\n")]
    written = sampling.write(task, state.params, rng, texts, bias=_BIAS.value)
    drawing.write(out, [line.strokes for line in written], texts=texts)
    for line in written:
        if not line.finished:
            tell(f"not finished, the pen lost its way: {line.text!r}")


USES: dict[str, Callable[..., None]] = {"handwriting": write_text}  # by the task of the run


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    out = pathlib.Path(_OUT.value)
    try:
        if not out.parent.is_dir():
            raise ValueError(f"there is no folder {out.parent} to write {out.name} to")
        task, state, step = load(pathlib.Path(_WORKDIR.value))
        USES[task.name](task, state, jax.random.key(_SEED.value), out)
    except (CheckpointError, ValueError) as error:
        tell(f"error: {error}")
        return EXIT_REFUSED
    print(f"{out} (step {step} of {_WORKDIR.value})")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=flags_parser())

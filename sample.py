"""Uses a trained run: ``python sample.py --workdir=runs/handwriting --text="any line"``.

Handwriting: writes each --text (or each line of one) to --out, whose suffix chooses the picture:
.svg, .animated.svg (the pen writing), .png or .gif.

DRAW: draws --num digits to --out, .png (a row of glimpses for each) or .gif (all being drawn); with
--copy not out of nothing, but held-out digits that the network looks at.

Skip-thoughts: writes the vectors of the sentences in --encode, a text file with one a line, to
--out as a NumPy array (sentences, features).

Order embeddings: looks for each --query ("a three above a seven") among the test images and writes
the best to --out, .png (the images) or .txt (a list of their ids, all there is of COCO).

The newest good checkpoint of the run is read; nothing in its folder is changed, and no data set is
needed but by order embeddings, which open that of the run again. Exit codes: 0 done; 2 wrong input,
told in one line.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

import tasks
from lnjax.terminal import printable
from lnjax.training import trained, workdir
from lnjax.training.checkpoint import CheckpointError
from lnjax.training.command import EXIT_REFUSED, flags_parser, keep_compiled, tell
from lnjax.training.state import TrainState
from lnjax.training.task import Task
from tasks.draw import DrawTask
from tasks.draw import drawing as glimpses
from tasks.handwriting import HandwritingTask, drawing, sampling
from tasks.order_embeddings import OrderTask
from tasks.skip_thoughts import SkipThoughtsTask, encoder

_WORKDIR = flags.DEFINE_string("workdir", "runs/handwriting", "folder of a trained run")
_SEED = flags.DEFINE_integer("seed", 0, "another seed, another hand")
_OUT = flags.DEFINE_string("out", None, "file to write; default: sample.svg, .png or .npy")
_TEXT = flags.DEFINE_multi_string("text", None, "handwriting: a line to write; may be repeated")
_BIAS = flags.DEFINE_float("bias", 0.5, "handwriting: 0 is as varied as learned, larger is neater")
_NUM = flags.DEFINE_integer("num", 16, "draw: how many digits")
_QUERY = flags.DEFINE_multi_string("query", None, "order embeddings: a sentence to look for")
_COPY = flags.DEFINE_bool("copy", False, "draw: digits of the held-out data, looked at")
_ENCODE = flags.DEFINE_string("encode", None, "skip_thoughts: a file of sentences, one a line")


def load(folder: pathlib.Path) -> tuple[Task, TrainState, int]:
    """The task of the run in `folder`, with its newest good state and the step of that.

    Raises:
      ValueError: there is no run in `folder`, or it has no checkpoint yet.
      CheckpointError: none of its checkpoints is usable.
    """
    return trained.load(
        folder, lambda config, spec: tasks.load(config.task).make_task(config, spec)
    )


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


def draw_digits(task: DrawTask, state: TrainState, rng: jax.Array, out: pathlib.Path) -> None:
    """DRAW: --num digits, of its own or (--copy) of the held-out ones, drawn to `out`."""
    draw = task.copy if _COPY.value else task.imagine
    glimpses.write(out, draw(state.params, rng, _NUM.value), title=f"seed {_SEED.value}")


def encode_sentences(
    task: SkipThoughtsTask, state: TrainState, rng: jax.Array, out: pathlib.Path
) -> None:
    """Skip-thoughts: the vectors of the lines of --encode to `out`."""
    if _ENCODE.value is None:
        raise ValueError("skip_thoughts needs sentences: --encode=file, one a line")
    if out.suffix != ".npy":
        raise ValueError(f"{out.name} must end in .npy, NumPy's format of one array")
    try:
        text = pathlib.Path(_ENCODE.value).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--encode={_ENCODE.value} cannot be read: {error}") from error
    lines = text.splitlines()
    if not lines:
        raise ValueError(f"--encode={_ENCODE.value} is empty; expected a sentence a line")
    np.save(out, encoder.of(task, state.params)(lines))


def find_images(task: OrderTask, state: TrainState, rng: jax.Array, out: pathlib.Path) -> None:
    """Order embeddings: the test images that each --query finds, written to `out`."""
    # Here, not at the head: the other tasks need no data set and no reader.
    from tasks.order_embeddings import search

    if _QUERY.value is None:
        raise ValueError('there is nothing to look for: --query="a three above a seven"')
    run = workdir.read(pathlib.Path(_WORKDIR.value))
    config = ConfigDict(run.config)
    queries = search.find(task, state.params, config, run.spec, _QUERY.value)
    search.write(out, queries, title=f"{config.data} test images")


class Use(NamedTuple):
    """What is done with the run of a task, which flags it alone has, where to by default."""

    run: Callable[..., None]
    flags: tuple[str, ...]
    out: str


USES = {  # by the task of the run
    "handwriting": Use(write_text, ("text", "bias"), "sample.svg"),
    "draw": Use(draw_digits, ("num", "copy"), "sample.png"),
    "skip_thoughts": Use(encode_sentences, ("encode",), "sample.npy"),
    "order_embeddings": Use(find_images, ("query",), "found.png"),
}


def use_of(name: str) -> Use:
    """The use of the task called `name`.

    Raises:
      ValueError: there is none, or a flag is given that belongs to another.
    """
    if name not in USES:
        raise ValueError(f"sample.py does nothing with a run of {name}; known: {', '.join(USES)}")
    for other, use in USES.items():
        for flag in use.flags:
            if other != name and not flags.FLAGS[flag].using_default_value:
                raise ValueError(f"--{flag} is for {other}, and the run is one of {name}")
    return USES[name]


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    try:
        folder = pathlib.Path(_WORKDIR.value)
        use = use_of(workdir.read(folder).config["task"])
        out = pathlib.Path(_OUT.value or use.out)
        if not out.parent.is_dir():
            raise ValueError(f"there is no folder {out.parent} to write {out.name} to")
        task, state, step = load(folder)
        use.run(task, state, jax.random.key(_SEED.value), out)
    except (CheckpointError, ValueError) as error:
        tell(f"error: {error}")
        return EXIT_REFUSED
    print(printable(f"{out} (step {step} of {_WORKDIR.value})"))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=flags_parser())

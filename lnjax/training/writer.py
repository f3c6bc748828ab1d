"""What a run tells: `metrics.jsonl`, TensorBoard, and a line on the terminal."""

import datetime
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping

import numpy as np
import rich.console
import rich.progress
import tensorboardX
from PIL import Image

from lnjax.training import manifest

_FILE = "metrics.jsonl"
_TENSORBOARD_SECONDS = 5


class MetricsWriter:
    """Metrics as lines of JSON in `workdir/metrics.jsonl`, and in TensorBoard by the same names.

    Stopped and resumed, a run leaves the same lines (but for `seconds`) as one that never stopped:
    what was written after the step it resumes at is dropped, a half-written last line too. So write
    the metrics of a step before saving the checkpoint of that step. A killed process keeps every
    line; TensorBoard may miss the last 5 seconds. A context manager.

    Args:
        workdir: created if missing; TensorBoard's files go to `workdir/tensorboard`.
        resume_step: lines up to this step are kept. 0 is a new run: no line is kept, so ask
            `last_recorded_step` first where old results must not be lost.

    Attributes:
        seconds_spent: `seconds` of the last line that was kept, 0.0 if none; a resumed run counts
            on from here.

    Raises:
        ValueError: a line of `metrics.jsonl` other than the last is no line of metrics.
    """

    def __init__(self, workdir: str | os.PathLike, *, resume_step: int = 0):
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / _FILE
        kept = [(line, row) for line, row in _lines(path) if 0 < resume_step >= row["step"]]
        self.seconds_spent = float(kept[-1][1]["seconds"]) if kept else 0.0
        self._last_step = resume_step
        # Always rewritten: the end of the file may be half a line, which is in no list.
        manifest.write_text(path, "".join(line + "\n" for line, _ in kept))
        # Unbuffered, so that each line is one write: a killed process leaves whole lines.
        self._file = open(path, "ab", buffering=0)
        self._tensorboard = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"),
            # TensorBoard then hides the events that an interrupted process wrote from here on.
            purge_step=resume_step + 1 if resume_step else 0,
            filename_suffix=f".from-{resume_step}",
            flush_secs=_TENSORBOARD_SECONDS,
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Appends one line: `{"step": 200, "seconds": 31.2, "train/loss": ...}`.

        Args:
            step: optimizer steps done; not less than in the line before.
            seconds: since the start of the run, pauses between its processes not counted.
            metrics: name -> value. NaN and infinities are no JSON and become null in the file;
                TensorBoard gets them as they are.

        Raises:
            ValueError: `step` goes back, or a metric is called "step" or "seconds".
        """
        if step < self._last_step:
            raise ValueError(f"step {step} after step {self._last_step}: lines are in order")
        if taken := {"step", "seconds"} & metrics.keys():
            raise ValueError(f"a metric may not be called {' or '.join(sorted(taken))}")
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": int(step), "seconds": round(float(seconds), 3), **finite}
        self._file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        self._last_step = step
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: str | os.PathLike | np.ndarray) -> None:
        """Shows an image in TensorBoard: the path of a PNG, or uint8 (height, width, 1, 3 or 4).

        Raises:
            ValueError: the array has another dtype or shape.
        """
        if isinstance(image, str | os.PathLike):
            with Image.open(image) as opened:
                image = np.asarray(opened.convert("RGBA" if "A" in opened.getbands() else "RGB"))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
            raise ValueError(
                f"image {name} must be uint8 (height, width, 1, 3 or 4),"
                f" got {image.dtype} {image.shape}"
            )
        self._tensorboard.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


def last_recorded_step(workdir: str | os.PathLike) -> int | None:
    """The step of the last whole line of `workdir/metrics.jsonl`; None if there is none."""
    rows = [row for _, row in _lines(pathlib.Path(workdir) / _FILE)]
    return rows[-1]["step"] if rows else None


def _lines(path: pathlib.Path) -> list[tuple[str, dict]]:
    """The whole lines of a metrics file with what they say; no file has no lines."""
    if not path.exists():
        return []
    # What follows the last line feed is empty, or half a line.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append((line, {"step": int(row["step"]), "seconds": float(row["seconds"])}))
        except (ValueError, KeyError, TypeError) as error:
            # A crash of the machine, unlike one of the process, can leave zeros at the end.
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not a line of metrics: {line[:80]!r}") from error
    return rows


class Progress:
    """How far the run is: one live line on a terminal, otherwise a plain line per call.

    A context manager. What the run prints meanwhile appears above the live line.

    Args:
        num_steps: steps of the whole run.
        step: steps done before this process.
        console: where to write; standard error by default.
    """

    def __init__(
        self, num_steps: int, step: int = 0, *, console: rich.console.Console | None = None
    ):
        self._console = console or rich.console.Console(stderr=True)
        self._num_steps = num_steps
        self._last = step, time.perf_counter()
        self._bar = rich.progress.Progress(
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.description}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=num_steps, completed=step)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float) -> None:
        """Shows step, loss, steps per second since the last call, and the time that is left."""
        last_step, last_time = self._last
        now = time.perf_counter()
        self._last = step, now
        speed = (step - last_step) / max(now - last_time, 1e-9)
        text = f"step {step}/{self._num_steps}  loss {loss:.4g}  {speed:.3g} steps/s"
        if speed > 0:
            left = datetime.timedelta(seconds=math.ceil((self._num_steps - step) / speed))
            text += f"  {left} left"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, description=text)
        else:
            print(text, file=self._console.file, flush=True)

"""What a run tells: `metrics.jsonl`, TensorBoard, and a line on the terminal."""

import contextlib
import datetime
import errno
import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import rich.console
import rich.progress
from PIL import Image
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import (
    Event,  # pyrefly: ignore[missing-module-attribute]
    SessionLog,  # pyrefly: ignore[missing-module-attribute]
)
from tensorboardX.proto.summary_pb2 import Summary  # pyrefly: ignore[missing-module-attribute]
from tensorboardX.record_writer import RecordWriter

from lnjax.terminal import may_be_lost
from lnjax.training import manifest
from lnjax.training.command import tell

_FILE = "metrics.jsonl"
_TENSORBOARD_SECONDS = 5
_LARGEST = 1 << 30  # bytes of a metrics file


class MetricsWriter:
    """Metrics as lines of JSON in `workdir/metrics.jsonl`, and in TensorBoard by the same names.

    Stopped and resumed, a run leaves the same lines (but for `seconds`) as one that never stopped:
    what was written after the step it resumes at is dropped, a half-written last line too. So write
    the metrics of a step before saving the checkpoint of that step. A killed process keeps every
    line; TensorBoard may miss the last 5 seconds. Where its files cannot be written (a full disk),
    that is told, and the rest of the process does without them. A context manager.

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
        kept = [(line, row) for line, row in read_lines(path) if 0 < resume_step >= row["step"]]
        self.seconds_spent = float(kept[-1][1]["seconds"]) if kept else 0.0
        self._last_step = resume_step
        # Always rewritten: the end of the file may be half a line, which is in no list.
        manifest.write_text(path, "".join(line + "\n" for line, _ in kept))
        # Unbuffered, so that each line is one write: a killed process leaves whole lines.
        self._file = open(path, "ab", buffering=0)
        self._tensorboard = _Events(workdir / "tensorboard", resume_step)

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
            OSError: the line cannot be written; the file ends with the line before.
        """
        if step < self._last_step:
            raise ValueError(f"step {step} after step {self._last_step}: lines are in order")
        if taken := {"step", "seconds"} & metrics.keys():
            raise ValueError(f"a metric may not be called {' or '.join(sorted(taken))}")
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": int(step), "seconds": round(float(seconds), 3), **finite}
        self._append((json.dumps(row, allow_nan=False) + "\n").encode())
        self._last_step = step
        self._tensorboard.add(step, [summary.scalar(name, value) for name, value in values.items()])

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
        self._tensorboard.add(step, [summary.image(name, image, dataformats="HWC")])

    def _append(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):  # the disk had room for a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(size)  # half a line would become one with the next
            error.filename = self._file.name
            raise

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


class _Events:
    """TensorBoard's file of one process.

    Written in this thread: tensorboardX's own thread ends at the first error of the disk, and its
    queue, once full, then holds up the run for ever.
    """

    def __init__(self, folder: pathlib.Path, resume_step: int):
        folder.mkdir(exist_ok=True)
        self._writer: RecordWriter | None = None
        self._flushed = time.monotonic()
        with self._or_without():
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
            self._writer = RecordWriter(str(folder / f"{name}.from-{resume_step}"))
            self._write(Event(file_version="brain.Event:2"))
            # TensorBoard then hides the events that an interrupted process wrote from here on.
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=resume_step + 1 if resume_step else 0, session_log=start))
            self._writer.flush()

    def add(self, step: int, summaries: Iterable[Summary]) -> None:
        with self._or_without():
            for each in summaries:
                self._write(Event(step=step, summary=each))
            if self._writer and time.monotonic() - self._flushed > _TENSORBOARD_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        with self._or_without():
            if self._writer:
                self._writer.close()

    def _write(self, event: Event) -> None:
        if self._writer:
            event.wall_time = time.time()
            self._writer.write(event.SerializeToString())

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            tell(f"TensorBoard's file is no longer written: {error}; metrics.jsonl has everything")
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                if writer:
                    writer.close()


def last_recorded_step(workdir: str | os.PathLike) -> int | None:
    """The step of the last whole line of `workdir/metrics.jsonl`; None if there is none."""
    rows = [row for _, row in read_lines(pathlib.Path(workdir) / _FILE)]
    return rows[-1]["step"] if rows else None


def read_lines(path: pathlib.Path) -> list[tuple[str, dict]]:
    """The whole lines of a metrics file with what they say; no file has no lines.

    Raises:
        ValueError: a line other than the last is no line of metrics, or `path` is no file.
    """
    if not os.path.lexists(path):
        return []
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} is no file of metrics; remove it, or restore it from a copy")
    # What follows the last line feed is empty, or half a line.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append((line, _checked(json.loads(line))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # A crash of the machine, unlike one of the process, can leave zeros at the end.
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not a line of metrics: {line[:80]!r}") from error
    return rows


def _checked(row: dict) -> dict:
    """A line as `MetricsWriter.write` writes it; an error of any kind for another."""
    values = dict(row)
    step, seconds = values.pop("step"), values.pop("seconds")
    if type(step) is not int or step < 0 or type(seconds) not in (int, float):
        raise ValueError("step or seconds")
    if any("\ufffd" in name for name in values):
        raise ValueError("a name that is no UTF-8")
    numbers = [seconds, *(value for value in values.values() if value is not None)]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError("a value that is no number")
    return row


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
        with may_be_lost():
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        with may_be_lost():
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
        with may_be_lost():
            if self._console.is_terminal:
                self._bar.update(self._task, completed=step, description=text)
            else:
                print(text, file=self._console.file, flush=True)

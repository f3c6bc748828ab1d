import io
import json
import math
import re
import struct

import numpy as np
import pytest
import rich.console
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from lnjax.training.writer import MetricsWriter, Progress, last_recorded_step


def events(workdir):
    """Every event of a run's TensorBoard files; a record is length, crc, bytes, crc."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def train(workdir, steps, *, resume_step=0, started=0.0):
    with MetricsWriter(workdir, resume_step=resume_step) as writer:
        for step in steps:
            seconds = writer.seconds_spent + started + step
            writer.write(step, seconds, {"train/loss": 1 / (step + 1)})
            if step % 4 == 0:
                writer.write(step, seconds, {"eval/nats_per_point": math.pi * step})


def without_seconds(workdir):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in lines(workdir)]


def test_one_object_a_line_and_the_same_scalars_in_tensorboard(tmp_path):
    metrics = {"train/loss": np.float32(0.5), "eval/nats_per_point": 1 / 3}
    with MetricsWriter(tmp_path / "new" / "run") as writer:
        writer.write(200, 31.23456, metrics)
        # Before the writer is closed: a killed process keeps what it wrote.
        text = (tmp_path / "new/run/metrics.jsonl").read_text()
    assert text == (
        '{"step": 200, "seconds": 31.235, "train/loss": 0.5,'
        ' "eval/nats_per_point": 0.3333333333333333}\n'
    )
    scalars = {
        (event.step, value.tag): value.simple_value
        for event in events(tmp_path / "new/run")
        for value in event.summary.value
    }
    assert scalars == {
        (200, "train/loss"): 0.5,
        (200, "eval/nats_per_point"): pytest.approx(1 / 3),
    }


def test_what_is_not_finite_is_null(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, 0.0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
    line = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(line, parse_constant=refuse) == {
        "step": 1, "seconds": 0.0, "a": None, "b": None, "c": None, "d": 0.0,
    }  # fmt: skip


def test_names_and_order_are_checked(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="seconds"):
            writer.write(1, 0.0, {"seconds": 1.0})
        writer.write(3, 0.0, {"a": 1.0})
        writer.write(3, 0.0, {"b": 1.0})
        with pytest.raises(ValueError, match="step 2 after step 3"):
            writer.write(2, 0.0, {"a": 1.0})
    assert [list(row) for row in lines(tmp_path)] == [
        ["step", "seconds", "a"],
        ["step", "seconds", "b"],
    ]


@pytest.mark.parametrize("tail", ["", '{"step": 9, "seco', '{"step": 9, "seconds": 1.0}', "\0\0\n"])
def test_a_resumed_run_has_the_lines_of_one_that_never_stopped(tmp_path, tail):
    train(tmp_path / "whole", range(1, 13))
    stopped = tmp_path / "stopped"
    train(stopped, range(1, 9))
    with open(stopped / "metrics.jsonl", "a") as file:
        file.write(tail)
    train(stopped, range(5, 13), resume_step=4, started=100.0)
    assert without_seconds(stopped) == without_seconds(tmp_path / "whole")
    assert [row["seconds"] for row in lines(stopped)][4:7] == [4.0, 4.0 + 100 + 5, 4.0 + 100 + 6]
    assert sorted(p.name for p in stopped.iterdir()) == ["metrics.jsonl", "tensorboard"]
    # TensorBoard is told to hide what the stopped process wrote after step 4.
    starts = [event.step for event in events(stopped) if event.HasField("session_log")]
    assert starts == [0, 5]


def test_new_run_keeps_no_line_and_the_caller_can_ask_first(tmp_path):
    assert last_recorded_step(tmp_path / "absent") is None
    train(tmp_path, [0, 1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3')
    assert last_recorded_step(tmp_path) == 2
    with MetricsWriter(tmp_path) as writer:
        assert writer.seconds_spent == 0.0
    assert last_recorded_step(tmp_path) is None
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_file_that_is_no_metrics_is_not_touched(tmp_path):
    text = 'notes\n{"step": 1, "seconds": 0.0}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metrics.jsonl:1 .*notes"):
        MetricsWriter(tmp_path, resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_images(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "sample.png")
    with MetricsWriter(tmp_path / "run") as writer:
        writer.image(1, "array", pixels)
        writer.image(2, "file", tmp_path / "sample.png")
        writer.image(3, "gray", pixels[:, :, :1])
        for wrong in (pixels / 255, pixels[0], pixels[:, :, :2]):
            with pytest.raises(ValueError, match="image wrong must be uint8"):
                writer.image(4, "wrong", wrong)
    shown = {
        (event.step, value.tag): np.asarray(
            Image.open(io.BytesIO(value.image.encoded_image_string))
        )
        for event in events(tmp_path / "run")
        for value in event.summary.value
    }
    np.testing.assert_array_equal(shown[1, "array"], pixels)
    np.testing.assert_array_equal(shown[2, "file"], pixels)
    assert shown.keys() == {(1, "array"), (2, "file"), (3, "gray")}


def progress_text(terminal):
    stream = io.StringIO()
    console = rich.console.Console(file=stream, force_terminal=terminal, width=120)
    with Progress(10, step=2, console=console) as progress:
        progress.update(4, 1.5)
        progress.update(10, 0.25)
    return stream.getvalue()


def test_progress_is_plain_lines_without_a_terminal():
    first, last = progress_text(False).splitlines()
    assert re.fullmatch(r"step 4/10  loss 1.5  \S+ steps/s  0:00:01 left", first)
    assert re.fullmatch(r"step 10/10  loss 0.25  \S+ steps/s  0:00:00 left", last)


def test_progress_is_one_live_line_on_a_terminal():
    text = progress_text(True)
    assert "step 10/10  loss 0.25" in text
    assert text.count("\n") == 1 and "\r" in text


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        '{"step": 1.5, "seconds": 1}',
        '{"step": -1, "seconds": 1}',
        '{"step": true, "seconds": 1}',
        '{"step": 1, "seconds": NaN}',
        '{"step": 1, "seconds": 1, "train/loss": "high"}',
        '{"step": 1, "seconds": 1, "train/loss": [1]}',
        "[" * 100_000,
    ],
)
def test_lines_of_another_form(tmp_path, line):
    good = '{"step": 1, "seconds": 1, "train/loss": null}\n'
    (tmp_path / "metrics.jsonl").write_text(f"{good}{line}\n{good}")
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 is not a line of metrics"):
        last_recorded_step(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(f"{good}{line}\n")  # the last: a crash
    assert last_recorded_step(tmp_path) == 1


def test_whatever_a_metric_is_called_it_is_one_line(tmp_path):
    name = '\x1b[2J\n{"step": 7, "seconds": 0}\u2028</script>\u202e'
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, 0.5, {name: 2.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.isascii() and text.count("\n") == 1 and "\x1b" not in text
    assert lines(tmp_path) == [{"step": 1, "seconds": 0.5, name: 2.0}]
    (summary,) = [value for event in events(tmp_path) for value in event.summary.value]
    assert summary.simple_value == 2 and summary.tag.isprintable()

"""Handwriting synthesis (paper 6.5, Fig. 5): Graves' network writes a given text with a pen.

Trained on lines of pen offsets with their text; scored in nats per point and per line on held-out
lines, and once more with *another line's* text: what that costs is what the network takes from the
text. `network` is the model, `mixture` its density, `sampling` writes, `drawing` makes pictures.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lnjax.cells.lstm import Norm
from lnjax.ops import keep_carry, resume_carry, scan_chunks
from lnjax.training.options import check_dtype, check_least, check_positive
from lnjax.training.task import LossAux, TaskData, TaskDefaults
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey
from tasks.handwriting import drawing, mixture, sampling
from tasks.handwriting.network import Carry, SynthesisNetwork

SIZES = (  # keys of the config that are numbers of something
    *("features", "num_layers", "window_components", "mixture_components", "points_per_letter"),
)
LEAST = {"max_points": 0, "max_letters": 0, "bptt": 0, "chunk": 0}


@dataclasses.dataclass(frozen=True)
class HandwritingTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `SynthesisNetwork` and the configs."""

    alphabet: str  # the letters; one more symbol stands for every other character
    offset_mean: tuple[float, float]  # of the raw offsets of the training lines
    offset_std: tuple[float, float]
    features: int
    num_layers: int
    window_components: int
    mixture_components: int
    points_per_letter: float
    sigma_floor: float
    norm: Norm
    dtype: str
    bptt: int = 0  # points of a segment; 0: training batches hold whole lines
    chunk: int = 0  # points whose inner values are in memory at once; 0: all
    name: str = "handwriting"

    @property
    def network(self) -> SynthesisNetwork:
        return SynthesisNetwork(
            features=self.features,
            num_layers=self.num_layers,
            num_letters=len(self.alphabet) + 1,
            window_components=self.window_components,
            mixture_components=self.mixture_components,
            points_per_letter=self.points_per_letter,
            norm=self.norm,
            dtype=jnp.dtype(self.dtype),
        )

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, Any]:
        xs = jnp.swapaxes(batch["strokes"], 0, 1)
        carry = self.network.initial_carry(xs.shape[1])
        variables = self.network.init(rng, carry, xs[:1], batch["text"], batch["text_mask"])
        return {**variables, "carry": carry} if self.bptt else variables

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """Nats per point. Batch: see `collate_lines`; in evaluation also under another line's text.

        With `bptt`, training batches are those of `collate_segments`. Their rows go on with the
        collection "carry", one state of the network for each row, where no line begins in them.
        """
        carry = initial = self.network.initial_carry(len(batch["mask"]))
        begins = jnp.any(batch["mask"], axis=1)
        if train and self.bptt:
            carry = resume_carry(model_state["carry"], initial, batch["start"])
            begins &= batch["start"]
        nats, last = self._nats(params, batch, batch["text"], batch["text_mask"], carry)
        if train and self.bptt:
            model_state = {**model_state, "carry": keep_carry(last, initial)}
        points = jnp.sum(batch["mask"], dtype=nats.dtype)
        lines = jnp.sum(begins, dtype=nats.dtype)
        total = jnp.sum(nats)
        sums = {
            "loss": (total, points),
            "nats_per_point": (total, points),
            "nats_per_sequence": (total, lines),
        }
        if not train:
            text = batch["other_text"], batch["other_text_mask"]
            other, _ = self._nats(params, batch, *text, initial)
            sums["nats_per_point_other_text"] = (jnp.sum(other), points)
        return total / jnp.maximum(points, 1), LossAux(sums, model_state)

    def _nats(
        self, params: Params, batch: Batch, text: Array, text_mask: Array, carry: Carry
    ) -> tuple[Array, Carry]:
        """-log p of every point (T, B), zero where there is none; and the state after the last."""
        strokes, mask = jnp.swapaxes(batch["strokes"], 0, 1), jnp.swapaxes(batch["mask"], 0, 1)
        # The network sees point t - 1 when it predicts point t; before a line stands a zero.
        before = batch.get("before", jnp.zeros_like(strokes[0]))
        previous = jnp.concatenate([before[None], strokes[:-1]])

        def part(carry: Carry, points: tuple[Array, Array, Array]) -> tuple[Carry, Array]:
            previous, strokes, mask = points
            applied: Any = self.network.apply(
                {"params": params}, carry, previous, text, text_mask, mask
            )
            carry, outputs = applied
            density = mixture.from_outputs(outputs.mixture, self.sigma_floor)
            # Padded points go before the density, so that nothing in them can reach a gradient.
            real = jnp.where(mask[..., None], strokes, 0)
            nats = -mixture.log_density(density, real[..., :2], real[..., 2])
            return carry, jnp.where(mask, nats, 0)

        if self.chunk:
            carry, nats = scan_chunks(part, carry, (previous, strokes, mask), self.chunk)
        else:
            carry, nats = part(carry, (previous, strokes, mask))
        return nats, carry

    def encode(self, text: str) -> np.ndarray:
        """The letters of `text` as int32; what the alphabet lacks becomes the non-letter symbol."""
        return encode(text, self.alphabet)

    def sample(self, params: Params, model_state: ModelState, rng: PRNGKey, num: int) -> Any:
        """Writes the first `num` of a few fixed lines: a list of `sampling.Written`."""
        return sampling.write(self, params, rng, sampling.SHEET_TEXTS[:num], bias=0.5)


def encode(text: str, alphabet: str) -> np.ndarray:
    """The index of each character in `alphabet`; ``len(alphabet)`` for any other."""
    index = {letter: i for i, letter in enumerate(alphabet)}
    return np.array([index.get(letter, len(alphabet)) for letter in text], np.int32)


def make_task(config: Any, spec: Mapping[str, Any]) -> HandwritingTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    if config.norm not in ("layer", "none"):
        raise ValueError(f"norm={config.norm!r} is not known; handwriting has 'layer' and 'none'")
    check_dtype(config)
    check_positive(config, SIZES)
    check_least(config, LEAST)
    return HandwritingTask(
        alphabet=spec["alphabet"],
        offset_mean=tuple(spec["offset_mean"]),
        offset_std=tuple(spec["offset_std"]),
        features=config.features,
        num_layers=config.num_layers,
        window_components=config.window_components,
        mixture_components=config.mixture_components,
        points_per_letter=config.points_per_letter,
        sigma_floor=config.sigma_floor,
        norm=None if config.norm == "none" else config.norm,
        dtype=config.dtype,
        bptt=config.bptt,
        chunk=config.chunk,
    )


def make_data(config: Any) -> TaskData:
    """Prepares the lines (once per machine) and cuts them into batches of one fixed shape."""
    check_dtype(config)
    check_least(config, LEAST)
    # Here, not at the head: writing with a trained network needs no data set and no reader.
    from lnjax.data import pipeline, preparation
    from lnjax.data.handwriting import Handwriting
    from lnjax.data.scripture import ALPHABET

    prepared = preparation.prepare(Handwriting, config.data, manual_dir=config.data_dir or None)
    spec = {
        "alphabet": ALPHABET,
        "offset_mean": list(prepared.statistics["offset_mean"]),
        "offset_std": list(prepared.statistics["offset_std"]),
    }
    splits = prepared.splits
    if config.eval_split not in splits:
        raise ValueError(f"eval_split={config.eval_split!r} is not known; there are {list(splits)}")
    train, held_out = splits["train"], splits[config.eval_split]
    limits = {
        f"max_{key}": config[f"max_{key}"] or longest((train, held_out), field)
        for key, field in (("points", "strokes"), ("letters", "text"))
    }

    def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        return collate_lines(examples, spec, **limits)

    fingerprint = pipeline.fingerprint(prepared, seed=config.seed, batch_size=config.batch_size)
    return TaskData(
        train=(
            segment_batches(train, spec, config, **limits)
            if config.bptt
            else pipeline.train_batches(
                train, seed=config.seed, batch_size=config.batch_size, collate=collate
            )
        ),
        evals={
            "eval": pipeline.eval_batches(
                with_other_text(held_out),
                batch_size=config.eval_batch_size,
                collate=collate,
            )
        },
        fingerprint=fingerprint | ({"bptt": config.bptt} if config.bptt else {}),
        spec=spec,
        baselines={
            "nats_per_point of one Gaussian": one_gaussian(
                train, held_out, spec, max_points=limits["max_points"]
            )
        },
    )


def longest(splits: Iterable[Sequence[Mapping[str, Any]]], field: str) -> int:
    """The greatest length of `field` in any example of the splits."""
    return max(len(example[field]) for split in splits for example in split)


def segment_batches(
    source: Sequence[Mapping[str, Any]],
    spec: Mapping[str, Any],
    config: Any,
    *,
    max_points: int,
    max_letters: int,
) -> Any:
    """Training batches of consecutive segments of `config.bptt` points, see `lnjax.data.segments`.

    Raises: ValueError as there.
    """
    from lnjax.data import segments

    def collate(rows: Sequence[segments.Segment]) -> dict[str, np.ndarray]:
        examples = [source[row.row] for row in rows]
        return collate_segments(examples, rows, spec, length=config.bptt, max_letters=max_letters)

    return segments.train_batches(
        [min(len(example["strokes"]), max_points) for example in source],
        seed=config.seed,
        batch_size=config.batch_size,
        length=config.bptt,
        collate=collate,
    )


def draw_samples(
    path: str | os.PathLike, samples: Sequence[sampling.Written], *, title: str
) -> None:
    """A sheet of written lines, each with where the window stood: a PNG at `path`."""
    rows = [
        drawing.Row(
            caption=written.text + ("" if written.finished else "  (not finished)"),
            strokes=written.strokes,
            text=written.text,
            attention=written.phi.T,
        )
        for written in samples
    ]
    drawing.sheet(path, rows, title=title)


def one_gaussian(
    train: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    spec: Mapping[str, Any],
    *,
    max_points: int,
) -> float:
    """Nats per held-out point of one Gaussian and one pen-lift rate, fitted to the training lines.

    The trivial predictor that every figure is to be read against, on the same points: offsets are
    normalized, lines cut to `max_points`.
    """

    def points(source: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        strokes = np.concatenate([example["strokes"][:max_points] for example in source])
        strokes = strokes.astype(np.float64)
        return (strokes[:, :2] - spec["offset_mean"]) / spec["offset_std"], strokes[:, 2]

    offsets, lifts = points(train)
    mean, covariance, rate = offsets.mean(axis=0), np.cov(offsets.T, bias=True), lifts.mean()
    offsets, lifts = points(held_out)
    centered = offsets - mean
    distance = np.einsum("nj,jk,nk->n", centered, np.linalg.inv(covariance), centered)
    gaussian = 0.5 * distance.mean() + 0.5 * np.linalg.slogdet(2 * math.pi * covariance)[1]
    lift = lifts.mean()
    return float(gaussian - lift * np.log(rate) - (1 - lift) * np.log1p(-rate))


def with_other_text(source: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each example with the text of the next one (the last: of the first) beside its own."""
    texts = [example["text"] for example in source]
    others = texts[1:] + texts[:1]
    return [{**source[i], "other_text": other} for i, other in enumerate(others)]


def collate_lines(
    examples: Sequence[Mapping[str, Any]],
    spec: Mapping[str, Any],
    *,
    max_points: int,
    max_letters: int,
) -> dict[str, np.ndarray]:
    """Lines as one batch: offsets normalized, cut to the first `max_points`, padded behind.

    Returns:
      strokes (B, T, 3) float32, mask (B, T) bool, text (B, U) int32, text_mask (B, U) bool; and
      other_text, other_text_mask where the examples have another text.
    """
    mean, std = np.asarray(spec["offset_mean"]), np.asarray(spec["offset_std"])
    strokes = np.zeros((len(examples), max_points, 3), np.float32)
    mask = np.zeros((len(examples), max_points), bool)
    for row, example in enumerate(examples):
        points = example["strokes"][:max_points]
        strokes[row, : len(points), :2] = (points[:, :2] - mean) / std
        strokes[row, : len(points), 2] = points[:, 2]
        mask[row, : len(points)] = True
    batch = {"strokes": strokes, "mask": mask}
    for key in ("text", "other_text"):
        if key in examples[0]:
            text = np.zeros((len(examples), max_letters), np.int32)
            text_mask = np.zeros((len(examples), max_letters), bool)
            for row, example in enumerate(examples):
                letters = encode(example[key], spec["alphabet"])[:max_letters]
                text[row, : len(letters)] = letters
                text_mask[row, : len(letters)] = True
            batch |= {key: text, f"{key}_mask": text_mask}
    return batch


def collate_segments(
    examples: Sequence[Mapping[str, Any]],
    segments: Sequence[Any],
    spec: Mapping[str, Any],
    *,
    length: int,
    max_letters: int,
) -> dict[str, np.ndarray]:
    """As `collate_lines`, of one segment (see `lnjax.data.segments`) of each line.

    Returns:
      strokes (B, length, 3) and mask (B, length) of the segments, text and text_mask of the whole
      lines; before (B, 3) float32, the point that each follows, zeros where its line begins; and
      start (B,) bool, True there.
    """

    def points(bounds: Sequence[tuple[int, int]], width: int) -> dict[str, np.ndarray]:
        cut = [
            {**example, "strokes": example["strokes"][first:end]}
            for example, (first, end) in zip(examples, bounds, strict=True)
        ]
        return collate_lines(cut, spec, max_points=width, max_letters=max_letters)

    batch = points([(segment.first, segment.end) for segment in segments], length)
    before = points([(max(segment.first - 1, 0), segment.first) for segment in segments], 1)
    start = np.array([segment.start for segment in segments])
    return {**batch, "before": before["strokes"][:, 0], "start": start}

"""Writing a text with a trained network: one point at a time, until the window leaves the text.

Graves (2013), Section 5.3-5.4. A line is finished when the window's weight on the place after the
last letter exceeds that on every letter: phi(t, U + 1) > phi(t, u) for all u <= U.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.typing import Array, Params, PRNGKey
from tasks.handwriting import mixture
from tasks.handwriting.network import Carry, SynthesisNetwork

if TYPE_CHECKING:
    from tasks.handwriting import HandwritingTask

# Written at every evaluation. None of these lines is in a data set.
SHEET_TEXTS = (
    "the norm of a layer",
    "Jumping wizards quickly",
    "vex a dozen foxes",
    "Gain one, bias zero.",
)

PACE_MARGIN = 3.0  # a line is given up after this many times the points of it and one more letter
TEXT_MULTIPLE = 16  # texts are padded to a multiple of this, so that few programs are compiled


class Written(NamedTuple):
    """One written line."""

    text: str
    strokes: np.ndarray  # (T, 3) float32 raw offsets and pen lifts
    phi: np.ndarray  # (T, U) float32 where the window stood at each point
    finished: bool  # False: given up, see PACE_MARGIN


def check_texts(texts: Sequence[str], alphabet: str) -> None:
    """Refuses what the network has never seen.

    Raises:
      ValueError: no text, an empty one, or a character outside `alphabet`; the known characters
        are listed.
    """
    if not texts or not all(text.strip() for text in texts):
        raise ValueError("there is no text to write: every line needs at least one character")
    unknown = sorted({letter for text in texts for letter in text} - set(alphabet))
    if unknown:
        raise ValueError(
            f"cannot write {', '.join(map(repr, unknown))}: known are the characters"
            f" {''.join(sorted(alphabet))!r}"
        )


def write(
    task: "HandwritingTask",
    params: Params,
    rng: PRNGKey,
    texts: Sequence[str],
    *,
    bias: float = 0.0,
) -> list[Written]:
    """Writes each of `texts` on a line of its own; the lines are sampled side by side.

    Args:
      bias: 0 is the network's own variety; 0.5 to 2 is neater (Graves' "biased sampling").

    Raises:
      ValueError: see `check_texts`; or `bias` is negative.
    """
    check_texts(texts, task.alphabet)
    if not bias >= 0:
        raise ValueError(f"bias={bias} must be 0 (as learned) or larger (neater)")
    lengths = np.array([len(text) for text in texts], np.int32)
    width = -(-int(lengths.max()) // TEXT_MULTIPLE) * TEXT_MULTIPLE
    letters = np.zeros((len(texts), width), np.int32)
    for row, text in enumerate(texts):
        letters[row, : len(text)] = task.encode(text)
    limits = np.ceil((lengths + 1) * task.points_per_letter * PACE_MARGIN).astype(np.int32)
    points, phi, num_points, finished = jax.device_get(
        _write(
            params,
            rng,
            letters,
            lengths,
            limits,
            bias,
            network=task.network,
            sigma_floor=task.sigma_floor,
            max_points=math.ceil((width + 1) * task.points_per_letter * PACE_MARGIN),
        )
    )
    mean, std = np.asarray(task.offset_mean), np.asarray(task.offset_std)
    written = []
    for row, text in enumerate(texts):
        strokes = points[: num_points[row], row].astype(np.float32)
        strokes[:, :2] = strokes[:, :2] * std + mean
        row_phi = phi[: num_points[row], row, : len(text)]
        written.append(Written(text, strokes, row_phi, bool(finished[row])))
    return written


class _Loop(NamedTuple):
    time: Array  # () int32
    carry: Carry
    point: Array  # (B, 3) the last one written
    finished: Array  # (B,) bool
    points: Array  # (max_points, B, 3)
    phi: Array  # (max_points, B, U)
    num_points: Array  # (B,) int32


@partial(jax.jit, static_argnames=("network", "sigma_floor", "max_points"))
def _write(
    params: Params,
    rng: PRNGKey,
    letters: Array,
    lengths: Array,
    limits: Array,
    bias: Array,
    *,
    network: SynthesisNetwork,
    sigma_floor: float,
    max_points: int,
) -> tuple[Array, Array, Array, Array]:
    batch, width = letters.shape

    def active(loop: _Loop) -> Array:
        return ~loop.finished & (loop.time < limits)

    text_mask = jnp.arange(width)[None, :] < lengths[:, None]

    def body(loop: _Loop) -> _Loop:
        carry, outputs = network.apply(
            {"params": params}, loop.carry, loop.point[None], letters, text_mask
        )
        phi = outputs.phi[0]
        after = jnp.take_along_axis(phi, lengths[:, None], axis=1)[:, 0]
        on_text = jnp.max(jnp.where(text_mask, phi[:, :-1], -1.0), axis=1)
        # All weights are zero where the window has jumped far beyond the text.
        left = (after > on_text) | (jnp.min(carry.kappa, axis=1) > lengths + 1)
        finished = loop.finished | (active(loop) & left)
        density = mixture.from_outputs(outputs.mixture[0], sigma_floor)
        point = mixture.sample(density, jax.random.fold_in(rng, loop.time), bias)
        return _Loop(
            time=loop.time + 1,
            carry=carry,
            point=point,
            finished=finished,
            points=loop.points.at[loop.time].set(point),
            phi=loop.phi.at[loop.time].set(phi[:, :-1]),
            num_points=loop.num_points + (active(loop) & ~finished),
        )

    start = _Loop(
        time=jnp.zeros((), jnp.int32),
        carry=network.initial_carry(batch),
        point=jnp.zeros((batch, 3)),
        finished=jnp.zeros(batch, bool),
        points=jnp.zeros((max_points, batch, 3)),
        phi=jnp.zeros((max_points, batch, width)),
        num_points=jnp.zeros(batch, jnp.int32),
    )
    end = jax.lax.while_loop(lambda loop: jnp.any(active(loop)), body, start)
    return end.points, end.phi, end.num_points, end.finished

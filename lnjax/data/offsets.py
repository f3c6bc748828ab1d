"""Pen points as offsets: the form in which every handwriting source stores a line."""

import numpy as np


def to_offsets(points: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Differences of neighbouring points: (n, 2) and (n,) bool -> (n - 1, 3) float32 [dx, dy, end
    of stroke].

    Row t leads from point t to point t + 1; its flag is 1 where point t + 1 is the last of its
    stroke. The first point is the origin. y grows downward.
    """
    return np.column_stack([np.diff(points, axis=0), last[1:]]).astype(np.float32)

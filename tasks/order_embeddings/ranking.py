"""Recall and ranks of retrieval: NumPy, on the distances of all captions and all images.

Image i has the captions K i to K i + K - 1. A rank is the number of those that are nearer than what
is looked for, so 0 is best; equally near counts as nearer (argsort, which the paper's code has,
leaves it to chance), and so does what is no number.
"""

from collections.abc import Iterable, Mapping

import numpy as np

CUTOFFS = (1, 5, 10)


def image_ranks(distance: np.ndarray) -> np.ndarray:
    """For every caption the rank of its image: distance (K I, I) -> (K I,) int64."""
    num_captions, num_images = distance.shape
    own = np.arange(num_captions) // (num_captions // num_images)
    sought = distance[np.arange(num_captions), own]
    return np.sum(~(distance > sought[:, None]), axis=1) - 1  # without itself


def caption_ranks(distance: np.ndarray) -> np.ndarray:
    """For every image the rank of the best of its captions: distance (K I, I) -> (I,) int64."""
    num_captions, num_images = distance.shape
    each = num_captions // num_images
    own = np.arange(num_captions) // each == np.arange(num_images)[:, None]  # (I, K I)
    by_image = distance.T
    sought = by_image[own].reshape(num_images, each).min(axis=1)
    return np.sum(~(by_image > sought[:, None]) & ~own, axis=1)


def summary(ranks: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10 as shares, median (rounded down) and mean rank counted from 1."""
    recalls = {f"recall_at_{k}": float(np.mean(ranks < k)) for k in CUTOFFS}
    return {
        **recalls,
        "median_rank": float(np.floor(np.median(ranks)) + 1),
        "mean_rank": float(np.mean(ranks) + 1),
    }


def retrieval(distance: np.ndarray) -> dict[str, float]:
    """Both ways, `image/...` the images that captions find, and `selection`.

    The paper's code keeps the model with the best selection: the sum of the images' recalls.

    Raises:
      ValueError: there are not as many captions for each image.
    """
    num_captions, num_images = distance.shape
    if num_captions < num_images or num_captions % num_images:
        raise ValueError(f"{num_captions} captions of {num_images} images: expected a multiple")
    images, captions = summary(image_ranks(distance)), summary(caption_ranks(distance))
    return {
        **{f"image_{name}": value for name, value in images.items()},
        **{f"caption_{name}": value for name, value in captions.items()},
        "selection": sum(images[f"recall_at_{k}"] for k in CUTOFFS),
    }


def mean(folds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over folds."""
    rows = list(folds)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

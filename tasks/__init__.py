"""The paper's experiments: each exports ``make_data(config)`` and ``make_task(config, spec)``."""

import importlib
import pkgutil
from types import ModuleType


def load(name: str) -> ModuleType:
    """The module of the task called `name`.

    Raises:
      ValueError: there is none; the message lists those there are.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise ValueError(f"there is no task {name!r}; known: {', '.join(known)}")
    return importlib.import_module(f"tasks.{name}")

"""Checks of a config's keys that several tasks have, before anything is made of them."""

from collections.abc import Iterable, Mapping
from typing import Any


def check_dtype(config: Any) -> None:
    """Refuses a `dtype` that products cannot have.

    Raises:
      ValueError: it is neither "float32" nor "bfloat16".
    """
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={config.dtype!r} is not known; there are 'float32' and 'bfloat16'")


def check_positive(config: Any, keys: Iterable[str]) -> None:
    """Refuses numbers of something that are none.

    Raises:
      ValueError: naming the first of `keys` whose value is not positive.
    """
    for key in keys:
        if config[key] <= 0:
            raise ValueError(f"{key}={config[key]} must be positive")


def check_least(config: Any, least: Mapping[str, int]) -> None:
    """Refuses numbers that are too small.

    Raises:
      ValueError: naming the first key of `least` whose value is below what stands there.
    """
    for key, number in least.items():
        if config[key] < number:
            raise ValueError(f"{key}={config[key]} must be at least {number}")

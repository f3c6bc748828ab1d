"""Checks of a config's keys that several tasks have, before anything is made of them."""

from collections.abc import Iterable, Mapping
from typing import Any

DTYPES = ("float32", "bfloat16")  # of products and activations


def check_dtype(config: Any) -> None:
    """Refuses a `dtype` that products cannot have.

    Parameters, optimizer state and statistics are float32 with each of DTYPES. float16 is none of
    them: a gradient spans more than its range, so it would need the loss scaled up and down again
    as training goes on, which no link here does; bfloat16 has the range of float32.

    Raises:
      ValueError: it is neither "float32" nor "bfloat16".
    """
    if config.dtype not in DTYPES:
        there_are = " and ".join(map(repr, DTYPES))
        why = ""
        if config.dtype == "float16":
            why = " (float16 ends at 65504 and would need the loss scaled; bfloat16 does not)"
        raise ValueError(f"dtype={config.dtype!r} is not known; there are {there_are}{why}")


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

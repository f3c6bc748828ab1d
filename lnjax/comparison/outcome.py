"""How a run of a comparison ended: `outcome.json` in its folder, the last thing that is written.

A run that has one is finished, and is never trained again.
"""

import os
import pathlib
from typing import Literal, NamedTuple, get_args

from lnjax.training import manifest

Status = Literal["done", "not finite"]
_FILE = "outcome.json"


class Outcome(NamedTuple):
    """The end of a run."""

    status: Status
    step: int  # the last one, or the one at which it was seen not to be finite
    together: int  # how many seeds were trained at once; seconds are each one's share


def record(folder: pathlib.Path, status: Status, step: int, *, together: int) -> None:
    """Makes the run in `folder` a finished one."""
    manifest.write_json(folder / _FILE, Outcome(status, step, together)._asdict())


def read(folder: pathlib.Path) -> Outcome | None:
    """How the run in `folder` ended; None if it has not.

    Raises:
      ValueError: the file is damaged.
    """
    path = folder / _FILE
    if not os.path.lexists(path):
        return None
    cure = "delete it, and the run goes on from its checkpoint"
    found = manifest.read_json(path, cure)
    try:
        ended = Outcome(**found)
    except TypeError as error:
        raise ValueError(f"{path} is damaged ({error}); {cure}") from None
    if ended.status not in get_args(Status) or {type(ended.step), type(ended.together)} != {int}:
        raise ValueError(f"{path} is damaged ({tuple(ended)}); {cure}")
    return ended

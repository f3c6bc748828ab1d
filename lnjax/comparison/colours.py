"""The colour and the dashes of an arm, the same in every figure and page.

A norm keeps its colour through the whole project (`lnjax.palette`); the others are of that palette.
"""

from collections.abc import Sequence

from lnjax.comparison.results import Json
from lnjax.palette import NORMS

# In the order of the publication, without black, the text's, and yellow, too light on white
OTHERS = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7")

# Lengths of dash and gap, in turn, in units of about a pixel; () is one line without gaps
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 4), (9, 3, 2, 3), (2, 3))


def colour(arm: Json, index: int) -> str:
    """The colour of an arm of a record, "#rrggbb": of its norm, or else of its place.

    >>> colour({"changes": {"norm": "layer"}}, 3), colour({"changes": {"features": "8"}}, 1)
    ('#0072b2', '#56b4e9')
    """
    return NORMS.get(arm["changes"].get("norm", ""), OTHERS[index % len(OTHERS)])


def dashes(arms: Sequence[Json]) -> list[tuple[int, ...]]:
    """The dashes of each arm, one of `DASHES`: they tell apart the arms that share a colour.

    >>> dashes([{"changes": {"norm": norm}} for norm in ("layer", "none", "layer")])
    [(), (), (7, 4)]
    """
    used = [colour(arm, index) for index, arm in enumerate(arms)]
    return [DASHES[used[:index].count(own) % len(DASHES)] for index, own in enumerate(used)]

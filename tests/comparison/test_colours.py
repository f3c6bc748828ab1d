"""Arms can be told apart, and a norm looks the same wherever it is."""

import itertools

import pytest

from lnjax.comparison import colours
from tests.comparison import records


def arms(*changes: dict[str, str]) -> list[records.Json]:
    return [records.arm(each, []) for each in changes]


def test_a_norm_keeps_its_colour_wherever_it_stands():
    for index in range(20):
        for norm, value in colours.NORMS.items():
            (arm,) = arms({"batch_size": "4", "norm": norm})
            assert colours.colour(arm, index) == value


@pytest.mark.parametrize(
    "changes",
    [
        [{"norm": norm} for norm in colours.NORMS],
        [
            {"norm": norm, "batch_size": size}
            for norm, size in itertools.product(colours.NORMS, ("128", "16", "4"))
        ],
        [{"features": str(width)} for width in range(24)],
        # norms without a colour of their own take those of others
        [{"norm": norm} for norm in ("layer", "none", "batch", "a", "b", "rms", "c", "d")],
    ],
)
def test_no_two_arms_look_alike(changes):
    made = arms(*changes)
    looks = [
        (colours.colour(arm, index), dashes)
        for index, (arm, dashes) in enumerate(zip(made, colours.dashes(made), strict=True))
    ]
    assert len(set(looks)) == len(made)


def test_lines_have_gaps_only_where_colours_repeat():
    made = arms({"norm": "layer"}, {"norm": "none"}, {"features": "8"}, {"norm": "layer"})
    assert colours.dashes(made) == [(), (), (), colours.DASHES[1]]

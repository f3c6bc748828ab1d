"""The colour of each norm, the same in every figure and page of the project.

From the palette of Okabe and Ito, "Color Universal Design" (2008), which people with any kind of
colour vision can tell apart; batch norm everywhere has a dark brown, near batch norm and darker.
"""

NORMS = {
    "layer": "#0072b2",
    "rms": "#009e73",
    "batch": "#d55e00",
    "weight": "#cc79a7",
    "group": "#56b4e9",
    "instance": "#e69f00",
    "none": "#555555",
    "batch_everywhere": "#7f3b08",
}

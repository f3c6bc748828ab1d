"""Knobs for a figure in a notebook: sliders where a person can turn them, the figure where not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def turn(draw: Callable[..., Any], **knobs: Sequence[Any]) -> None:
    """Shows the figure that `draw` makes, under one slider per knob.

    The figure is an output of the cell in its own right: it stays when the notebook is printed,
    exported, or opened where there is no kernel, and it is all there is without ipywidgets. With
    them, a slider draws it again.

    Args:
      draw: called with one value for each knob, by name; returns what the notebook can display.
      **knobs: the values of each knob, in order. The first figure is of the first values.

    Raises:
      ValueError: a knob has no values.

    >>> turn(lambda scale: 2.0 * scale, scale=[1, 10, 100])
    2.0
    """
    for name, values in knobs.items():
        if len(values) == 0:
            raise ValueError(f"turn: the knob {name!r} has no values; expected at least one")
    from IPython.display import display

    first = {name: values[0] for name, values in knobs.items()}
    sliders = _sliders(knobs)
    if not sliders:
        display(draw(**first))
        return
    from ipywidgets import VBox

    display(VBox(list(sliders.values())))
    shown = display(draw(**first), display_id=True)

    def redraw(_: Any) -> None:
        shown.update(draw(**{name: slider.value for name, slider in sliders.items()}))

    for slider in sliders.values():
        slider.observe(redraw, names="value")


def _sliders(knobs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """One slider per knob; none of them where ipywidgets or a kernel is missing."""
    try:
        from IPython import get_ipython
        from ipywidgets import SelectionSlider
    except ImportError:
        return {}
    if getattr(get_ipython(), "kernel", None) is None:
        return {}
    return {
        # Drawing takes a moment: once, when the slider is let go
        name: SelectionSlider(options=list(values), description=name, continuous_update=False)
        for name, values in knobs.items()
    }

"""Knobs of a figure: what is shown with ipywidgets, without them, and when one is turned."""

import sys
from types import SimpleNamespace

import pytest

from lnjax.analysis.controls import turn


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order; an update replaces the display that it belongs to."""
    values = []

    def display(value, display_id=False):
        values.append(value)
        place = len(values) - 1

        def update(new):
            values[place] = new

        return SimpleNamespace(update=update) if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    return values


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))


def test_without_a_kernel_the_first_figure_is_shown(shown):
    turn(lambda a, b: (a, b), a=[1, 2], b=[3, 4])
    assert shown == [(1, 3)]


def test_without_ipywidgets_the_first_figure_is_shown(shown, kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    turn(lambda a, b: (a, b), a=[1, 2], b=[3, 4])
    assert shown == [(1, 3)]


def test_a_knob_draws_the_figure_again(shown, kernel):
    turn(lambda a, b: (a, b), a=[1, 2], b=[3, 4])
    sliders, figure = shown
    assert figure == (1, 3)
    sliders.children[1].value = 4
    assert shown[1:] == [(1, 4)]
    sliders.children[0].value = 2
    assert shown[1:] == [(2, 4)]


def test_a_knob_without_values_is_refused(shown):
    with pytest.raises(ValueError, match="knob 'b' has no values"):
        turn(lambda a, b: None, a=[1], b=[])
    assert not shown

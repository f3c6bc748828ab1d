"""Tables of what was measured: arrays with names to rows and columns, which print readably."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class InvarianceTable:
    """How much the outputs of each model change under each transformation.

    ``print(table)`` shows it; a notebook shows it as a table of its own.

    Attributes:
      rows: R names of models.
      columns: C names of transformations.
      change: (R, C) float64, the largest absolute change of any output, in units of that output;
        inf where the outputs became infinite or NaN.
      tolerance: up to which change an entry counts as invariant.

    >>> change = np.array([[2e-15, 0.7], [3e-15, float("inf")]])
    >>> table = InvarianceTable(("layer norm", "no norm"), ("re-scaling", "shift"), change, 1e-12)
    >>> table["layer norm", "shift"], table.invariant.tolist()
    (0.7, [[True, False], [True, False]])
    >>> print(table)
                re-scaling       shift
    layer norm  Invariant 2e-15  No 0.7
    no norm     Invariant 3e-15  No inf
    <BLANKLINE>
    Invariant: no output changes by more than 1e-12; the number is the largest change.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    change: np.ndarray
    tolerance: float

    @property
    def invariant(self) -> np.ndarray:
        """(R, C) bool: where the change is not above the tolerance."""
        return self.change <= self.tolerance

    def __getitem__(self, entry: tuple[str, str]) -> float:
        """The change in one (row, column), by their names."""
        row, column = entry
        for kind, name, names in (("row", row, self.rows), ("column", column, self.columns)):
            if name not in names:
                raise KeyError(f"no {kind} {name!r}; there are {', '.join(map(repr, names))}")
        return float(self.change[self.rows.index(row), self.columns.index(column)])

    def word(self, row: int, column: int) -> str:
        """What Table 1 of the paper would say there: "Invariant" or "No"."""
        return "Invariant" if self.invariant[row, column] else "No"

    def _cells(self) -> list[list[str]]:
        return [
            [f"{self.word(r, c)} {number(change)}" for c, change in enumerate(changes)]
            for r, changes in enumerate(self.change)
        ]

    def _note(self) -> str:
        return (
            f"Invariant: no output changes by more than {self.tolerance:g}; the number is the"
            " largest change."
        )

    def __str__(self) -> str:
        return f"{text(self.columns, self.rows, self._cells())}\n\n{self._note()}"

    def __repr__(self) -> str:
        shape = f"{len(self.rows)} rows, {len(self.columns)} columns"
        return f"InvarianceTable({shape}, tolerance={self.tolerance:g})"

    def _repr_markdown_(self) -> str:
        cells = [
            [f"**{cell}**" if cell.startswith("Invariant") else cell for cell in row]
            for row in self._cells()
        ]
        return f"{markdown(self.columns, self.rows, cells)}\n\n{self._note()}"


def number(change: float) -> str:
    """Two digits of what is large enough to be looked at, one of what is rounding.

    >>> number(14.3), number(0.741), number(2.2e-15), number(0.0)
    ('14', '0.74', '2e-15', '0')
    """
    return f"{change:.2g}" if 1e-2 <= change < 99.5 else f"{change:.1g}"


def heading(column: str) -> list[str]:
    """The lines of a heading.

    >>> heading("weight matrix re-scaling")
    ['weight matrix', 're-scaling']
    """
    return textwrap.wrap(column, 16, break_long_words=False, break_on_hyphens=False)


def text(columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, with headings in as many lines as they need."""
    wrapped = [[""], *map(heading, columns)]
    height = max(map(len, wrapped))
    headings = [[""] * (height - len(words)) + words for words in wrapped]
    body = [[row, *values] for row, values in zip(rows, cells, strict=True)]
    lines = [*map(list, zip(*headings, strict=True)), *body]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table as GitHub and Jupyter read it."""
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *values] for row, values in zip(rows, cells, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Draws the robust accuracy against the radius with characters, for a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from robustbench_cli.core.escaping import escaped_for_terminal

if TYPE_CHECKING:
    from rich.text import Text

    from robustbench_cli.benchmarks.reports.curves import RadiusCurve

__all__ = ["radius_plots"]

_ROWS = 17
"""The rows of a plot: one for 100 %, and four for each quarter below."""

_COLORS = ("blue", "red", "green", "magenta", "cyan", "yellow")


@dataclass(frozen=True)
class _Characters:
    """The characters of a drawing.

    Attributes:
        markers: Those of the points, one for each model.
        axes: The vertical axis, its ticks, the corner, and the horizontal axis with its ticks.
        dots: The dots of a line in one cell, two across and four down; without them a line has one character.
        line: That character.
    """

    markers: str
    axes: tuple[str, str, str, str, str]
    dots: bool
    line: str


_UNICODE = _Characters("●■▲◆○□△◇", ("│", "┤", "└", "─", "┴"), dots=True, line="")
_ASCII = _Characters("ox#*+@%&", ("|", "+", "+", "-", "+"), dots=False, line=".")

_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character's dots, by row and column."""


def radius_plots(curves: Sequence[RadiusCurve], *, width: int, unicode: bool) -> Text:
    """Plots of robust accuracies in percent, one for each setting and norm.

    Args:
        curves: The curves; those of one plot come one after another.
        width: The number of characters in a line.
        unicode: Whether the output can show other characters than ASCII.
    """
    from rich.text import Text

    characters = _UNICODE if unicode else _ASCII
    text = Text()
    for (setting, norm), of_plot in groupby(curves, lambda curve: (curve.setting, curve.norm)):
        text.append(f"\n robust accuracy (%) against the radius in {norm}: {escaped_for_terminal(setting)}\n\n")
        for part, style in _plot(list(of_plot), width, characters):
            text.append(part, style)
    return text


def _plot(curves: Sequence[RadiusCurve], width: int, characters: _Characters) -> Iterator[tuple[str, str]]:
    """The parts of a plot, each with its style."""
    columns = max(width - 8, 20)
    largest = max(curve.eps[-1] for curve in curves)
    cells = _cells(curves, columns, largest, characters)
    vertical, tick, corner, horizontal, mark = characters.axes
    for row in range(_ROWS):
        is_tick = row % 4 == 0
        yield f" {100 - 25 * row // 4:3d} " if is_tick else "     ", ""
        yield tick if is_tick else vertical, ""
        for column in range(columns):
            yield cells.get((row, column), (" ", ""))
        yield "\n", ""
    texts = {
        _column(eps, columns, largest): text
        for curve in curves
        for eps, text in zip(curve.eps, curve.eps_text, strict=True)
    }
    yield "     " + corner + "".join(mark if column in texts else horizontal for column in range(columns)) + "\n", ""
    yield _labels(texts, columns) + "\n\n", ""
    for number, curve in enumerate(curves):
        yield f"   {_marker(number, characters)} ", _color(number)
        yield f"{escaped_for_terminal(curve.label)}\n", ""


def _cells(
    curves: Sequence[RadiusCurve], columns: int, largest: float, characters: _Characters
) -> dict[tuple[int, int], tuple[str, str]]:
    """The character and the style of each cell that is not empty, by row and column; the first curve is on top."""
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    bits: dict[tuple[int, int], int] = {}
    for number, curve in reversed(list(enumerate(curves))):
        points = [
            (2 * _column(eps, columns, largest), 4 * (_ROWS - 1) * (1 - accuracy.value))
            for eps, accuracy in zip(curve.eps, curve.accuracy, strict=True)
        ]
        for x, y in _line(points):
            cell = y // 4, x // 2
            bits[cell] = bits.get(cell, 0) | _BRAILLE[y % 4][x % 2]
            cells[cell] = chr(0x2800 + bits[cell]) if characters.dots else characters.line, _color(number)
    for number, curve in reversed(list(enumerate(curves))):
        for eps, accuracy in zip(curve.eps, curve.accuracy, strict=True):
            row = round((_ROWS - 1) * (1 - accuracy.value))
            cells[row, _column(eps, columns, largest)] = _marker(number, characters), _color(number)
    return cells


def _line(points: Sequence[tuple[int, float]]) -> Iterator[tuple[int, int]]:
    """The dots of a line through points."""
    for (left, start), (right, end) in pairwise(points):
        steps = max(right - left, round(abs(end - start)), 1)
        for step in range(steps + 1):
            share = step / steps
            # Half a cell lower, where the middle of a marker is.
            yield round(left + share * (right - left)), round(start + share * (end - start)) + 1


def _column(eps: float, columns: int, largest: float) -> int:
    return round((columns - 1) * eps / largest)


def _labels(texts: dict[int, str], columns: int) -> str:
    """The radii below the horizontal axis, those left out that would touch another."""
    line = ""
    for column, text in sorted(texts.items()):
        start = 6 + column - len(text) // 2
        if start > len(line) and start + len(text) <= columns + 8:
            line = line.ljust(start) + escaped_for_terminal(text)
    return line


def _marker(number: int, characters: _Characters) -> str:
    return characters.markers[number % len(characters.markers)]


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]

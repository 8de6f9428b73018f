"""Draws SVG elements: every text is escaped, and colors are classes of the page's style sheet."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from robustbench_cli.core.escaping import escaped_for_terminal

__all__ = [
    "Axis",
    "circle",
    "drawing",
    "element",
    "group",
    "line",
    "marker",
    "markup",
    "path",
    "rectangle",
    "shortened",
    "text",
    "ticks",
]

_MOST_CHARACTERS = 120


def shortened(words: str, *, most: int = _MOST_CHARACTERS) -> str:
    """A text from a file in one line, without control characters, cut off where it is long.

    Args:
        words: Any text.
        most: The largest number of characters.

    >>> shortened("abcdef", most=4)
    'abc…'
    """
    line = escaped_for_terminal(words[: most + 1])
    return line if len(line) <= most and len(words) <= most else f"{line[: most - 1]}…"


def element(name: str, *children: ET.Element, words: str | None = None, **attributes: object) -> ET.Element:
    """An SVG element.

    Args:
        name: The tag.
        *children: The elements inside.
        words: The text inside.
        **attributes: Its attributes; ``cls`` is ``class``, an underscore is a hyphen, and numbers are rounded.
    """
    named = {key.replace("cls", "class").replace("_", "-"): _value(value) for key, value in attributes.items()}
    made = ET.Element(name, {key: value for key, value in named.items() if value})
    made.text = None if words is None else shortened(words)
    made.extend(children)
    return made


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escaped_for_terminal(str(value))


def drawing(
    number: str, title: str, description: str, size: tuple[float, float], children: Iterable[ET.Element]
) -> Markup:
    """An SVG picture with a title and a description for those who do not see it.

    Args:
        number: Different for each picture of a page.
        title: What the picture shows.
        description: What can be seen in it.
        size: Width and height.
        children: The elements.
    """
    width, height = size
    names = f"{number}t {number}d"
    root = element(
        "svg",
        element("title", words=title, id=f"{number}t"),
        element("desc", id=f"{number}d"),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=names,
    )
    root[1].text = escaped_for_terminal(description)
    return markup(root)


def markup(root: ET.Element) -> Markup:
    """An element as text for a template, which does not escape it again."""
    # ElementTree has escaped all texts and attributes.
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704


def text(words: str, x: float, y: float, *, cls: str = "", anchor: str = "start") -> ET.Element:
    """A line of text at a point.

    Args:
        words: The text.
        x: The point.
        y: The base line.
        cls: The class.
        anchor: Which end of the text is at the point: start, middle or end.
    """
    return element("text", words=words, x=float(x), y=float(y), cls=cls, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> ET.Element:
    """A straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), cls=cls)


def rectangle(x: float, y: float, width: float, height: float, cls: str) -> ET.Element:
    """A rectangle."""
    return element("rect", x=float(x), y=float(y), width=float(max(width, 0)), height=float(height), cls=cls)


def circle(x: float, y: float, radius: float, cls: str) -> ET.Element:
    """A circle."""
    return element("circle", cx=float(x), cy=float(y), r=float(radius), cls=cls)


def path(points: Sequence[tuple[float, float]], cls: str, *, closed: bool = False) -> ET.Element:
    """A line through points, or the area inside."""
    commands = "L".join(f"{_value(float(x))} {_value(float(y))}" for x, y in points)
    return element("path", d=f"M{commands}{'Z' if closed else ''}", cls=cls)


def marker(shape: int, x: float, y: float, cls: str) -> ET.Element:
    """A small mark of one of six shapes, so that colors are not the only difference.

    Args:
        shape: The number of the shape; any integer.
        x: The center.
        y: The center.
        cls: The class.
    """
    corners = _SHAPES[shape % len(_SHAPES)]
    if not corners:
        return circle(x, y, 3.6, cls)
    return path([(x + a, y + b) for a, b in corners], cls, closed=True)


_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)),
    ((0, -4.6), (4.4, 3.2), (-4.4, 3.2)),
    ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)),
    ((0, 4.6), (4.4, -3.2), (-4.4, -3.2)),
    ((-4.4, -1.6), (4.4, -1.6), (4.4, 1.6), (-4.4, 1.6)),
)


def group(*children: ET.Element, cls: str = "") -> ET.Element:
    """Some elements as one."""
    return element("g", *children, cls=cls)


class Axis:
    """A linear scale from values to the drawing.

    Args:
        values: The first and the last value.
        places: Where these are in the drawing.
    """

    def __init__(self, values: tuple[float, float], places: tuple[float, float]) -> None:
        self._low, high = values
        self._start, end = places
        self._scale = (end - self._start) / ((high - self._low) or 1)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._scale


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round values that cover a range.

    Args:
        low: The smallest value.
        high: The largest value.
        most: The largest number of steps.

    >>> ticks(0.32, 0.91)
    [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    """
    span = (high - low) or 1.0
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor * most >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]

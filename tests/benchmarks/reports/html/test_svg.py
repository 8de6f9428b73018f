from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest

from robustbench_cli.benchmarks.reports.html import svg
from robustbench_cli.benchmarks.reports.html.svg import Axis, shortened, ticks


@pytest.mark.parametrize("words", ["short", "x" * 200, "\x1b[31m" * 100, "\u202e" * 200, ""])
def test_a_text_is_one_short_printable_line(words: str) -> None:
    """Cut off with a sign where it is long, and as it is where it is not."""
    line = shortened(words, most=50)
    assert len(line) <= 50
    assert line.isprintable()
    assert (line == words) == (words in {"short", ""})
    assert line.endswith("…") == (len(words) > 50)


def test_a_drawing_is_xml_that_says_what_it_shows() -> None:
    """A title and a description, by which it is labelled; markup in a text stays text."""
    hostile = "<script>\"'&\x00"
    drawn = svg.drawing("p1", hostile, "a & b", (10, 20), [svg.text(hostile, 1, 2, cls=hostile)])
    root = ET.fromstring(str(drawn))
    assert (root.get("role"), root.get("aria-labelledby"), root.get("viewBox")) == ("img", "p1t p1d", "0 0 10 20")
    assert [(child.tag, child.get("id")) for child in root] == [("title", "p1t"), ("desc", "p1d"), ("text", None)]
    assert root[1].text == "a & b"
    assert root[2].text == "<script>\"'&\\x00"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.32, 0.91), (0.5, 0.5), (-3.0, 12.0), (0.9996, 1.0)])
def test_ticks_cover_the_range_in_equal_steps(low: float, high: float) -> None:
    """Few of them, and no step more than needed."""
    values = ticks(low, high)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(values)}
    assert len(steps) <= 1
    assert values[0] <= low + 1e-9 and values[-1] >= high - 1e-9
    assert len(values) <= 9
    if len(values) > 2:
        assert values[1] > low - 1e-9 and values[-2] < high + 1e-9


def test_an_axis_is_linear() -> None:
    """Its ends are where they were put, also where there is only one value."""
    place = Axis((0, 4), (100, 20))
    assert [place(0), place(1), place(4)] == [100, 80, 20]
    assert math.isfinite(Axis((1, 1), (0, 10))(1))


def test_marks_have_six_shapes() -> None:
    """So that colors are not the only difference."""
    drawn = {str(svg.markup(svg.marker(shape, 5, 5, ""))) for shape in range(7)}
    assert len(drawn) == 6

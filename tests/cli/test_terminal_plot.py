from __future__ import annotations

import re

import pytest

from robustbench_cli.benchmarks.reports.curves import Estimate, RadiusCurve
from robustbench_cli.cli.terminal_plot import radius_plots


def curve(
    label: str, values: tuple[float, ...], eps: tuple[float, ...] = (0.0, 0.1, 0.2), norm: str = "linf"
) -> RadiusCurve:
    return RadiusCurve(
        label=label,
        setting="digits, 100 images",
        norm=norm,
        eps=eps,
        eps_text=tuple(f"{radius:g}" for radius in eps),
        accuracy=tuple(Estimate(value, value, value) for value in values),
        attack=("", *("pgd",) * (len(eps) - 1)),
    )


CURVES = [curve("none", (1.0, 0.5, 0.0)), curve("hrs", (0.75, 0.75, 0.25))]


@pytest.mark.parametrize(("unicode", "markers"), [(True, "●■"), (False, "ox")])
def test_points_are_where_the_numbers_say(unicode: bool, markers: str) -> None:
    """A row is 6.25 points: the first model is in the corners, the second on the lines of 75 and 25 percent."""
    lines = radius_plots(CURVES, width=80, unicode=unicode).plain.split("\n")
    start = next(index for index, line in enumerate(lines) if line.startswith(" 100 "))
    plot = [line[6:] for line in lines[start : start + 17]]
    last = 71
    for marker, points in zip(markers, [[(0, 0), (8, 36), (16, last)], [(4, 0), (4, 36), (12, last)]], strict=True):
        assert [
            (row, column) for row, line in enumerate(plot) for column in range(len(line)) if line[column] == marker
        ] == points
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines if line.startswith("   " + markers[0])] == [[markers[0], "none"]]
    assert re.split(r"\s+", lines[start + 18].strip()) == ["0", "0.1", "0.2"]


def test_ascii_is_enough() -> None:
    """For an output without Unicode; no color is needed to tell the models apart."""
    assert radius_plots(CURVES, width=60, unicode=False).plain.isascii()


def test_each_norm_has_its_plot() -> None:
    """Radii of different norms have no common axis; names from files stay in their line."""
    text = radius_plots([*CURVES, curve("a\nb\x1b[31m", (0.9, 0.1, 0.0), norm="l2")], width=40, unicode=True).plain
    assert text.count(" 100 ┤") == 2
    assert "radius in l2" in text
    assert r"● a\nb\x1b[31m" in text

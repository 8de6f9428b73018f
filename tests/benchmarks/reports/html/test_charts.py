from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from robustbench_cli.benchmarks.reports.curves import Estimate, RadiusCurve
from robustbench_cli.benchmarks.reports.html import charts
from robustbench_cli.benchmarks.reports.trade_offs import Against, TradeOff, TradeOffPoint


def curve(label: str, *shares: float) -> RadiusCurve:
    """A curve with a radius of 1/255, 2/255, … for each share after the clean one."""
    return RadiusCurve(
        label=label,
        setting="digits, 100 images",
        norm="linf",
        eps=tuple(index / 255 for index in range(len(shares))),
        eps_text=tuple(f"{index}/255" if index else "0" for index in range(len(shares))),
        accuracy=tuple(Estimate(share, max(share - 0.1, 0), min(share + 0.1, 1)) for share in shares),
        attack=("", *("pgd" for _ in shares[1:])),
    )


def trade_off(*points: tuple[str, float, float, bool], against: Against = "clean") -> TradeOff:
    """A chart of models, each with its label, its clean accuracy or size, its robust one and whether it is on the front."""
    return TradeOff(
        setting="digits, 100 images",
        threat="linf 0.1",
        points=tuple(
            TradeOffPoint(
                label=label,
                across=Estimate(across, across - 0.02, across + 0.02),
                robust=Estimate(robust, robust - 0.02, robust + 0.02),
                attack="pgd",
                on_front=on_front,
            )
            for label, across, robust, on_front in points
        ),
        against=against,
    )


def places(root: ET.Element, cls: str) -> list[list[tuple[float, float]]]:
    """The points of all paths of a class."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d", ""))]
        for path in root.iter("path")
        if path.get("class") == cls
    ]


def test_a_curve_is_drawn_to_scale() -> None:
    """Radii are equally far apart, accuracies too, and the band is the interval."""
    root = ET.fromstring(charts.radius_chart("p0", [curve("none", 1.0, 0.75, 0.5, 0.25)]))
    (line,) = places(root, "curve s0")
    steps = {(round(b[0] - a[0]), round(b[1] - a[1])) for a, b in itertools.pairwise(line)}
    assert len(steps) == 1
    (band,) = places(root, "band s0")
    unit = (line[1][1] - line[0][1]) / 0.25
    assert band[1][1] == pytest.approx(line[1][1] - 0.1 * unit, abs=0.2)
    assert band[-2][1] == pytest.approx(line[1][1] + 0.1 * unit, abs=0.2)


def test_the_description_has_the_figures() -> None:
    """For those who do not see the chart."""
    root = ET.fromstring(charts.radius_chart("p0", [curve("none", 0.9, 0.5), curve("hrs", 0.8, 0.6)]))
    assert root[1].text == (
        "none: 90.0 % [80.0, 100.0] at 0, 50.0 % [40.0, 60.0] at 1/255; "
        "hrs: 80.0 % [70.0, 90.0] at 0, 60.0 % [50.0, 70.0] at 1/255"
    )


def test_the_front_is_a_staircase() -> None:
    """From each model of the front down and then right to the next one."""
    chart = trade_off(("a", 0.7, 0.6, True), ("b", 0.8, 0.4, True), ("c", 0.75, 0.3, False))
    root = ET.fromstring(charts.trade_off_chart("p0", chart))
    ((a, corner, b, *_),) = places(root, "front")
    assert corner == (a[0], b[1])
    assert a[0] < b[0] and a[1] < b[1]
    assert "a, b." in str(root[1].text)
    marks = [circle.get("class") for circle in root.iter("circle")]
    assert marks == ["point on", "point on", "point off"]


def test_sizes_are_on_a_logarithmic_scale() -> None:
    """Equal ratios are equally far apart, and the line goes right, then up: it is drawn in the opposite corner."""
    chart = trade_off(("a", 10, 0.3, True), ("b", 100, 0.4, True), ("c", 1000, 0.5, True), against="macs")
    root = ET.fromstring(charts.trade_off_chart("p0", chart))
    ((a, corner, b, other, c),) = places(root, "front")
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)
    assert (corner, other) == ((b[0], a[1]), (c[0], b[1]))


def test_labels_do_not_overlap() -> None:
    """A label without room is left out, and those of the front come first."""
    crowd = trade_off(*((f"a rather long label {index}", 0.5 + index / 1e4, 0.5, index == 29) for index in range(30)))
    root = ET.fromstring(charts.trade_off_chart("p0", crowd))
    labels = [text for text in root.iter("text") if str(text.text).startswith("a rather")]
    assert labels[0].text == "a rather long label 29"
    boxes = [(float(text.get("x", "")), float(text.get("y", ""))) for text in labels]
    assert 0 < len(boxes) < 30
    for index, (x, y) in enumerate(boxes):
        assert all(abs(x - a) > 100 or abs(y - b) > 12 for a, b in boxes[:index])


def test_bars_are_drawn_to_scale() -> None:
    """Dots and parts are where their values are on the line."""
    one = Estimate(0.25, 0.125, 0.5)
    root = ET.fromstring(charts.accuracy_bar("p0", "hrs", Estimate(0.75, 0.7, 0.8), one, [0.5]))
    dots = {circle.get("class"): float(circle.get("cx", "")) for circle in root.iter("circle")}
    assert dots == {"clean": 8 + 0.75 * 224, "smaller": 120, "robust": 64}
    root = ET.fromstring(charts.share_bar("p0", "ibp", [("certified", 0.5), ("undecided", 0.25), ("broken", 0.25)]))
    parts = [(float(part.get("x", "")), float(part.get("width", ""))) for part in root.iter("rect")]
    assert parts == [(0, 120), (120, 60), (180, 60)]
    root = ET.fromstring(charts.score_bar("p0", "hrs", Estimate(2, -50, 50), (-2, 6)))
    (dot,) = root.iter("circle")
    assert float(dot.get("cx", "")) == 120
    # An interval that leaves the line ends with it.
    (interval,) = (line for line in root.iter("line") if line.get("class") == "interval")
    assert [interval.get("x1"), interval.get("x2")] == ["8", "232"]


def test_a_legend_needs_no_text_of_its_own() -> None:
    """The text beside it says what it is, and readers of screens skip the picture."""
    root = ET.fromstring(charts.legend_mark(3))
    assert (root.get("aria-hidden"), [part.get("class") for part in root]) == ("true", ["curve s3", "mark s3"])

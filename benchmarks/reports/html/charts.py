"""The charts of the page as SVG: accuracies with intervals, clean against robust accuracy, robust accuracy against the radius."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from robustbench_cli.benchmarks.reports.columns import short_count
from robustbench_cli.benchmarks.reports.curves import Estimate, RadiusCurve
from robustbench_cli.benchmarks.reports.html import svg
from robustbench_cli.benchmarks.reports.html.learning_curves import MEASURED, LearningCurve
from robustbench_cli.benchmarks.reports.html.svg import Axis
from robustbench_cli.benchmarks.reports.trade_offs import TradeOff, TradeOffPoint, front_steps

__all__ = [
    "SERIES",
    "accuracy_bar",
    "doubt_mark",
    "interval_text",
    "learning_chart",
    "legend_mark",
    "radius_chart",
    "score_bar",
    "share_bar",
    "trade_off_chart",
]

Scale = Callable[[float], float]
"""From a value to its place in the drawing."""

SERIES = 6
"""The number of colors and shapes of marks."""

_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 388, 12, 262
_BAR = 240


def interval_text(estimate: Estimate) -> str:
    """An accuracy in percent with its 95 % confidence interval.

    >>> interval_text(Estimate(0.412, 0.381, 0.4436))
    '41.2 % [38.1, 44.4]'
    """
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def accuracy_bar(number: str, label: str, clean: Estimate, robust: Estimate, smaller: Sequence[float]) -> Markup:
    """The clean accuracy as a ring and the robust accuracy as a dot with its interval, on a line from 0 to 100 %.

    Args:
        number: Different for each picture of a page.
        label: The name of the model.
        clean: Its clean accuracy.
        robust: Its robust accuracy at the largest radius.
        smaller: Its robust accuracies at smaller radii, as small dots.
    """
    place = Axis((0, 1), (8, _BAR - 8))
    children = [
        svg.line(place(0), 11, place(1), 11, "track"),
        *(svg.line(place(share), 7, place(share), 15, "track") for share in (0, 0.5, 1)),
        svg.line(place(robust.value), 11, place(clean.value), 11, "lost"),
        svg.line(place(robust.low), 11, place(robust.high), 11, "interval"),
        svg.circle(place(clean.value), 11, 4, "clean"),
        *(svg.circle(place(share), 11, 2.2, "smaller") for share in smaller),
        svg.circle(place(robust.value), 11, 4.5, "robust"),
    ]
    description = f"clean {interval_text(clean)}, robust {interval_text(robust)}"
    return svg.drawing(number, f"Accuracy of {label}", description, (_BAR, 22), children)


def score_bar(number: str, label: str, score: Estimate, limits: tuple[float, float]) -> Markup:
    """A score with its interval, on a line with a mark at 0.

    Args:
        number: Different for each picture of a page.
        label: The name of the model.
        score: The score; no accuracy, but with the same ends of an interval.
        limits: The ends of the line.
    """
    low, high = limits
    place = Axis(limits, (8, _BAR - 8))
    ends = [min(max(end, low), high) for end in (score.low, score.high)]
    children = [
        svg.line(place(low), 11, place(high), 11, "track"),
        svg.line(place(0), 4, place(0), 18, "zero"),
        svg.line(place(ends[0]), 11, place(ends[1]), 11, "interval"),
        svg.circle(place(min(max(score.value, low), high)), 11, 4.5, "robust"),
    ]
    description = f"{score.value:.1f}, interval from {score.low:.1f} to {score.high:.1f}"
    return svg.drawing(number, f"Defense Efficiency Score of {label}", description, (_BAR, 22), children)


def share_bar(number: str, label: str, parts: Sequence[tuple[str, float]]) -> Markup:
    """Shares of images beside each other.

    Args:
        number: Different for each picture of a page.
        label: The name of the model.
        parts: The name of each part, which is also its class, and its share; together 1 at most.
    """
    place = Axis((0, 1), (0, _BAR))
    children, start = [], 0.0
    for name, share in parts:
        children.append(svg.rectangle(place(start), 4, place(share), 14, name))
        start += share
    description = ", ".join(f"{name} {100 * share:.1f} %" for name, share in parts)
    return svg.drawing(number, f"Images of {label}", description, (_BAR, 22), children)


def _percent_axes(
    horizontal: tuple[Scale, Sequence[tuple[float, str]], str], vertical: tuple[Axis, Sequence[float], str]
) -> Iterator[ET.Element]:
    """The grid and the labels of a chart.

    Args:
        horizontal: The scale, the ticks with their texts, and the title.
        vertical: The scale, the ticks as shares, and the title.
    """
    x, marks, title = horizontal
    y, shares, side = vertical
    for share in shares:
        yield svg.line(_LEFT, y(share), _RIGHT, y(share), "grid")
        yield svg.text(f"{100 * share:g}", _LEFT - 7, y(share) + 4, cls="tick", anchor="end")
    last = float("-inf")
    for value, words in marks:
        yield svg.line(x(value), _BOTTOM, x(value), _BOTTOM + 4, "axis")
        room = 3.5 * len(words) + 4
        if x(value) - room >= last:
            yield svg.text(words, x(value), _BOTTOM + 17, cls="tick", anchor="middle")
            last = x(value) + room
    yield svg.line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis")
    yield svg.text(title, (_LEFT + _RIGHT) / 2, _HEIGHT - 4, cls="name", anchor="middle")
    yield svg.text(side, 2, _TOP - 1, cls="name")


def trade_off_chart(number: str, chart: TradeOff) -> Markup:
    """Robust accuracy against clean accuracy or a size, with intervals; the Pareto front is a line.

    Args:
        number: Different for each picture of a page.
        chart: The models.
    """
    points = chart.points
    up = svg.ticks(min(point.robust.low for point in points), max(point.robust.high for point in points))
    y = Axis((up[0], up[-1]), (_BOTTOM, _TOP + 8))
    x, marks = _sizes_across(points) if chart.is_of_sizes else _accuracies_across(points)
    steps = front_steps(chart)
    children = [
        *_percent_axes(
            (x, marks, chart.title + ("" if chart.is_of_sizes else " in %")), (y, up, "robust accuracy in %")
        ),
        *([svg.path([(x(across), y(robust)) for across, robust in steps], "front")] if len(steps) > 1 else []),
        *(mark for point in points for mark in _cross(point, x, y)),
        *_point_labels(points, x, y),
    ]
    crossed = "".join(f" {svg.shortened(point.doubt_line, most=120)}." for point in points if point.doubt)
    front = sorted((point for point in points if point.on_front), key=lambda point: point.across.value)
    names = ", ".join(svg.shortened(point.label, most=60) for point in front[:8])
    more = f" and {len(front) - 8} more" if front[8:] else ""
    described = (
        f"{len(points)} models. On the Pareto front, from low to high {chart.title}: {names or 'none'}{more}.{crossed}"
    )
    title = f"{chart.title.capitalize()} against robust accuracy, {chart.threat}, {chart.setting}"
    return svg.drawing(number, title, described, (_WIDTH, _HEIGHT), children)


def _accuracies_across(points: Sequence[TradeOffPoint]) -> tuple[Scale, list[tuple[float, str]]]:
    """The scale of clean accuracies, and its ticks with their texts."""
    ticks = svg.ticks(min(point.across.low for point in points), max(point.across.high for point in points))
    return Axis((ticks[0], ticks[-1]), (_LEFT + 6, _RIGHT - 6)), [(value, f"{100 * value:g}") for value in ticks]


def _sizes_across(points: Sequence[TradeOffPoint]) -> tuple[Scale, list[tuple[float, str]]]:
    """The logarithmic scale of sizes; the ticks are those of the models. A size of 0 is where 1 is."""
    sizes = sorted({point.across.value for point in points})
    linear = Axis((_log(sizes[0]), _log(sizes[-1])), (_LEFT + 26, _RIGHT - 26))
    return lambda size: linear(_log(size)), [(size, short_count(int(size))) for size in sizes]


def _log(size: float) -> float:
    return math.log(max(size, 1))


def _cross(point: TradeOffPoint, x: Scale, y: Scale) -> Iterator[ET.Element]:
    """A model with both of its intervals."""
    cls = "on" if point.on_front else "off"
    right, up = x(point.across.value), y(point.robust.value)
    yield svg.line(x(point.across.low), up, x(point.across.high), up, f"error {cls}")
    yield svg.line(right, y(point.robust.low), right, y(point.robust.high), f"error {cls}")
    yield svg.circle(right, up, 4.5, f"point {cls}")
    if point.doubt:
        yield svg.line(right - 3.2, up - 3.2, right + 3.2, up + 3.2, "doubt")
        yield svg.line(right - 3.2, up + 3.2, right + 3.2, up - 3.2, "doubt")


def _point_labels(points: Sequence[TradeOffPoint], x: Scale, y: Scale) -> Iterator[ET.Element]:
    """Labels that overlap neither each other nor a point: those of the front first; a label without room is left out."""
    centers = [(x(point.across.value), y(point.robust.value)) for point in points]
    taken = [(right - 5, up - 5, right + 5, up + 5) for right, up in centers]
    for point in sorted(points, key=lambda point: not point.on_front):
        words = svg.shortened(point.label, most=28)
        wide = 6.2 * len(words)
        right, up = x(point.across.value), y(point.robust.value)
        for left, base in _positions(right, up, wide):
            box = (left, base - 10, left + wide, base + 3)
            if (
                left >= _LEFT + 2
                and box[2] <= _RIGHT + 6
                and box[1] >= _TOP
                and base < _BOTTOM - 2
                and not _overlaps(box, taken)
            ):
                taken.append(box)
                yield svg.text(words, left, base, cls="name" if point.on_front else "tick")
                break


def _positions(right: float, up: float, wide: float) -> Iterator[tuple[float, float]]:
    """Where a label may begin: beside its point, above or below."""
    for down in (-6, 14, -18, 26):
        yield right + 7, up + down
        yield right - 7 - wide, up + down
        yield right - wide / 2, up + down * 1.3


def _overlaps(box: tuple[float, float, float, float], others: Sequence[tuple[float, float, float, float]]) -> bool:
    return any(box[0] < c and a < box[2] and box[1] < d and b < box[3] for a, b, c, d in others)


def radius_chart(number: str, curves: Sequence[RadiusCurve], *, among: Sequence[RadiusCurve] = ()) -> Markup:
    """Robust accuracy against the radius with 95 % confidence intervals.

    Args:
        number: Different for each picture of a page.
        curves: At most :data:`SERIES`, of one setting and norm.
        among: Other curves, drawn in gray behind.
    """
    shown = [*among, *curves]
    largest = max(curve.eps[-1] for curve in shown)
    x, y = Axis((0, largest), (_LEFT, _RIGHT)), Axis((0, 1), (_BOTTOM, _TOP + 8))
    texts = {eps: words for curve in shown for eps, words in zip(curve.eps, curve.eps_text, strict=True)}
    marks = [(eps, svg.shortened(texts[eps], most=10)) for eps in sorted(texts)]
    children = [
        *_percent_axes((x, marks, f"radius in {curves[0].norm}"), (y, (0, 0.25, 0.5, 0.75, 1), "robust accuracy in %")),
        *(svg.path(_places(curve, x, y), "behind") for curve in among if curve not in curves),
        *(_band(curve, x, y, series) for series, curve in enumerate(curves)),
        *(_line(curve, x, y, series) for series, curve in enumerate(curves)),
    ]
    described = [
        f"{svg.shortened(curve.label, most=60)}: "
        + ", ".join(
            f"{interval_text(point)} at {svg.shortened(eps, most=20)}"
            for eps, point in zip(curve.eps_text, curve.accuracy, strict=True)
        )
        for curve in curves
    ]
    title = f"Robust accuracy against the radius in {curves[0].norm}, {curves[0].setting}"
    return svg.drawing(number, title, "; ".join(described), (_WIDTH, _HEIGHT), children)


def learning_chart(number: str, curve: LearningCurve) -> Markup:
    """The accuracies of a training after each epoch, a line for each of :data:`MEASURED`.

    Args:
        number: Different for each picture of a page.
        curve: The training.
    """
    epochs = [int(point["epoch"]) for point in curve.points]
    x, y = Axis((min(epochs), max(epochs)), (_LEFT, _RIGHT)), Axis((0, 1), (_BOTTOM, _TOP + 8))
    marks = [(float(epoch), str(epoch)) for epoch in epochs]
    series = [[(x(point["epoch"]), y(point[name])) for point in curve.points if name in point] for name in MEASURED]
    children = [
        *_percent_axes((x, marks, "epoch"), (y, (0, 0.25, 0.5, 0.75, 1), "accuracy in %")),
        *(svg.path(places, f"curve s{index}") for index, places in enumerate(series) if places),
        *(svg.marker(index, *places[-1], f"mark s{index}") for index, places in enumerate(series) if places),
    ]
    last = ", ".join(
        f"{words} {100 * curve.points[-1][name]:.1f} %" for name, words in MEASURED.items() if name in curve.points[-1]
    )
    title = f"Accuracy after each epoch, {svg.shortened(curve.label)}"
    return svg.drawing(number, title, f"{len(epochs)} epochs; after the last one: {last}", (_WIDTH, _HEIGHT), children)


def _places(curve: RadiusCurve, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(x(eps), y(point.value)) for eps, point in zip(curve.eps, curve.accuracy, strict=True)]


def _band(curve: RadiusCurve, x: Axis, y: Axis, series: int) -> ET.Element:
    """The area of the confidence intervals."""
    above = [(x(eps), y(point.high)) for eps, point in zip(curve.eps, curve.accuracy, strict=True)]
    below = [(x(eps), y(point.low)) for eps, point in zip(curve.eps, curve.accuracy, strict=True)]
    return svg.path([*above, *reversed(below)], f"band s{series}", closed=True)


def _line(curve: RadiusCurve, x: Axis, y: Axis, series: int) -> ET.Element:
    places = _places(curve, x, y)
    return svg.group(
        svg.path(places, f"curve s{series}"), *(svg.marker(series, a, b, f"mark s{series}") for a, b in places)
    )


def doubt_mark() -> Markup:
    """The crossed mark of a model that is not compared, for a legend."""
    children = (
        svg.circle(7, 7, 4.5, "point off"),
        svg.line(3.8, 3.8, 10.2, 10.2, "doubt"),
        svg.line(3.8, 10.2, 10.2, 3.8, "doubt"),
    )
    root = svg.element("svg", *children, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true", cls="legend")
    return svg.markup(root)


def legend_mark(series: int) -> Markup:
    """The line and the mark of a series, for a legend; the text beside it says what it is."""
    children = (svg.path([(0, 7), (28, 7)], f"curve s{series}"), svg.marker(series, 14, 7, f"mark s{series}"))
    root = svg.element("svg", *children, viewBox="0 0 28 14", width=28, height=14, aria_hidden="true", cls="legend")
    return svg.markup(root)

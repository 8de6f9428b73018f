"""Charts of a report as files for papers: one column wide, readable in gray print, with the same bytes every time."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.attack_points import (
    AttackChart,
    CertifiedCurve,
    attack_charts,
    certified_curves,
)
from robustbench_cli.benchmarks.reports.columns import short_count
from robustbench_cli.benchmarks.reports.curves import Estimate, RadiusCurve, radius_curves
from robustbench_cli.benchmarks.reports.trade_offs import TradeOff, front_steps, size_trade_offs, trade_offs
from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_terminal, shortened
from robustbench_cli.core.libraries import require_library

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOT_FORMATS", "require_matplotlib", "write_plots"]

PLOT_FORMATS = ("svg", "pdf", "png")
"""The formats of files."""

_WIDTH = 3.3
"""The width of a column of a paper, in inches."""

_STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 1.5,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    # Whole fonts of the kind that publishers accept.
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
    "svg.fonttype": "path",
    # Otherwise the names of parts in an SVG are random.
    "svg.hashsalt": "advdef",
}

_COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Colors that people with any color vision distinguish: Okabe and Ito, Color Universal Design, 2008."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", "--", "-.", ":")

_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
"""The metadata that differ from one run to the next or from one version of matplotlib to the next."""


def write_plots(
    table: pd.DataFrame,
    folder: Path,
    formats: Sequence[str] = PLOT_FORMATS[:1],
    *,
    verdicts: Mapping[VerdictKey, AuditedVerdict] = MappingProxyType({}),
) -> list[Path]:
    """Draws all charts for which a table has the rows, and writes them to a folder.

    These are the robust accuracy against the radius, against clean accuracy and against the sizes of the models with the
    Pareto front, the success of each attack, and certified beside attacked accuracy.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        folder: The folder.
        formats: Some of :data:`PLOT_FORMATS`.
        verdicts: The verdicts of audits: a model that one calls broken is not on the Pareto front.

    Returns:
        The files.

    Raises:
        UserError: matplotlib is not installed, there is nothing to draw, or a file cannot be written.
    """
    matplotlib = require_matplotlib()
    figures = _figures(table, verdicts)
    if not figures:
        raise UserError(
            f"--plots {folder}: no row has an attack with a radius, so there is nothing to draw: leave it out"
        )
    files = []
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph")
        for name, draw in figures:
            figure = draw()
            for ending in formats:
                content = io.BytesIO()
                figure.savefig(content, format=ending, metadata=_NO_DATE[ending])
                files.append(folder / f"{name}.{ending}")
                write_atomically(files[-1], content.getvalue())
    return files


def require_matplotlib() -> ModuleType:
    """Imports matplotlib.

    Raises:
        UserError: It is not installed.
    """
    return require_library("matplotlib", needed_by="--plots", extra="plots")


def _figures(
    table: pd.DataFrame, verdicts: Mapping[VerdictKey, AuditedVerdict]
) -> list[tuple[str, Callable[[], Figure]]]:
    """The name of each chart and what draws it."""
    figures: list[tuple[str, Callable[[], Figure]]] = []
    for (setting, norm), curves in groupby(radius_curves(table), lambda curve: (curve.setting, curve.norm)):
        figures.append((f"radius-{setting}-{norm}", partial(_radius_figure, list(curves))))
    figures += [
        (f"trade-off-{chart.setting}-{chart.threat}", partial(_trade_off_figure, chart))
        for chart in trade_offs(table, verdicts)
    ]
    figures += [
        (f"{chart.against}-{chart.setting}-{chart.threat}", partial(_trade_off_figure, chart))
        for chart in size_trade_offs(table, verdicts)
    ]
    figures += [
        (f"attacks-{chart.setting}-{chart.threat}", partial(_attacks_figure, chart)) for chart in attack_charts(table)
    ]
    for (setting, norm), proven in groupby(certified_curves(table), lambda curve: (curve.setting, curve.norm)):
        figures.append((f"certified-{setting}-{norm}", partial(_certified_figure, list(proven))))
    return list(zip(_file_names([name for name, _ in figures]), (draw for _, draw in figures), strict=True))


def _file_names(texts: Sequence[str]) -> list[str]:
    """Names of files without an ending: letters, digits, dots and hyphens, each name once."""
    plain = [re.sub(r"[^A-Za-z0-9.]+", "-", text)[:80].strip("-.") for text in texts]
    return [name if plain.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(plain)]


def _radius_figure(curves: Sequence[RadiusCurve]) -> Figure:
    figure, axes = _axes([curve.label for curve in curves])
    handles = []
    for number, curve in enumerate(curves):
        values, errors = _percent(curve.accuracy)
        handles.append(axes.errorbar(curve.eps, values, errors, elinewidth=0.6, **_look(number)))
    _ticks(axes, {eps: text for curve in curves for eps, text in zip(curve.eps, curve.eps_text, strict=True)})
    _label(axes, f"radius ({curves[0].norm})", "robust accuracy (%)", curves[0].setting)
    axes.set_ylim(-2, 102)
    _legend(figure, handles, [curve.label for curve in curves])
    return figure


def _trade_off_figure(chart: TradeOff) -> Figure:
    labels = [point.label + (f" (crossed: {point.doubt})" if point.doubt else "") for point in chart.points]
    figure, axes = _axes(labels)
    handles = []

    def horizontally(across: float) -> float:
        # On a logarithmic scale, a size of 0 is where 1 is.
        return max(across, 1) if chart.is_of_sizes else 100 * across

    front = front_steps(chart)
    axes.plot([horizontally(x) for x, _ in front], [100 * y for _, y in front], color="0.6", zorder=0)
    for number, point in enumerate(chart.points):
        across = horizontally(point.across.value)
        horizontal = None if chart.is_of_sizes else _percent([point.across])[1]
        (robust,), vertical = _percent([point.robust])
        look = _look(number) | {"linestyle": "none", "elinewidth": 0.6}
        if not point.on_front:
            look["markerfacecolor"] = "white"
        if point.doubt:
            axes.plot([across], [robust], "x", color="black", zorder=4)
        handles.append(axes.errorbar([across], [robust], vertical, horizontal, **look))
    if chart.is_of_sizes:
        axes.set_xscale("log")
        sizes = [point.across.value for point in chart.points]
        _ticks(axes, {horizontally(size): short_count(int(size)) for size in sizes}, math.log)
        axes.minorticks_off()
    _label(
        axes,
        chart.title + ("" if chart.is_of_sizes else " (%)"),
        "robust accuracy (%)",
        f"{chart.setting}, {chart.threat}",
    )
    _legend(figure, handles, labels)
    return figure


def _attacks_figure(chart: AttackChart) -> Figure:
    figure, axes = _axes([label for label, _ in chart.models], height=0.7 + 0.16 * len(chart.attacks))
    handles = []
    for number, (_, rates) in enumerate(chart.models):
        points = [(100 * rate, row) for row, rate in enumerate(rates) if rate is not None]
        look = _look(number) | {"linestyle": "none"}
        handles += axes.plot([rate for rate, _ in points], [row for _, row in points], **look)
    axes.set_yticks(range(len(chart.attacks)), map(_text, chart.attacks))
    axes.set_ylim(len(chart.attacks) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    _label(axes, "attack success (%)", "", f"{chart.setting}, {chart.threat}")
    _legend(figure, handles, [label for label, _ in chart.models])
    return figure


def _certified_figure(curves: Sequence[CertifiedCurve]) -> Figure:
    labels = [f"{curve.label}, {name}" for curve in curves for name in ("attacked", "certified")]
    figure, axes = _axes(labels)
    handles = []
    for number, curve in enumerate(curves):
        look = _look(number)
        for values, name, line in ((curve.robust, "attacked", "-"), (curve.certified, "certified", ":")):
            percent = [100 * value for value in values]
            fill = look["color"] if name == "attacked" else "white"
            handles += axes.plot(curve.eps, percent, **(look | {"linestyle": line, "markerfacecolor": fill}))
    _ticks(axes, {eps: text for curve in curves for eps, text in zip(curve.eps, curve.eps_text, strict=True)})
    axes.set_ylim(-2, 102)
    _label(axes, f"radius ({curves[0].norm})", "accuracy (%)", curves[0].setting)
    _legend(figure, handles, labels)
    return figure


def _axes(labels: Sequence[str], *, height: float = 1.9) -> tuple[Figure, Axes]:
    """A figure of some inches in height, and as many more as its legend needs."""
    from matplotlib.figure import Figure

    # Without pyplot no window system is asked for.
    figure = Figure(figsize=(_WIDTH, height + 0.15 * math.ceil(len(labels) / _legend_columns(labels))))
    return figure, figure.subplots()


def _look(number: int) -> dict[str, Any]:
    """The color, the marker and the line of a model; they differ in gray print too."""
    return {
        "color": _COLORS[number % len(_COLORS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _LINES[number % len(_LINES)],
    }


def _percent(estimates: Sequence[Estimate]) -> tuple[list[float], list[list[float]]]:
    """Values in percent, and how far their intervals reach below and above."""
    values = [100 * estimate.value for estimate in estimates]
    below = [100 * max(estimate.value - estimate.low, 0) for estimate in estimates]
    above = [100 * max(estimate.high - estimate.value, 0) for estimate in estimates]
    return values, [below, above]


def _ticks(axes: Axes, texts: dict[float, str], scale: Callable[[float], float] = float) -> None:
    """Labels values such as radii as the user wrote them, those that would overlap left out.

    Args:
        axes: The chart.
        texts: The label of each value.
        scale: From a value to its place.
    """
    values = sorted(texts)
    room = 0.15 * (scale(values[-1]) - scale(values[0]))
    kept: list[float] = []
    for value in values:
        if not kept or scale(value) - scale(kept[-1]) > room:
            kept.append(value)
    axes.set_xticks(kept, [_text(texts[value]) for value in kept])


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(_text(x))
    axes.set_ylabel(_text(y))
    axes.set_title(_text(title), fontsize=7.5, color="0.3")


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if max(map(len, labels)) <= 24 else 1


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Below the axes, where it hides nothing."""
    # An underscore at the start of a label would hide it.
    names = [str(number) for number in range(len(labels))]
    legend = figure.legend(handles, names, loc="outside lower center", ncols=_legend_columns(labels))
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(_text(label))


def _text(content: str) -> str:
    """A text that may come from a file: no formula, no control characters, not too long."""
    return shortened(escaped_for_terminal(content), most=48).replace("$", r"\$")

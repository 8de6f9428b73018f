from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_cli.benchmarks.reports import plots
from robustbench_cli.benchmarks.reports.plots import write_plots
from robustbench_cli.core.errors import UserError

from .result_rows import HRS, NAMES, table

FAR = {"eps": "0.1", "eps_value": 0.1, "robust_accuracy": 0.1}
ROWS = table({}, FAR, HRS, HRS | FAR).assign(certified_accuracy=[0.2, 0.0, 0.4, 0.1])


def test_each_chart_is_a_file_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    """Of a column's width in each format, with whole fonts in the PDF, and no date anywhere."""
    rows = table({}, HRS).assign(certified_accuracy=[0.2, 0.4])
    files = write_plots(rows, tmp_path / "a", ("svg", "pdf", "png"))
    assert {path.name for path in files if path.suffix == ".svg"} == {
        "trade-off-digits-100-images-linf-8-255.svg",
        "attacks-digits-100-images-linf-8-255.svg",
        "certified-digits-100-images-linf.svg",
    }
    again = write_plots(rows, tmp_path / "b", ("svg", "pdf", "png"))
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width == round(3.3 * 300)
        elif path.suffix == ".svg":
            assert ET.parse(path).getroot().get("width") == "237.6pt"
        else:
            content = path.read_bytes()
            assert b"/MediaBox [ 0 0 237.6 " in content
            assert b"/FontFile2" in content
            assert b"/Type3" not in content
            assert b"CreationDate" not in content


def test_a_chart_shows_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The points and the ends of the bars are the accuracies and their intervals in percent."""
    figures = []
    monkeypatch.setattr(plots, "write_atomically", lambda path, content: None)
    drawn = plots._axes
    monkeypatch.setattr(plots, "_axes", lambda *args, **sizes: figures.append(drawn(*args, **sizes)) or figures[-1])
    write_plots(ROWS, tmp_path)
    _, axes = figures[0]
    first = axes.containers[0]
    np.testing.assert_allclose(first.lines[0].get_xydata(), [[0, 93.8], [8 / 255, 27.87], [0.1, 10.0]])
    segments = first.lines[2][0].get_segments()
    np.testing.assert_allclose(segments[1], [[8 / 255, 22.0], [8 / 255, 33.0]])
    looks = [(line.lines[0].get_marker(), line.lines[0].get_linestyle()) for line in axes.containers]
    assert len({*looks}) == len(looks) == 2


def test_sizes_have_charts(tmp_path: Path) -> None:
    """One for each that differs, with the sizes of the models as ticks."""
    rows = table({"parameters": 16_026, "nonzero": 16_026}, HRS | {"parameters": 16_026, "nonzero": 1_700})
    names = {path.name for path in write_plots(rows, tmp_path)}
    assert {name for name in names if not name.startswith(("attacks", "trade-off"))} == {
        "nonzero-digits-100-images-linf-8-255.svg"
    }


def test_a_size_of_zero_is_drawn(tmp_path: Path) -> None:
    """Its tick is at the left end of the logarithmic scale."""
    rows = table({"macs": 0}, HRS | {"macs": 1_700})
    (path,) = (path for path in write_plots(rows, tmp_path) if path.name.startswith("macs"))
    drawn = path.read_text()
    # Matplotlib draws each text as paths behind a comment that states it.
    assert "<!-- 0 -->" in drawn
    assert "<!-- 1.7k -->" in drawn


def test_names_stay_text(tmp_path: Path) -> None:
    """A hostile name is no formula, no path and no error; files stay in the folder."""
    names = [*NAMES, "_hidden", "$x$", r"$\frac{1}{0", "../../up", "x" * 10_000]
    rows = table(*({"defense": name, "attack": name, "dataset": names[-2]} for name in names))
    files = write_plots(rows, tmp_path)
    assert len({*files}) == len(files) == 2
    assert {path.parent for path in files} == {tmp_path}
    for path in files:
        assert "script" not in {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
    titles = plots._file_names([f"radius-{name}" for name in names])
    assert len({*titles}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,90}", title) for title in titles)


def test_what_cannot_be_drawn_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No radius, and no matplotlib: the line says what to install."""
    with pytest.raises(UserError, match="no row has an attack with a radius"):
        write_plots(table({"attack": "none"}), tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"--plots needs matplotlib: install it with pip install 'advdef\[plots\]'"):
        write_plots(ROWS, tmp_path)

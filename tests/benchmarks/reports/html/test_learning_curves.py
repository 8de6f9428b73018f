from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.learning_curves import learning_curves
from robustbench_cli.benchmarks.reports.html.page import page

from .conftest import MakeContent

POINTS = [
    {"epoch": epoch, "loss": 2.0, "held_out_robust": robust, "held_out_clean": 0.75, "robust": 0.5, "clean": 0.875}
    for epoch, robust in ((1, 0.25), (2, 0.125))
]


def at_checkpoint(content: PageContent, path: Path, curve: Any) -> PageContent:
    """The content, whose results all have one checkpoint with this learning curve."""
    training = {"stages": [{"trained": {"adversarial training": {"curve": curve}}}]}
    save_file({"x": np.zeros(1)}, path, metadata={"advdef": json.dumps({"training": training})})
    results = [result.model_copy(update={"checkpoint": str(path)}) for result in content.results]
    return PageContent(table=content.table, results=results, read=content.read)


def test_the_page_has_the_curve_of_a_checkpoint(make_content: MakeContent, tmp_path: Path) -> None:
    """A chart whose text names the last accuracies, and a table with all; once for a checkpoint of many rows."""
    content = at_checkpoint(make_content(), tmp_path / "a.safetensors", POINTS)
    (curve,) = learning_curves(content.results)
    assert curve.points == POINTS
    source = page(content)
    assert source.count("<h2>Learning curves</h2>") == 1
    assert "robust, held-out 12.5 %, clean, held-out 75.0 %, robust, training 50.0 %, clean, training 87.5 %" in source
    assert "<h2>Learning curves</h2>" not in page(make_content())


@pytest.mark.parametrize(
    "curve",
    [
        [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 1.0}],
        POINTS[:1],
        POINTS[:1] * 2,
        [{**point, "robust": "<script>"} for point in POINTS],
        [{**point, "held_out_clean": 1e308} for point in POINTS],
        [{**point, "epoch": "1"} for point in POINTS],
        7,
        None,
        [None, 1],
    ],
)
def test_no_curve(make_content: MakeContent, tmp_path: Path, curve: Any) -> None:
    """A record without accuracies, and one that no training wrote, has none."""
    assert learning_curves(at_checkpoint(make_content(), tmp_path / "a.safetensors", curve).results) == []


def test_files_that_are_no_checkpoints(make_content: MakeContent, tmp_path: Path) -> None:
    """They are left out, as is a checkpoint that is gone."""
    content = at_checkpoint(make_content(), tmp_path / "a.safetensors", POINTS)
    for damage in (b"", b"<html>", b"\xff" * 100):
        (tmp_path / "a.safetensors").write_bytes(damage)
        assert learning_curves(content.results) == []
    (tmp_path / "a.safetensors").unlink()
    assert learning_curves(content.results) == []
    save_file({"x": np.zeros(1)}, tmp_path / "a.safetensors", metadata={"advdef": '{"training": [1]}'})
    assert learning_curves(content.results) == []

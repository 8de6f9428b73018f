"""The bar of a notebook, in a real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from robustbench_cli.benchmarks.evaluation.notebook_bar import notebook_bar

ROOT = Path(__file__).parents[3]
CODE = """
from robustbench_cli.benchmarks.evaluation import notebook_bar as module
show = module.notebook_bar(3)
show(2)
"""


def test_a_notebook_shows_the_images_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One output that is updated in place, and is empty at the end."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = [nbformat.v4.new_code_cell(source) for source in (CODE, f"{CODE}show(3)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [[output["data"]["text/html"] for output in cell.outputs] for cell in notebook.cells]
    assert shown == [["<progress value=2 max=3></progress> 2 of 3 images"], [""]]


def test_elsewhere_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    notebook_bar(3)(2)
    assert capsys.readouterr() == ("", "")

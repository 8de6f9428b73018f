from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.cli.missing_files import missing_files


def test_every_place_of_a_suite_that_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, surrogates, data, extra images and what labels them, each with its line and the nearest name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.npz").touch()
    (tmp_path / "photos").mkdir()
    Path("suite.yaml").write_text(
        "dataset: ['npz:dato.npz', 'imagefolder:photo?image_size=8', digits, 'hf:owner/name', 'npz:data.npz']\n"
        "defenses: [none, {checkpoint: a.pt}]\n"
        "attacks: [pgd, {name: transfer, surrogate: b.pt}]\n"
        "train: {extra: 'npz:e.npz', pseudo_labels: c.pt}\n"
    )
    nothing = "its folder has no file of weights"
    assert list(missing_files(read_suite("suite.yaml"))) == [
        f"suite.yaml, line 2: no checkpoint a.pt: {nothing}",
        f"suite.yaml, line 3: no checkpoint b.pt: {nothing}",
        f"suite.yaml, line 4: no checkpoint c.pt: {nothing}",
        "suite.yaml, line 1: no file dato.npz for npz: did you mean 'data.npz'?",
        "suite.yaml, line 1: no folder photo for imagefolder: did you mean 'photos'?",
        "suite.yaml, line 4: no file e.npz for npz: known: data.npz",
    ]

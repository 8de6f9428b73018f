from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.datasets.digits import Digits
from robustbench_cli.cli.commands import demo


def test_the_demo_trains_attacks_and_reports(
    advdef: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains three models and attacks each; a second run computes nothing and prints the same table."""
    monkeypatch.setattr(demo, "IMAGES", 4)
    monkeypatch.setattr(Digits, "epochs", 2)
    ended = advdef("demo")
    assert ended.code == 0
    cells = [line.split() for line in ended.out.splitlines()]
    rows = [(row[0], row[1]) for row in cells if row and row[0] in {"none", "gaussian-noise", "hrs"}]
    attacks = ["pgd", "pgd", "worst-case", "cw"]
    assert rows == [("none", "pgd"), ("none", "cw")] + [
        (name, attack) for name in ("gaussian-noise", "hrs") for attack in attacks
    ]
    assert "no-eot" in ended.out
    assert "the results are in advdef-runs: advdef report advdef-runs" in ended.err.splitlines()[-1]
    second = advdef("demo")
    assert second.out == ended.out
    # Networks of two epochs may be no better than guessing, which gives warnings.
    assert len([line for line in second.err.splitlines() if "warning: " not in line]) == 2

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.datasets.digits import Digits
from robustbench_cli.cli.commands import demo


def test_the_demo_goes_the_whole_way(advdef: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models, the attacks on each, scores against the undefended one; the second time nothing is computed."""
    monkeypatch.setattr(demo, "IMAGES", 4)
    monkeypatch.setattr(Digits, "epochs", 2)
    ended = advdef("demo")
    assert ended.code == 0
    words = [line.split() for line in ended.out.splitlines()]
    found = [(row[0], row[1]) for row in words if row and row[0] in {"none", "gaussian-noise", "hrs"}]
    noisy = ["pgd", "pgd", "worst-case", "cw"]
    assert found == [("none", "pgd"), ("none", "cw")] + [
        (name, each) for name in ("gaussian-noise", "hrs") for each in noisy
    ]
    assert "no-eot" in ended.out
    assert "the results are in advdef-runs: advdef report advdef-runs" in ended.err.splitlines()[-1]
    again = advdef("demo")
    assert again.out == ended.out
    # Networks of two epochs may be no better than guessing, which is warned of.
    assert len([line for line in again.err.splitlines() if "warning: " not in line]) == 2

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS, Finding


def test_a_figure_is_finite() -> None:
    """JSON has no other numbers."""
    with pytest.raises(ValidationError):
        Finding(check="a", severity="broken", evidence="b", figures={"c": math.nan})


def test_budgets_grow() -> None:
    """Checks compare them by their position."""
    assert BUDGETS == ("quick", "standard", "thorough")

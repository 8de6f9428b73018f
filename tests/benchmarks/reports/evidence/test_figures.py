from __future__ import annotations

from typing import Any

import pytest

from robustbench_cli.benchmarks.reports.evidence.figures import figures

from ..result_rows import ROW

RECORD: dict[str, Any] = ROW | {"n": 100, "repeats": 10, "clean_accuracy": 0.9, "robust_accuracy": 0.27}


@pytest.mark.parametrize(
    ("targeted", "rate", "counts"),
    [("no", 630 / 900, (630, 900)), ("next", 0.4, (400, 1000)), ("all", 0.4, None)],
)
def test_counts_of_a_success_rate(targeted: str, rate: float, counts: tuple[int, int] | None) -> None:
    """Untargeted, of the correct clean predictions; targeted, of all predictions; the number of targets is not recorded."""
    share = figures(RECORD | {"targeted": targeted, "attack_success_rate": rate}, counted=True)["attackSuccessRate"]
    assert (share.get("numerator"), share.get("denominator")) == (counts or (None, None))


def test_a_mean_over_corruptions_is_no_quotient_of_counts() -> None:
    """Shares that a row does not have are left out."""
    made = figures(RECORD | {"robust_accuracy": None, "robust_accuracy_low": None}, counted=False)
    assert "robustAccuracy" not in made
    assert set(made["cleanAccuracy"]) == {"value", "interval"}

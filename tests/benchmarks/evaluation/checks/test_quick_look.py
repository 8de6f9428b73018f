from __future__ import annotations

from typing import Any

import pytest

from robustbench_cli.benchmarks.evaluation.checks.quick_look import QuickLook

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows


@pytest.mark.parametrize(
    ("access", "eps", "right", "audited", "flagged"),
    [
        (("gradients", "gradients"), 0.1, 50, None, True),
        (("gradients",), 0.1, 50, "quick", True),
        (("gradients",), None, 50, None, True),
        (("gradients",), 0.1, 50, "standard", False),
        (("gradients", "scores"), 0.1, 50, None, False),
        (("gradients",), 0.1, 9, None, False),
        (("gradients",), 0.0, 50, None, False),
        (("none",), 0.0, 50, None, False),
    ],
)
def test_gradients_alone_need_support(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    access: tuple[str, ...],
    eps: float | None,
    right: int,
    audited: Any,
    flagged: bool,
) -> None:
    """By another kind of attack, or by an audit of the model; unless the accuracy is near zero or nothing was attacked."""
    outcomes = make_outcomes(clean=[1] * 100, robust=[1] * right + [0] * (100 - right))
    rows = [make_row(outcomes, eps, attack=f"a{number}", access=kind) for number, kind in enumerate(access)]
    found = QuickLook("quick-look").finding_in_rows(make_rows(*rows, audited=audited))
    assert (found is not None) == flagged
    if found is not None:
        assert found.evidence.endswith(f"under {', '.join(row.attack for row in rows)} alone")

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.moments import FinishedEvaluation


class Quiet(Check):
    """Overrides nothing."""

    text: ClassVar[str] = "nothing"


@pytest.mark.parametrize("raised", [True, False])
def test_a_flag_that_was_raised_is_in_the_row(raised: bool) -> None:
    """By default, and a check raises nothing by default."""
    nothing: Any = None
    check = Quiet("quiet")
    assert not check.raised_by_batch(nothing)
    assert not check.raised_by_models(nothing)
    flags = frozenset({"quiet"} if raised else {"other"})
    assert check.applies(FinishedEvaluation(setup=nothing, batches=[], raised=flags)) == raised

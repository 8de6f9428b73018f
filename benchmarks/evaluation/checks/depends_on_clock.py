"""The flag of a model whose answers depend on the time."""

from __future__ import annotations

import time
from typing import ClassVar

from torch import Tensor

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.clock import clock_from
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import changed_rows, logits_differ, model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["DependsOnClock"]

_CHECKED = 8
"""The most images that pass at each time."""

_REPEATS = 10
"""The passes at the same time after a change."""

_SECOND = 10**9
_LATER = {
    "1 nanosecond": 1,
    "1 microsecond": 10**3,
    "1 millisecond": 10**6,
    "0.1 seconds": 10**8,
    "1 second": _SECOND,
    "1 minute": 60 * _SECOND,
    "1 hour": 3600 * _SECOND,
    "6 hours": 6 * 3600 * _SECOND,
    "12 hours": 12 * 3600 * _SECOND,
    "1 day": 24 * 3600 * _SECOND,
    "31 days": 31 * 24 * 3600 * _SECOND,
    "366 days": 366 * 24 * 3600 * _SECOND,
}
"""How much later the clock shows the start of a pass, in nanoseconds."""


class DependsOnClock(Check):
    """Passes at the same seed while Python's clocks show other times."""

    text: ClassVar[str] = "the model gives different logits at another time, although seed and images are the same"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The logits of one of the first 8 images change, beyond rounding, if Python's clocks show a time that is between a "
        "nanosecond and a year later. With the clocks set back, they must be the first ones again. Clocks outside of the modules "
        "time and datetime are not seen."
    )
    why: ClassVar[str] = (
        "An attack of minutes sees another model than the evaluation, and another day gives other figures. An attacker can wait, "
        "or use what is common to all times."
    )
    remedy: ClassVar[str] = (
        "Remove the clock. For a random model, draw with torch's generator inside forward, and attack the expectation."
    )
    source: ClassVar[str] = (
        "Own test; Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705 (the attack must see "
        "the deployed model)"
    )
    needs: ClassVar[tuple[Need, ...]] = ()

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        now = time.time_ns()
        first = _logits(probe, now)
        for text, later in _LATER.items():
            changed = int(changed_rows(first, _logits(probe, now + later)).sum())
            # Ten passes, since a counter or another generator may come back to the same answer by chance.
            if changed and any(logits_differ(first, _logits(probe, now)) for _ in range(_REPEATS)):
                raise UndecidedError("the logits change from pass to pass while the clock shows the same time")
            if changed:
                return self.finding(
                    f"the logits of {changed} of {len(first)} images change if the clock is {text} later, although seed and "
                    "images are the same",
                    changed=changed,
                    seconds=later / _SECOND,
                )
        return None

    def passes(self, probe: ModelProbe) -> int:
        return (1 + len(_LATER) + _REPEATS) * min(_CHECKED, len(probe))


def _logits(probe: ModelProbe, nanoseconds: int) -> Tensor:
    """``(N, K)``: the logits of the first images at a time, at the draws of one seed."""
    with clock_from(nanoseconds, probe.model):
        return model_logits(probe.measured, probe.images[:_CHECKED])

"""The flag of a model whose logits change although the seed and the images are the same."""

from __future__ import annotations

from typing import ClassVar

import torch

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import changed_rows, is_repeatable, model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels

__all__ = ["NotRepeatable"]

_COUNTED, _PASSES = 16, 10
"""The most images of which an audit counts those whose logits change, and the passes in which it looks at them."""


class NotRepeatable(Check):
    """Two passes with the same seed must give the same logits, for the attacked model and the followed one."""

    text: ClassVar[str] = (
        "the model gives different logits in a second pass with the same seed and images: its figures cannot be reproduced"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "Passes with the same seed of torch give different logits, beyond rounding: one of 20 passes over the first 8 images of a "
        "randomized model, or the second of two over 4 images of another one."
    )
    why: ClassVar[str] = (
        "The draws come from another generator (NumPy, random), from a clock or from a counter of passes. Attacks cannot repeat "
        "them. They need not be independent across the rows of a batch."
    )
    remedy: ClassVar[str] = (
        "Draw with torch's generator inside forward. An audit of the model tells whether the clock is the reason (depends-on-clock)."
    )
    source: ClassVar[str] = "Own test"
    position: ClassVar[int] = 40

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        setup = models.setup
        return not (
            models.followed_is_repeatable and (setup.followed is setup.attacked or is_repeatable(setup.attacked))
        )

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        if super().finding_in_model(probe) is None:
            return None
        images = probe.images[:_COUNTED]
        first, *others = (model_logits(probe.measured, images) for _ in range(_PASSES))
        changed = int(torch.stack([changed_rows(first, other) for other in others]).any(0).sum())
        return self.finding(
            f"in {_PASSES} passes the logits of {changed} of {len(images)} images changed, although seed and images are the same",
            changed=changed,
        )

    def passes(self, probe: ModelProbe) -> int:
        return _PASSES * min(_COUNTED, len(probe))

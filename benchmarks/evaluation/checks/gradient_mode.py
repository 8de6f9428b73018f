"""The flag of a model that gives other logits while gradients are recorded."""

from __future__ import annotations

from typing import ClassVar

import torch

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import (
    gap_gradients,
    model_logits,
    require_repeatable,
)
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["GradientMode"]

_CHECKED = 64
"""The most images that are compared."""

_SHARE = 0.01
"""The difference of a logit, as a share of the spread of the image's logits. Other kernels differ by rounding, below 1e-4."""


class GradientMode(Check):
    """The same images pass at the same draws with and without a graph."""

    text: ClassVar[str] = "the model gives other logits while gradients are recorded: attacks follow another model"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "A logit of one of the first 64 images changes by more than 1 % of the spread of the image's logits if the pass "
        "records gradients."
    )
    why: ClassVar[str] = (
        "An attack by gradients sees what the model gives with a graph, and the evaluation scores what it gives without. The two "
        "must be the same function."
    )
    remedy: ClassVar[str] = "Do not ask for requires_grad or torch.is_grad_enabled() inside forward."
    source: ClassVar[str] = (
        "Own test; Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020 (the attack "
        "must follow the deployed model)"
    )
    needs: ClassVar[tuple[Need, ...]] = ("gradients",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        require_repeatable(probe.measured)
        images = probe.images[:_CHECKED]
        gaps = gap_gradients(probe.measured, images)
        if gaps is None:
            return None
        logits = model_logits(probe.measured, images)
        spread = logits.max(1).values - logits.min(1).values
        # Masked classes, at infinity, are equal in both.
        changes = torch.where(logits == gaps.logits, 0, (logits - gaps.logits).abs()).max(1).values
        count = int((changes > _SHARE * spread).sum())
        return self.finding(f"the logits of {count} of {len(images)} images change", changed=count) if count else None

    def passes(self, probe: ModelProbe) -> int:
        return 3 * min(_CHECKED, len(probe))

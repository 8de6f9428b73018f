"""The flag of a model that gives NaN."""

from __future__ import annotations

from typing import ClassVar

import torch

from robustbench_cli.attacks.base.threat import per_image, random_in_ball
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["NotANumber"]

_CHECKED = 64
"""The most images near which an audit looks for NaN."""


class NotANumber(Check):
    """A prediction of NaN is no class: it counts as wrong."""

    text: ClassVar[str] = "the model gave NaN for some images; they count as misclassified"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The model gives NaN for a perturbed image; in an audit of a model, also for a random point on the surface of the ball or "
        "in it, for one of the first 64 images."
    )
    why: ClassVar[str] = (
        "NaN is no class and counts as misclassified, so the robust accuracy is not too high for it. A model that "
        "fails on valid images is not usable, and gradients near such images are zero."
    )
    remedy: ClassVar[str] = (
        "Find the operation: a logarithm or square root at 0, a division by 0, or an overflow in half precision."
    )
    source: ClassVar[str] = "Own convention"
    position: ClassVar[int] = 80

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return bool(batch.candidates.failed.any())

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        rows = torch.arange(min(_CHECKED, len(probe)), device=probe.images.device)
        images, threat = probe.images[rows], probe.threat(rows)
        change = random_in_ball(images, threat, probe.random(rows, self.name))
        corners = per_image(threat.eps, images).to(change) * change.sign() if probe.norm == "linf" else change
        for moved in (change, corners):
            failed = int(model_logits(probe.measured, (images + moved).clamp(0, 1)).isnan().any(1).sum())
            if failed:
                return self.finding(f"NaN at random points near {failed} of {len(rows)} images", failed=failed)
        return super().finding_in_model(probe)

    def passes(self, probe: ModelProbe) -> int:
        return 2 * min(_CHECKED, len(probe))

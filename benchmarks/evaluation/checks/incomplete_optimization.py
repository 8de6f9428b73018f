"""The flag of an attack whose loss still rises at the last steps."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["IncompleteOptimization"]

_MOST = 0.35
"""The largest mean share of the rise in the last quarter of the steps.

In the gallery at radii of 0.05 and 0.15, honest models have up to 0.23, JPEG and a ResNet with batch norm the most, and the others up to 0.1.
"""


class IncompleteOptimization(Check):
    """The best loss so far of a converged attack no longer grows.

    The paper looks at the last ten steps, and at single images. Here the steps become smaller, so the last quarter counts, and
    the mean over the images.
    """

    text: ClassVar[str] = "the loss still rises at the last steps: more steps would break more"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "On images that the baseline PGD does not break, the last quarter of the steps brings on average more than 0.35 of the whole "
        "rise of the cross-entropy, from the lowest of the path to the highest so far."
    )
    why: ClassVar[str] = (
        "An attack that stops while its loss rises leaves images that a longer one breaks. The robust accuracy is that of its "
        "number of steps."
    )
    remedy: ClassVar[str] = "Give more steps until the accuracy stays: --set pgd.steps=400."
    source: ClassVar[str] = (
        "Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (incomplete optimization)"
    )
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline", "path")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        path = probe.path
        if path is None:
            return None
        last = max(1, (len(path.losses) - 1) // 4)
        gains = 1 - path.heights(path.losses[:-last].amax(0))
        gain = float(gains[path.changing].mean())
        # The mean over no image is NaN.
        if not gain > _MOST:
            return None
        return self.finding(
            f"the last {last} steps of {probe.baseline_name} bring {gain:.2f} of the rise of the loss, on "
            f"{int(path.changing.sum())} unbroken images",
            gain=gain,
        )

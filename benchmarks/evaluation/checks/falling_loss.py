"""The flag of an attack whose loss is lower at the end than on the way."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["FallingLoss"]

_LEAST = 0.6
"""The least mean height of the last loss between the lowest and the highest of the path.

In the gallery at radii of 0.05 and 0.15, honest models have 0.86 or more. A rippled input leaves 0.3, other shattered gradients 0.2, and a
reversed gradient 0.
"""


class FallingLoss(Check):
    """With step sizes that fall to 0, gradient ascent ends near the highest loss of its path."""

    text: ClassVar[str] = "the loss of PGD ends low: its steps do not raise it as the gradient promises"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "On images that the baseline PGD does not break, the cross-entropy of the last iterate, between the lowest (0) and the highest "
        "(1) of the path, is below 0.6 on average. The loss of a model whose draws are sampled is not judged, nor images whose loss "
        "never changes."
    )
    why: ClassVar[str] = (
        "Each step goes where the gradient says that the loss rises. If it ends low, the gradient misleads: it is that of "
        "another function, shattered, or noisy. The unbroken images may not be robust."
    )
    remedy: ClassVar[str] = (
        "Follow the gradient of a smooth approximation (BPDA) or of another loss; use attacks by scores: --suite standard."
    )
    source: ClassVar[str] = (
        "Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022; its first version, arXiv 2106.09947v1, has the "
        "indicator of an increasing loss of the attacker"
    )
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline", "path")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        path = probe.path
        if path is None:
            return None
        if path.sampled:
            raise UndecidedError("each step has its own sample of draws, which moves the loss too")
        height = float(path.heights(path.losses[-1])[path.changing].mean())
        # The mean over no image is NaN.
        if not height < _LEAST:
            return None
        return self.finding(
            f"the loss of {probe.baseline_name} ends at {height:.2f} of the way from the lowest to the highest of its path, on "
            f"{int(path.changing.sum())} unbroken images",
            height=height,
        )

"""The flag of a model that gives no input gradients at all."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["NoGradients"]


class NoGradients(Check):
    """The baseline attack of such a model is Square, and the checks that need gradients are left out."""

    text: ClassVar[str] = "the model gives no input gradients: only attacks by scores and decisions can be run"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The logits have no graph to the input, or the backward pass ends with an error. In a cascade, an attack that needs "
        "gradients then breaks nothing, and those that need none run."
    )
    why: ClassVar[str] = (
        "Attacks by scores and decisions find less than attacks by gradients with the same number of passes, so the robust "
        "accuracy may be overstated."
    )
    remedy: ClassVar[str] = (
        "Keep the graph (no torch.no_grad, detach or NumPy inside forward), or give the layer a differentiable approximation "
        "(BPDA)."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 4.1; "
        "Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (unavailable gradients)"
    )
    needs: ClassVar[tuple[Need, ...]] = ()

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return batch.no_gradients

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        reason = probe.without_gradients
        return self.finding(f"a backward pass ends with: {reason}") if reason else None

    def passes(self, probe: ModelProbe) -> int:
        return 2

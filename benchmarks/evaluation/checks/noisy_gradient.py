"""The flag of input gradients that are mostly noise: two of the same images disagree."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["NoisyGradient"]

_SIGNAL = 0.5
"""The least mean cosine of two gradients. The cosine is the share of the signal in the squared length.

Gaussian noise of 0.15 to 0.6 on the pixels leaves 0.91 to 0.99 with 10 draws.
"""

_DEVIATIONS = 3.1
"""The standard errors between the mean cosine and the limit: level 0.001."""

_IMAGES = 16
"""The most images whose gradients are compared."""


class NoisyGradient(Check):
    """Two gradients with independent draws have the signal in common, and not the noise."""

    text: ClassVar[str] = (
        "two gradients at the same images have different directions: the attack follows noise, and needs more draws"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The mean cosine between two gradients of the cross-entropy at the same images, each over as many draws as the attack uses, "
        "is below 0.5 by more than 3.1 standard errors over the images (level 0.001): more than half of the squared length of a "
        "gradient is noise."
    )
    why: ClassVar[str] = (
        "An attack that follows noise finds less than one whose gradients are exact. With a randomized defense too few draws "
        "are averaged; with a deterministic one the backward pass is randomized."
    )
    remedy: ClassVar[str] = (
        "Average more draws: --eot 100. The cosine c becomes 0.9 with 9 (1 - c) / c times as many. Against noise in the backward "
        "pass alone, replace the layer's gradient (BPDA)."
    )
    source: ClassVar[str] = (
        "Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples. ICML 2018 (EOT); Gao, Shumailov, Fawaz, "
        "Papernot: On the Limitations of Stochastic Pre-processing Defenses. NeurIPS 2022"
    )
    needs: ClassVar[tuple[Need, ...]] = ("gradients",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        rows = torch.arange(min(len(probe), _IMAGES), device=probe.images.device)
        source = probe.source(rows)
        first, second = (
            _gradients(source.gradient(probe.images[rows], probe.labels[rows], cross_entropy)[1]) for _ in range(2)
        )
        # The check zero-gradient reports gradients of zero.
        some = first.any(dim=1) & second.any(dim=1)
        cosines = torch.cosine_similarity(first[some], second[some])
        if len(cosines) < 2:
            return None
        mean, error = float(cosines.mean()), float(cosines.std() / len(cosines) ** 0.5)
        if mean + _DEVIATIONS * error >= _SIGNAL:
            return None
        draws = f"over {source.draws} draws each " if source.draws > 1 else ""
        return self.finding(
            f"two gradients {draws}at the same images have a mean cosine of {mean:.2f}, with a standard error of {error:.2f}",
            cosine=mean,
            standard_error=error,
        )

    def passes(self, probe: ModelProbe) -> int:
        return round(4 * min(len(probe), _IMAGES) * probe.gradient_cost)


def _gradients(gradient: Tensor) -> Tensor:
    """``(N, C * H * W)``, scaled so that small ones do not underflow."""
    flat = gradient.flatten(1).double()
    return flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)

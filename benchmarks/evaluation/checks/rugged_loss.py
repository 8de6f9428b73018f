"""The flag of a model whose margin changes much at random points nearby."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.bpda import use_surrogates
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits, require_repeatable
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["RuggedLoss"]

_RADIUS = 4 / 255
"""The largest change of a pixel: the paper's noise is uniform in a box of the width 8/255."""

_CHANGE = 0.1
"""The relative change above which the flag is raised, as in the paper. Honest models of the gallery have 0.01 to 0.05."""

_IMAGES, _POINTS = 32, 8
"""The most images, and the random points near each. The mean over all of them has a relative error of a few percent."""


class RuggedLoss(Check):
    """Noise of a few of 255 levels hardly changes what a smooth model says.

    The paper's changes are relative to the loss of each image. Here they are relative to the mean margin of all images, so that images near
    a decision boundary do not count for more. A randomized model is measured at fixed draws.
    """

    text: ClassVar[str] = "tiny random noise changes the margin much: a gradient says little about the loss a step away"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "At random points in which each pixel differs from the image by up to 4/255, the margin of the right class differs by more than a "
        "tenth of the mean margin, on average over the images. Layers with a differentiable approximation (BPDA) are replaced by it."
    )
    why: ClassVar[str] = (
        "A step of an attack is larger than this noise. Where such a small change moves the loss as much, the gradient at a "
        "point does not tell where the loss rises."
    )
    remedy: ClassVar[str] = (
        "Follow the mean gradient over points nearby or a smooth approximation (BPDA); use attacks by scores: --suite standard."
    )
    source: ClassVar[str] = (
        "Pintor, Demetrio, Sotgiu et al.: Indicators of Attack Failure. NeurIPS 2022 (unstable predictions)"
    )
    needs: ClassVar[tuple[Need, ...]] = ()

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        require_repeatable(probe.measured)
        rows = torch.arange(min(len(probe), _IMAGES), device=probe.images.device)
        images, labels = probe.images[rows], probe.labels[rows]

        def margins(points: Tensor) -> Tensor:
            return margin(model_logits(probe.measured, points), labels).double()

        with use_surrogates(probe.model):
            clean = margins(images)
            differences = []
            for point in range(_POINTS):
                noise = 2 * probe.random(rows, f"rugged loss {point}").uniform(images.shape[1:]) - 1
                differences.append((margins((images + _RADIUS * noise).clamp(0, 1)) - clean).abs())
        change = float(torch.stack(differences).mean() / clean.abs().mean())
        if not change > _CHANGE:
            return None
        return self.finding(
            f"noise of up to 4/255 on the pixels changes the margin by {change:.2f} of its mean size on {len(rows)} images",
            change=change,
        )

    def passes(self, probe: ModelProbe) -> int:
        return (_POINTS + 1) * min(len(probe), _IMAGES)

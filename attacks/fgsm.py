"""The fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image, steepest_ascent

__all__ = ["FGSM"]


class FGSM(FixedRadiusAttack):
    """Fast gradient sign method: one step of length eps along the gradient of the cross-entropy.

    ``x + eps sign(grad CE(f(x), y))`` in linf (section 4 of the paper) and ``x + eps grad / |grad|_2`` in l2, clipped to
    [0, 1]. A targeted attack descends the cross-entropy of the target class.
    """

    paper: ClassVar[str] = (
        "Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples. ICLR 2015, arXiv 1412.6572"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        _, gradient = source.gradient(images, labels, cross_entropy)
        step = steepest_ascent(-gradient if threat.targeted else gradient, threat.norm)
        return (images + per_image(threat.eps, images).to(images.dtype) * step).clamp(0, 1)

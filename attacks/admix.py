"""MI-FGSM with gradients over mixed and scaled copies of the image."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.copies import mean_gradient, scaled_copies
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["Admix"]

_MIRRORED = ((2,), (3,), (2, 3))
"""The dimensions along which the image is mirrored, of each mixed copy."""


class Admix(MIFGSM):
    """MI-FGSM with the mean gradient over copies to which a portion of another picture is added, at several scales.

    The copies are ``(x + portion x') / 2^i`` (equation 5 of the paper). The paper takes x' from the batch, as images of other
    classes. Here x' is the iterate mirrored along one axis or both, so that no other image has a part in the result. The gradient
    does not pass through x'.
    """

    paper: ClassVar[str] = (
        "Wang, He, Wang, He: Admix: Enhancing the Transferability of Adversarial Attacks. ICCV 2021, arXiv 2102.00436"
    )

    scales: int = Field(
        5, ge=1, description="scales of each mixed copy, each half as bright as the one before (m1 in the paper)"
    )
    portion: float = Field(0.2, ge=0, le=1, description="weight of the mirrored image (eta in the paper)")

    def gradient(
        self, source: GradientSource, points: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        mixed = torch.stack([torch.add(points, points.flip(axes), alpha=self.portion) for axes in _MIRRORED], 1)
        return mean_gradient(source, [scaled_copies(mixed, self.scales)], labels)

"""NI-FGSM with gradients over scaled copies of the image."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.copies import mean_gradient, scaled_copies
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.ni_fgsm import NIFGSM

__all__ = ["SINIFGSM"]


class SINIFGSM(NIFGSM):
    """NI-FGSM with the mean gradient over the copies ``x, x / 2, x / 4, ...`` of the image (equation 7 of the paper).

    Networks classify darker copies of an image nearly alike, so that each copy acts as one more surrogate model.
    """

    paper: ClassVar[str] = NIFGSM.paper

    scales: int = Field(
        5, ge=1, description="copies of the image, each half as bright as the one before (m in the paper)"
    )

    def gradient(
        self, source: GradientSource, points: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        return mean_gradient(source, [scaled_copies(points.unsqueeze(1), self.scales)], labels)

"""No attack: the images as they are."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["NoAttack"]


class NoAttack(FixedRadiusAttack):
    """No attack: the accuracy on the images as they are, corrupted or not. Its radius is 0."""

    paper: ClassVar[str] = "none"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1", "l0")
    access: ClassVar[Literal["gradients", "scores", "decisions"]] = "decisions"
    perturbs: ClassVar[bool] = False

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images

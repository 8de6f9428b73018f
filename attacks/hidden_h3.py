"""Steps towards the hidden representation of a guide of another class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import Loss, closed_form, cross_entropy, slope_and_value
from robustbench_cli.attacks.base.search.hidden_steps import HiddenSteps
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, per_image, steepest_ascent

__all__ = ["HiddenH3"]


class HiddenH3(HiddenSteps):
    """Steps that minimize the distance to the hidden representation of a guide, which the model takes for another class.

    In the style of the paper, whose full text was not at hand: its abstract only names three attacks with hidden
    representations. The loss is ``-|h(x') - h(g)|_2`` for the guide g, under one draw of a randomized model.

    Each image has its own guide, so that no other image of the batch has a part in its result. The guide's class is the second most
    likely one, or the target. ``guide_steps`` steps lead from the image down the cross-entropy of this class, in a ball of
    ``guide_radius`` times the radius. The attack is mostly weaker than ``pgd``.
    """

    guide_steps: int = Field(20, ge=1, description="steps that make the guide")
    guide_radius: float = Field(
        4, ge=1, description="radius around the image in which the guide is, as a multiple of eps"
    )

    def objective(self, threat: Threat) -> tuple[Loss | None, float]:
        return None, -1

    def references(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> Tensor:
        classes = labels if threat.targeted else _second_most_likely(source.logits(images).mean(0), labels)
        # A label of -1 is not counted among the zero gradients: here, the class is to be reached.
        goals = torch.stack([torch.full_like(classes, -1), classes], 1)
        eps = self.guide_radius * threat.eps
        feasible, sizes = FeasibleSet(images, replace(threat, eps=eps)), per_image(eps, images).to(images.dtype)
        guides = images
        for step in range(self.guide_steps):
            _, gradient = source.gradient(guides, goals, _of_second_column)
            size = 2 * (1 - step / self.guide_steps) * sizes
            guides = feasible.project(guides - size * steepest_ascent(gradient, threat.norm))
        return guides


def _slope(logits: Tensor, goals: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    return slope_and_value(cross_entropy, logits, goals[:, 1])


@closed_form(_slope)
def _of_second_column(logits: Tensor, goals: Tensor) -> Tensor:
    return cross_entropy(logits, goals[:, 1])


def _second_most_likely(logits: Tensor, labels: Tensor) -> Tensor:
    """The class ``(N,)`` of the largest logit ``(N, K)`` but that of the label."""
    return logits.scatter(1, labels[:, None], -float("inf")).argmax(1)

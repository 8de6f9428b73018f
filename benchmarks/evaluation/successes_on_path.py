"""The successes on the path of an attack, which it may not return."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.threat import Threat, distance, per_image

__all__ = ["SuccessesOnPath"]

_TOLERANCE = 1e-4
"""How far outside the ball a point may be; a projection moves it inside before it is scored."""


class SuccessesOnPath:
    """The first point on the path of an attack that reaches the goal, for each image of a batch.

    It looks at queries of the whole batch, in which the images are in their order, and at deterministic models. It does not look at an
    attack that keeps its best iterates itself.

    Args:
        source: The source that the attack queries.
        images: ``(N, C, H, W)`` in [0, 1].
        goals: ``(N,)``, the classes to leave, or to reach if the threat is targeted.
        threat: The threat.

    Attributes:
        points: ``(N, C, H, W)``, the first success of each image; the image itself where there is none.
        found: ``(N,)``, whether there is one.
    """

    def __init__(self, source: GradientSource, images: Tensor, goals: Tensor, threat: Threat) -> None:
        self._source, self._images, self._goals, self._threat = source, images, goals, threat
        self.points = images
        self.found = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def __call__(self, points: Tensor, logits: Tensor) -> None:
        """Looks at a query; see :attr:`~robustbench_cli.attacks.base.gradients.source.GradientSource.watch`.

        Args:
            points: ``(n, C, H, W)``.
            logits: ``(D, n, K)``.
        """
        if self._source.keeps_best or len(logits) > 1 or points.shape != self._images.shape:
            return
        classes = self._source.decisions_of(logits)[0]
        reached = classes == self._goals if self._threat.targeted else (classes != self._goals) & (classes >= 0)
        new = reached & ~self.found
        if not bool(new.any()):
            return
        new &= distance(points, self._images, self._threat.norm) <= self._threat.eps + _TOLERANCE
        self.points = torch.where(per_image(new, points), points.detach(), self.points)
        self.found |= new

"""The targeted version of the fast adaptive boundary attack."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.fab import FAB

__all__ = ["FABT"]


class FABT(FAB):
    """FAB towards several target classes in turn: one gradient a step, for any number of classes.

    The targets are the ``n_target_classes`` most likely other classes of the clean image. An iterate that is assigned to
    any class but the label counts as a success. If the threat itself is targeted, its target is the only one.
    """

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        if threat.targeted:
            return super().run(source, images, labels, threat, random)
        best = BestPerturbation(source, images, labels, threat.norm, Goal.of(source, targeted=False))
        logits = source.logits(images).mean(0)
        others = logits.scatter(1, labels[:, None], -torch.inf).sort(dim=1, descending=True).indices
        for start in self._starts(images, best, threat.norm, random):
            for target in others[:, : min(self.n_target_classes, logits.shape[1] - 1)].unbind(1):
                self._search(source, images, start, target, Goal.of(source, targeted=True), threat.norm, best)
        best.shorten()
        return best.images

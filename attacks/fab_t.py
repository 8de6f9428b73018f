"""The targeted version of the fast adaptive boundary attack."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.linearization import Plane, plane_of_goal
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal, Shortfall
from robustbench_cli.attacks.base.search.targeted_restarts import TargetedRestarts
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.fab import FAB

__all__ = ["FABT"]


class FABT(FAB):
    """FAB towards several target classes: one gradient a step and target, for any number of classes.

    The targets are the ``n_target_classes`` most likely other classes of the clean image. An iterate that is assigned to
    any class but the label counts as a success. If the threat itself is targeted, its target is the only one. As many
    targets are rows of one batch as fit into it.
    """

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        if threat.targeted:
            return super().run(source, images, labels, threat, random)
        best = BestPerturbation(source, images, labels, threat.norm, Goal.of(source, targeted=False))
        logits = source.logits(images).mean(0)
        others = logits.scatter(1, labels[:, None], -torch.inf)
        targets = others.topk(min(self.n_target_classes, logits.shape[1] - 1), dim=1).indices
        for start in self._starts(images, best, threat.norm, random):
            before = source.queries
            for part in source.size.slices(targets.shape[1], cost=source.cost * len(images)):
                # Targets that take turns get the draws that they would have together.
                source.queries = before
                best.keep_nearest_of(self._towards(source, images, start, labels, targets, part, threat.norm))
        TargetedRestarts(count=self.targeted_restarts, threat=threat).run(source, images, labels, best, random)
        best.shorten()
        return best.images

    def _towards(
        self,
        source: GradientSource,
        images: Tensor,
        start: Tensor,
        labels: Tensor,
        targets: Tensor,
        part: slice,
        norm: Norm,
    ) -> BestPerturbation:
        """The smallest perturbations of a run towards the targets ``part`` of ``(N, T)``, with a row for each of them."""
        chosen = targets[:, part]
        count = chosen.shape[1]

        def repeated(values: Tensor) -> Tensor:
            """``(N * count, ...)`` of ``(N, ...)``: the rows of one image are adjacent."""
            return values.repeat_interleave(count, 0)

        rows = repeated(torch.arange(len(images), device=images.device))
        numbers = torch.arange(part.start, part.stop, device=images.device).repeat(len(images))
        goals, towards = chosen.flatten(), Goal.of(source, targeted=True)
        best = BestPerturbation(
            source,
            repeated(images),
            repeated(labels),
            norm,
            Goal.of(source, targeted=False),
            rows=rows,
            copies=numbers,
        )

        def plane_at(iterates: Tensor) -> tuple[Shortfall, Plane]:
            shortfall, plane = plane_of_goal(source, iterates, goals, towards, rows=rows, copies=numbers)
            return best.shortfall(shortfall.logits, shortfall.tolerance), plane

        self._boundary_steps.descend(repeated(start), repeated(images), plane_at, best)
        return best

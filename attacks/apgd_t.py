"""Auto-PGD towards one class after the other."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import Loss, targeted_dlr
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDT"]


class APGDT(APGD):
    """Auto-PGD on the targeted difference of logits ratio, towards one likely class after the other.

    The targets are the classes that the clean image is most like, by the mean of the logits over the draws; each begins
    with the images that still stand. Where the threat itself is targeted, its target is the only one. Of fewer classes
    there are fewer targets; of three the ratio is to the mean of the second and the third logit, of two the loss is the
    margin.

    With ``ranking_steps`` every target is first tried with a few steps, and only the ``top_k`` that came nearest are
    aimed at with all of them: the ranking of targets of the Minimum-Margin attack (Gao et al., ICML 2022).
    """

    n_target_classes: int = Field(
        9,
        ge=1,
        description="number of target classes, the most likely ones first",
        json_schema_extra={"formerly": "targets"},
    )
    ranking_steps: int = Field(
        0,
        ge=0,
        description="steps towards each target to rank the targets; 0 for no ranking",
        json_schema_extra={"formerly": "trial_steps"},
    )
    top_k: int = Field(
        3,
        ge=1,
        description="number of best-ranked targets that get the full number of steps",
        json_schema_extra={"formerly": "finalists"},
    )

    def fewest_classes(self, *, targeted: bool) -> int:
        return 4 if targeted else max(4, self.n_target_classes + 1)

    def loss(self, threat: Threat) -> Loss:
        return targeted_dlr if threat.targeted else _towards_target

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        if threat.targeted:
            return super().run(source, images, labels, threat, random)
        best = BestIterates(source, images, labels, threat)
        logits = source.logits(images)
        best.offer(images, logits)

        def aim(attack: APGDT, targets: Tensor, stream: Random) -> Tensor:
            """Aims at targets ``(N, T)`` one after the other; returns how near each came, small where it is near."""
            margins = []
            for target in targets.unbind(1):
                own = stream.split()
                rows = best.begin()
                if len(rows):
                    goals = torch.stack([labels, target], 1)[rows]
                    attack.climb(source, images[rows], goals, threat.select(rows), own.select(rows), best)
                margins.append(best.margins_of_run)
            return torch.stack(margins, 1)

        # The label comes first of all, and the classes after it by their logits.
        order = logits.mean(0).scatter(1, labels[:, None], torch.inf).sort(dim=1, descending=True, stable=True).indices
        for stream in [random.split() for _ in range(self.restarts)]:
            targets = order[:, 1 : 1 + self.n_target_classes]
            if self.ranking_steps and targets.shape[1] > self.top_k:
                margins = aim(self.model_copy(update={"steps": self.ranking_steps}), targets, stream)
                nearest = margins.argsort(dim=1, stable=True)[:, : self.top_k]
                targets = targets.gather(1, nearest)
            aim(self, targets, stream)
        return best.images


def _towards_target(logits: Tensor, labels: Tensor) -> Tensor:
    """Large where the target is near: ``(M,)`` of labels ``(M, 2)``, the class to leave and the target."""
    return -targeted_dlr(logits, labels[:, 1])

"""Auto-PGD towards several target classes."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import Loss, targeted_dlr, towards_target
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.apgd import APGD
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["APGDT"]


class APGDT(APGD):
    """Auto-PGD on the targeted difference of logits ratio, for the most likely target classes.

    The loss is equation 7 of Croce and Hein (ICML 2020). The targets are the classes with the largest logits of the clean
    image, averaged over the draws. As many targets as fit the batch size are attacked together, as rows of one batch, and
    all rows of an image leave once one of them breaks it. The next targets start with the images that are still unbroken.
    If the threat itself is targeted, its target is the only one. With fewer classes there are fewer targets. With three
    classes the ratio divides by the mean of the second and third logits; with two the loss is the margin.

    With ``ranking_steps``, all targets are first tried with a few steps, and only the best ``top_k`` get the full number.
    This is the target ranking of the Minimum-Margin attack (Gao et al., ICML 2022).
    """

    n_target_classes: int = Field(
        9,
        ge=1,
        description="number of target classes, the first ones in the order of the targets",
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

    def min_classes(self, *, targeted: bool) -> int:
        return 4 if targeted else max(4, self.n_target_classes + 1)

    def loss(self, threat: Threat) -> Loss:
        return targeted_dlr if threat.targeted else towards_target

    def classes_in_order(
        self, source: GradientSource, images: Tensor, labels: Tensor, logits: Tensor, threat: Threat
    ) -> Tensor:
        """The targets of each image in the order in which they are tried, after its label.

        Args:
            source: Computes gradients.
            images: ``(N, C, H, W)``, the clean images.
            labels: ``(N,)``.
            logits: ``(N, K)``, the mean over the draws.
            threat: The threat model.

        Returns:
            ``(N, T)`` int64, T <= K: the label, and then the other classes by decreasing logit.
        """
        return logits.scatter(1, labels[:, None], torch.inf).sort(dim=1, descending=True, stable=True).indices

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        if threat.targeted:
            return super().run(source, images, labels, threat, random)
        best = BestIterates(source, images, labels, threat)
        logits = source.logits(images)
        best.offer(images, logits)

        def attack_targets(attack: APGDT, targets: Tensor, stream: Random) -> Tensor:
            """Attacks towards targets ``(N, T)``. Returns the smallest margins ``(N, T)``, infinite once broken."""
            margins = torch.full(targets.shape, torch.inf, dtype=torch.float64, device=images.device)
            streams, done = [stream.split() for _ in range(targets.shape[1])], 0
            while done < len(streams) and (unbroken := len(best.unbroken())):
                together = int(min(_targets_at_once(source, images, unbroken), len(streams) - done))
                rows = best.begin_restart(copies=together)
                columns = done + best.copies
                starts = Random.joined(streams[done : done + together]).select(best.copies * len(images) + rows)
                goals = torch.stack([labels[rows], targets[rows, columns]], 1)
                attack.climb(source, images[rows], goals, threat.select(rows), starts, best)
                margins[best.rows, done + best.copies] = best.margins.double()
                done += together
            return margins

        order = self.classes_in_order(source, images, labels, logits.mean(0), threat)
        for stream in [random.split() for _ in range(self.restarts)]:
            targets = order[:, 1 : 1 + self.n_target_classes]
            if self.ranking_steps and targets.shape[1] > self.top_k:
                margins = attack_targets(self.model_copy(update={"steps": self.ranking_steps}), targets, stream)
                nearest = margins.argsort(dim=1, stable=True)[:, : self.top_k]
                targets = targets.gather(1, nearest)
            attack_targets(self, targets, stream)
        return best.images


def _targets_at_once(source: GradientSource, images: Tensor, unbroken: int) -> float:
    """How many targets of the unbroken images fill the rows that pass through the model at once; infinite for all.

    Without a limit, a GPU takes all targets, and a CPU one after another: an image that is broken towards one target need
    not be attacked towards the next.
    """
    if source.size.rows is None:
        return math.inf if images.is_cuda else 1
    return max(1, int(source.size.rows // (source.cost * unbroken)))

"""The deployed decision rule as a judge of images: what it says of them, and which of several it survives least."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from robustbench_cli.attacks.base.answers import REJECTED
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.measured import MeasuredModel
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.random import seed_draws, seed_from
from robustbench_cli.attacks.base.source import GradientSource
from robustbench_cli.attacks.base.threat import distance, per_image

__all__ = ["SELECTION_DRAWS", "Candidates", "Judge"]

SELECTION_DRAWS = 50
"""Draws that judge which of several images survives least, where all the draws that there are cost more.

They are forward passes only. With 10, the better of two attacks was mistaken so often that the worst case over both
could come out above the better one alone.
"""


class Judge:
    """The deployed decision rule, asked on its own draws: some to score on, others to choose on.

    Args:
        model: The deployed one.
        repeats: R, the draws to score on.
        seed: Of all draws.
        batch_size: Rows that pass through the model at once.
        single_draw: Whether every batch is judged on draws of its own, which are scored and chosen on.
    """

    def __init__(
        self,
        model: MeasuredModel,
        *,
        repeats: int,
        seed: int,
        batch_size: int,
        single_draw: bool = False,
    ) -> None:
        self._seed = seed
        self._single_draw = single_draw
        self._judged: Counter[int] = Counter()
        self._randomized = model.randomized
        few = model.cost_of_all_draws is not None and model.cost_of_all_draws <= SELECTION_DRAWS
        self._scores = model.source(repeats, batch_size=batch_size)
        self._choices = model.source("exact" if few else SELECTION_DRAWS, batch_size=batch_size)

    @property
    def forwards(self) -> float:
        """Images passed through the model, in passes of one draw."""
        return self._scores.forwards + self._choices.forwards

    def __call__(self, images: Tensor, labels: Tensor, start: int, *, perturbed: bool) -> tuple[Tensor, Tensor]:
        """Judges a batch; the draws depend on the seed and the batch's place, not on the images.

        Those of single draws depend also on how many batches were judged before.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
            start: The batch's place.
            perturbed: Whether an attack has made them, so that to reject them is as good as to see their classes.

        Returns:
            Predictions ``(R, N)``, see :func:`~robustbench_cli.attacks.base.decision.decisions`; and how well each
            image survives ``(N,)``.
        """
        if self._single_draw:
            # Each batch is counted for itself, so that its draws do not hang on which others this process has judged.
            self._judged[start] += 1
            scored = self._ask(self._scores, images, f"score {self._judged[start]}", start)
            return self._judged_by(scored, scored, labels, perturbed=perturbed)
        scored = self._ask(self._scores, images, "score", start)
        chosen_on = self._ask(self._choices, images, "choose", start) if self._randomized else scored
        return self._judged_by(scored, chosen_on, labels, perturbed=perturbed)

    def _judged_by(
        self, scored: Tensor, chosen_on: Tensor, labels: Tensor, *, perturbed: bool
    ) -> tuple[Tensor, Tensor]:
        chosen = self._choices.decided(chosen_on)
        return self._scores.decided(scored), _survival(chosen_on, chosen, labels, perturbed=perturbed)

    def _ask(self, source: GradientSource, images: Tensor, purpose: str, start: int) -> Tensor:
        seed_draws(seed_from(self._seed, purpose, start))
        return source.logits(images)


def _survival(logits: Tensor, predictions: Tensor, labels: Tensor, *, perturbed: bool) -> Tensor:
    """How well images survive: the share of draws whose deployed prediction is right; between equal shares, the margin.

    The prediction decides and not the margin's sign, which a tie or an infinite logit sets apart from it. If the images
    are perturbed, a rejection is right too.
    """
    right = predictions == labels
    if perturbed:
        right |= predictions == REJECTED
    margins = margin(logits, labels.expand(len(logits), -1)).double().nan_to_num(0.0, posinf=1e300, neginf=-1e300)
    bounded = (margins / (1 + margins.abs())).mean(0)
    return right.double().mean(0) + bounded / (2 * len(logits) + 1)


class Candidates:
    """What an attack makes of a batch, goal after goal, judged as it comes: only the worst images are kept.

    Args:
        judge: Judges them.
        start: The batch's place in the data slice.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        goals: ``(T, N)`` classes to reach; ``(0, N)`` for an untargeted attack.
        norm: In which distances are measured.

    Attributes:
        worst: ``(N, C, H, W)``, the perturbed images that the deployed rule survives least.
        predictions: ``(N,)``, what it says of them in the first draw.
    """

    def __init__(self, judge: Judge, start: int, images: Tensor, labels: Tensor, goals: Tensor, norm: Norm) -> None:
        self._judge = judge
        self._start = start
        self._images = images
        self._labels = labels
        self._norm = norm
        predictions, survival = judge(images, labels, start, perturbed=False)
        self._alone = {"labels": labels, "targets": goals, "clean": predictions, "clean_survival": survival}
        self._each: dict[str, list[Tensor]] = {name: [] for name in ("perturbed", "survival", "distance", "l2", "linf")}
        self._least = torch.full_like(survival, torch.inf)
        self.worst = images
        self.predictions = predictions[0]

    def add(self, perturbed: Tensor) -> None:
        """Takes the images of one goal."""
        predictions, survival = self._judge(perturbed, self._labels, self._start, perturbed=True)
        figures = {
            "perturbed": predictions,
            "survival": survival,
            "distance": distance(perturbed, self._images, self._norm),
            "l2": distance(perturbed, self._images, "l2"),
            "linf": distance(perturbed, self._images, "linf"),
        }
        for name, figure in figures.items():
            self._each[name].append(figure)
        worse = survival < self._least
        self._least = torch.where(worse, survival, self._least)
        self.worst = torch.where(per_image(worse, perturbed), perturbed, self.worst)
        self.predictions = torch.where(worse, predictions[0], self.predictions)

    def arrays(self) -> dict[str, Any]:
        """The fields of :class:`Outcomes`."""
        tensors = self._alone | {name: torch.stack(figures) for name, figures in self._each.items()}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

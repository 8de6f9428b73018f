"""The deployed decision rule as a judge of images: what it says of them, and which of several it survives least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.models.logit_noise import measured_noise
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.attacks.base.threat import distance, per_image

__all__ = ["SELECTION_DRAWS", "Candidates", "Scorer"]

SELECTION_DRAWS = 50
"""Draws that judge which of several images survives least, where all the draws that there are cost more.

They are forward passes only. With 10, the better of two attacks was mistaken so often that the worst case over both
could come out above the better one alone.
"""


class Scorer:
    """The deployed decision rule, asked on its own draws: some to score on, others to choose on.

    An image's draws are a function of the seed, its place and the draw's number: whatever images it is judged among, and
    whatever has been made of it, it meets the same draws.

    Args:
        model: The deployed one.
        repeats: R, the draws to score on.
        seed: Of all draws.
        single_draw: Whether every candidate is judged on draws of its own, which are scored and chosen on.

    Attributes:
        randomized: Whether the model is.
    """

    def __init__(self, model: MeasuredModel, *, repeats: int, seed: int, single_draw: bool = False) -> None:
        self._model = model
        self._repeats = repeats
        self._seed = seed
        self._single_draw = single_draw
        self.randomized = model.randomized
        few = model.cost_of_all_draws is not None and model.cost_of_all_draws <= SELECTION_DRAWS
        self._scores = model.source(repeats)
        self._choices = model.source("exact" if few else SELECTION_DRAWS)

    @property
    def forwards(self) -> float:
        """Images passed through the model, in passes of one draw."""
        return self._scores.forwards + self._choices.forwards

    def __call__(self, images: Tensor, labels: Tensor, places: Tensor, candidate: int) -> tuple[Tensor, Tensor]:
        """Judges images.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
            places: ``(N,)``, of the images in the data slice.
            candidate: Which of the things that were made of the images these are; 0 for the clean images. An attack has
                made the others, so that to reject them is as good as to see their classes.

        Returns:
            Predictions ``(R, N)``, see :func:`~robustbench_cli.attacks.base.models.decision.decisions`; and how well each
            image survives ``(N,)``.
        """
        if self._single_draw:
            scored = chosen_on = self._ask(self._scores, images, f"score {candidate}", places)
        else:
            scored = self.scored(images, places)
            chosen_on = self._ask(self._choices, images, "choose", places) if self.randomized else scored
        chosen = self._choices.decisions_of(chosen_on)
        return self._scores.decisions_of(scored), _survival(chosen_on, chosen, labels, perturbed=candidate > 0)

    def of_copy(self, model: nn.Module) -> Scorer:
        """The same rule for a copy of the model, which is asked nothing for it."""
        measured = self._model.of_copy(model)
        return Scorer(measured, repeats=self._repeats, seed=self._seed, single_draw=self._single_draw)

    @property
    def noise(self) -> float | None:
        """See :func:`~robustbench_cli.attacks.base.models.logit_noise.measured_noise`."""
        return measured_noise(self._scores)

    def scored(self, images: Tensor, places: Tensor) -> Tensor:
        """The logits ``(R, N, K)`` that score images ``(N, C, H, W)`` with these places ``(N,)``."""
        return self._ask(self._scores, images, "score", places)

    def _ask(self, source: GradientSource, images: Tensor, purpose: str, places: Tensor) -> Tensor:
        source.bind_draws(seed_from(self._seed, purpose), places)
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

    What an attack makes of an image also counts as it is in a file of 8 bits: a model can tell the numbers in between from
    those of real images, and defend only against them.

    Args:
        scorer: Judges them.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        places: ``(N,)``, of the images in the data slice.
        goals: ``(T, N)`` classes to reach; ``(0, N)`` for an untargeted attack.
        norm: In which distances are measured.
        rounded: Rounds perturbed images to 8 bits, inside the threat model; ``None`` where they are not to count so.
        minimal_norm: Whether the attack looks for the smallest perturbation: a success is then not exchanged for another.

    Attributes:
        worst: ``(N, C, H, W)``, the perturbed images that the deployed rule survives least.
        failed: ``(N,)``, where the model has given what is not a number.
    """

    def __init__(
        self,
        scorer: Scorer,
        images: Tensor,
        labels: Tensor,
        places: Tensor,
        goals: Tensor,
        norm: Norm,
        rounded: Callable[[Tensor], Tensor] | None,
        *,
        minimal_norm: bool,
    ) -> None:
        self._judge = scorer
        self._images = images
        self._labels = labels
        self._places = places
        self._norm = norm
        self._rounded = rounded
        self._succeeded_below = 0.5 if minimal_norm else 0.0
        self._judged = 0
        predictions, survival = scorer(images, labels, places, 0)
        self._alone = {"labels": labels, "targets": goals, "clean": predictions, "clean_survival": survival}
        self._each: dict[str, list[Tensor]] = {name: [] for name in ("perturbed", "survival", "distance", "l2", "linf")}
        self._least = torch.full_like(survival, torch.inf)
        self.worst = images
        self.failed = (predictions == NO_NUMBER).any(0)

    def add(self, perturbed: Tensor) -> None:
        """Takes the images ``(N, C, H, W)`` of one goal."""
        predictions, survival = self._predicted(perturbed)
        standing = (survival > self._succeeded_below).nonzero().squeeze(1)
        if self._rounded is not None and len(standing):
            rounded = self._rounded(perturbed)[standing]
            other_predictions, other_survival = self._predicted(rounded, standing)
            lower = other_survival < (survival[standing] if self._succeeded_below == 0 else self._succeeded_below)
            rows = standing[lower]
            perturbed, predictions, survival = perturbed.clone(), predictions.clone(), survival.clone()
            perturbed[rows], survival[rows] = rounded[lower], other_survival[lower]
            predictions[:, rows] = other_predictions[:, lower]
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

    def _predicted(self, perturbed: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._judged += 1
        labels, places = (each if rows is None else each[rows] for each in (self._labels, self._places))
        predictions, survival = self._judge(perturbed, labels, places, self._judged)
        failed = (predictions == NO_NUMBER).any(0)
        if rows is None:
            self.failed = self.failed | failed
        else:
            self.failed[rows] |= failed
        return predictions, survival

    def arrays(self) -> dict[str, Any]:
        """The fields of :class:`Outcomes`."""
        tensors = self._alone | {name: torch.stack(figures) for name, figures in self._each.items()}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

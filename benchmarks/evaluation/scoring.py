"""Scores images by the deployed decision rule, and keeps the perturbed image that it survives least."""

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
"""Draws that select the image that survives least, where the exact expectation costs more.

They are forward passes only. With 10 draws the selection took the worse of two attacks so often that the per-image worst
case over both could have a higher robust accuracy than the better attack alone.
"""


class Scorer:
    """The deployed decision rule on held-out draws: one set of draws scores, another set selects.

    The draws of an image are a function of the seed, the image's index and the number of the draw. So an image meets the
    same draws in every batch, before and after a perturbation.

    Args:
        model: The deployed model.
        repeats: R, the number of draws that score.
        seed: Seed of all draws.
        single_draw: Whether each candidate gets draws of its own, which both score and select.

    Attributes:
        randomized: Whether the model is randomized.
    """

    def __init__(self, model: MeasuredModel, *, repeats: int, seed: int, single_draw: bool = False) -> None:
        self._model = model
        self._repeats = repeats
        self._seed = seed
        self._single_draw = single_draw
        self.randomized = model.randomized
        exact = model.cost_of_all_draws is not None and model.cost_of_all_draws <= SELECTION_DRAWS
        self._scoring = model.source(repeats)
        self._selection = model.source("exact" if exact else SELECTION_DRAWS)

    @property
    def forwards(self) -> float:
        """Images passed through the model, in passes of one draw."""
        return self._scoring.forwards + self._selection.forwards

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, candidate: int) -> tuple[Tensor, Tensor]:
        """Scores images.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
            indices: ``(N,)``, the images' indices in the data slice.
            candidate: The number of the candidate; 0 for the clean images. The others are perturbed, and a rejection of a
                perturbed image is as good as its right class.

        Returns:
            Predictions ``(R, N)``, see :func:`~robustbench_cli.attacks.base.models.decision.decisions`; and the survival
            ``(N,)`` of each image.
        """
        if self._single_draw:
            scoring = selection = self._logits(self._scoring, images, f"score {candidate}", indices)
        else:
            scoring = self.logits(images, indices)
            selection = self._logits(self._selection, images, "choose", indices) if self.randomized else scoring
        selecting = self._selection.decisions_of(selection)
        return self._scoring.decisions_of(scoring), _survival(selection, selecting, labels, perturbed=candidate > 0)

    def of_copy(self, model: nn.Module) -> Scorer:
        """The same rule for a copy of the model, without a query to the copy."""
        measured = self._model.of_copy(model)
        return Scorer(measured, repeats=self._repeats, seed=self._seed, single_draw=self._single_draw)

    def decisions_of(self, logits: Tensor) -> Tensor:
        """The predictions ``(R, N)`` for logits ``(R, N, K)`` of :meth:`logits`."""
        return self._scoring.decisions_of(logits)

    @property
    def noise(self) -> float | None:
        """See :func:`~robustbench_cli.attacks.base.models.logit_noise.measured_noise`."""
        return measured_noise(self._scoring)

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """The logits that score images.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            indices: ``(N,)``, the images' indices in the data slice.

        Returns:
            ``(R, N, K)``.
        """
        return self._logits(self._scoring, images, "score", indices)

    def _logits(self, source: GradientSource, images: Tensor, purpose: str, indices: Tensor) -> Tensor:
        source.bind_draws(seed_from(self._seed, purpose), indices)
        return source.logits(images)


def _survival(logits: Tensor, predictions: Tensor, labels: Tensor, *, perturbed: bool) -> Tensor:
    """The share of draws with the right prediction; between equal shares the margin decides.

    The prediction counts and not the margin's sign, since the two differ at a tie or an infinite logit. For perturbed
    images a rejection is right too.
    """
    right = predictions == labels
    if perturbed:
        right |= predictions == REJECTED
    margins = margin(logits, labels.expand(len(logits), -1)).double().nan_to_num(0.0, posinf=1e300, neginf=-1e300)
    bounded = (margins / (1 + margins.abs())).mean(0)
    # Rounded as it is stored, so that a worst case over stored attacks chooses as one in memory does.
    return (right.double().mean(0) + bounded / (2 * len(logits) + 1)).float().double()


class Candidates:
    """The perturbed images of a batch, one set per target, scored one after another. Only the worst images are stored.

    A perturbed image also counts in its rounded form, as a file of 8 bits holds it: a model can tell values between the
    levels from real images, and defend only against them.

    Args:
        scorer: Scores the images.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        indices: ``(N,)``, the images' indices in the data slice.
        targets: ``(T, N)`` classes to reach; ``(0, N)`` for an untargeted attack.
        norm: The norm of the distances.
        rounded: Rounds perturbed images to 8 bits, inside the threat model; ``None`` where rounded images do not count.
        minimal_norm: Whether the attack minimizes the perturbation: a rounded image never replaces a success then.

    Attributes:
        worst: ``(N, C, H, W)``, the perturbed images that the deployed rule survives least.
        worst_predictions: ``(R, N)``, the predictions of these images that count.
        failed: ``(N,)``, whether the model gave NaN.
    """

    def __init__(
        self,
        scorer: Scorer,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        *,
        targets: Tensor,
        norm: Norm,
        rounded: Callable[[Tensor], Tensor] | None,
        minimal_norm: bool,
    ) -> None:
        self._scorer = scorer
        self._images = images
        self._labels = labels
        self._indices = indices
        self._norm = norm
        self._rounded = rounded
        self._success_threshold = 0.5 if minimal_norm else 0.0
        self._count = 0
        predictions, survival = scorer(images, labels, indices, 0)
        self._clean = {"labels": labels, "targets": targets, "clean": predictions, "clean_survival": survival}
        self._per_target: dict[str, list[Tensor]] = {
            name: [] for name in ("perturbed", "survival", "distance", "l2", "linf")
        }
        self._least_survival = torch.full_like(survival, torch.inf)
        self.worst = images
        self.worst_predictions = predictions
        self.failed = (predictions == NO_NUMBER).any(0)

    @property
    def unbroken(self) -> Tensor:
        """``(N,)``: whether the clean image and the perturbed images of all targets so far are classified correctly in every draw."""
        predictions = torch.stack([self._clean["clean"], *self._per_target["perturbed"]])
        return (predictions == self._labels).all(0).all(0)

    def add(self, perturbed: Tensor) -> None:
        """Scores the perturbed images ``(N, C, H, W)`` of the next target."""
        predictions, survival = self._score(perturbed)
        unbroken = (survival > self._success_threshold).nonzero().squeeze(1)
        if self._rounded is not None and len(unbroken):
            rounded = self._rounded(perturbed)[unbroken]
            rounded_predictions, rounded_survival = self._score(rounded, unbroken)
            lower = rounded_survival < (survival[unbroken] if self._success_threshold == 0 else self._success_threshold)
            rows = unbroken[lower]
            perturbed, predictions, survival = perturbed.clone(), predictions.clone(), survival.clone()
            perturbed[rows], survival[rows] = rounded[lower], rounded_survival[lower]
            predictions[:, rows] = rounded_predictions[:, lower]
        values = {
            "perturbed": predictions,
            "survival": survival,
            "distance": distance(perturbed, self._images, self._norm),
            "l2": distance(perturbed, self._images, "l2").float().double(),
            "linf": distance(perturbed, self._images, "linf").float().double(),
        }
        for name, value in values.items():
            self._per_target[name].append(value)
        worse = survival < self._least_survival
        self._least_survival = torch.where(worse, survival, self._least_survival)
        self.worst = torch.where(per_image(worse, perturbed), perturbed, self.worst)
        self.worst_predictions = torch.where(worse, predictions, self.worst_predictions)

    def _score(self, perturbed: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores perturbed images of all rows, or of some."""
        self._count += 1
        labels, indices = self._labels, self._indices
        if rows is not None:
            labels, indices = labels[rows], indices[rows]
        predictions, survival = self._scorer(perturbed, labels, indices, self._count)
        failed = (predictions == NO_NUMBER).any(0)
        if rows is None:
            self.failed = self.failed | failed
        else:
            self.failed[rows] |= failed
        return predictions, survival

    def arrays(self) -> dict[str, Any]:
        """The fields of :class:`~.outcomes.Outcomes`."""
        tensors = self._clean | {name: torch.stack(values) for name, values in self._per_target.items()}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

"""Runs an attack on one batch of images after another and scores what it finds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.rng import Random, seed_draws, seed_from
from robustbench_cli.attacks.base.threat import Threat, distance, project, project_exactly, within
from robustbench_cli.benchmarks.evaluation.checks import (
    gradient_is_blind,
    gradient_is_wrong,
    is_repeatable,
    is_unstable,
    remembers,
)
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult
from robustbench_cli.benchmarks.evaluation.saved_images import rounded as rounded_to_levels
from robustbench_cli.benchmarks.evaluation.scoring import Candidates, Scorer
from robustbench_cli.benchmarks.evaluation.targets import choose_targets
from robustbench_cli.core.errors import UserError

__all__ = ["AttackSearch", "failures_flagged"]

_logger = logging.getLogger(__name__)

_FAR = 0.1
"""How far single pixels are moved at most to see whether they matter, in a ball that would let them."""

_NEAR = 0.03
"""The radius around an image in which gradients are checked where the threat has none of its own."""


@dataclass(kw_only=True)
class AttackSearch:
    """An attack on one model, run batch by batch.

    Attributes:
        attack: The attack and its parameters.
        options: The options of the evaluation.
        source: The gradient source of the model that the attack follows.
        target_source: The gradient source of the attacked model, which chooses target classes.
        scorer: The deployed decision rule.
        fresh: The deployed rule of a copy of the model that has answered no query yet; ``None`` where there is no copy.
        attacked: The attacked model.
        followed: The model that the attack follows: the attacked one, or a surrogate.
        classes: K.
    """

    attack: Attack
    options: EvaluationOptions
    source: GradientSource
    target_source: GradientSource
    scorer: Scorer
    fresh: Scorer | None
    attacked: MeasuredModel
    followed: MeasuredModel
    classes: int

    @property
    def single_draw(self) -> bool:
        """Whether images are counted on single draws, as AutoAttack counts them."""
        return self.attacked.randomized and self.options.accounting == "single-draw"

    def run(self, indices: Tensor, images: Tensor, labels: Tensor) -> BatchResult:
        """Attacks a batch.

        Args:
            indices: ``(N,)``, the images' indices in the data slice; random numbers depend on them.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.

        Returns:
            The outcomes, the flags and the costs.
        """
        started, passes = time.perf_counter(), self._passes()
        flags: set[str] = set()
        candidates = self._candidates(indices, images, labels, flags)
        forwards, backwards, without_gradient = self._passes() - passes
        flags |= self._gradient_flags(images, indices)
        flags |= self._prediction_flags(candidates.worst[:64], indices[:64])
        if bool(candidates.failed.any()):
            flags.add("not-a-number")
        if torch.equal(candidates.worst, images):
            flags.add("unchanged")
        return BatchResult(
            indices=indices.cpu(),
            outcomes=candidates.arrays(),
            perturbed=candidates.worst.cpu(),
            flags=frozenset(flags),
            forwards=float(forwards),
            backwards=float(backwards),
            without_gradient=float(without_gradient),
            seconds=time.perf_counter() - started,
        )

    def _passes(self) -> NDArray[np.float64]:
        """Passes so far: forward, backward, and backward with a zero gradient."""
        forwards = self.source.forwards + self.scorer.forwards
        if self.target_source is not self.source:
            forwards += self.target_source.forwards
        return np.array([forwards, self.source.backwards, self.source.share_without_gradient * self.source.backwards])

    def _candidates(self, indices: Tensor, images: Tensor, labels: Tensor, flags: set[str]) -> Candidates:
        """Runs the attack once per target and scores its images; adds the flags that the images raise."""
        options = self.options
        threat = self.attack.threat(images, norm=options.norm, eps=options.eps, targeted=options.is_targeted)
        search_threat = self.attack.searched(threat)
        random = Random.of(options.seed, images, places=indices)
        self.target_source.begin(seed_from(options.seed, "goals"), indices)
        targets = choose_targets(self.target_source, images, labels, options.targeted, random, classes=self.classes)

        def rounded(perturbed: Tensor) -> Tensor:
            levels = rounded_to_levels(perturbed, images, norm=threat.norm, eps=options.eps)
            return within(project_exactly((levels.double() / 255).to(images), images, search_threat), images, threat)

        candidates = Candidates(
            self.scorer,
            images,
            labels,
            indices,
            targets=targets,
            norm=threat.norm,
            rounded=None if self.single_draw else rounded,
            minimal_norm=self.attack.minimal_norm,
        )
        for number, goal in enumerate(targets if len(targets) else labels[None]):
            # An attack may draw from torch's own generators: it draws the same numbers in every run.
            seed_draws(seed_from(options.seed, "draws of the attack", int(indices[0]), number))
            self.source.begin(seed_from(options.seed, "attack", number), indices)
            proposed = _checked_images(
                self.attack.run(self.source, images, goal, search_threat, random), images, self.attack
            )
            inside = project_exactly(proposed, images, search_threat)
            if not bool(distance(inside, proposed, "linf").max() <= 1e-4):
                flags.add("left-the-ball")
            candidates.add(within(inside, images, threat))
        return candidates

    def _gradient_flags(self, images: Tensor, indices: Tensor) -> set[str]:
        """The flags of the gradients where the attack followed them, and at the surface of the ball.

        A model can have a true gradient at images of 8 bits, as all clean images are, and a wrong one between them.
        """
        flags: set[str] = set()
        if self.attack.uses != "gradients" or self.source.followed is None:
            return flags
        images, indices = images[:4], indices[:4]
        random = Random.of(self.options.seed, images, places=indices)
        signs = 2.0 * random.integers(2, images.shape[1:]) - 1
        threat = self._threat_of_checks(images)
        surface = project(images + threat.eps.max().to(images) * signs, images, threat)
        with failures_flagged(flags):
            if not is_repeatable(self.followed):
                return flags
            if gradient_is_wrong(self.followed, torch.cat([self.source.followed[:4], surface])):
                flags.add("wrong-gradient")
            step = min(_FAR, float(threat.eps.max())) if threat.norm == "linf" else _FAR
            if gradient_is_blind(self.followed, self.followed.images, step):
                flags.add("zero-gradient")
        return flags

    def _threat_of_checks(self, images: Tensor) -> Threat:
        """The untargeted threat in which gradients are checked."""
        return self.attack.threat(images, norm=self.options.norm, eps=self.options.eps or _NEAR, targeted=False)

    def _prediction_flags(self, images: Tensor, indices: Tensor) -> set[str]:
        """The flags of the model's predictions on perturbed images."""
        flags: set[str] = set()
        with failures_flagged(flags):
            if is_unstable(self.scorer.logits, images, indices, noise=self.scorer.noise):
                flags.add("unstable")
        with failures_flagged(flags):
            if self.fresh is not None and remembers(
                self.scorer.logits, self.fresh.logits, images, indices, noise=self.scorer.noise
            ):
                flags.add("remembers")
        return flags


@contextmanager
def failures_flagged(flags: set[str]) -> Iterator[None]:
    """Turns an error of a check into the flag ``check-failed``: no check may lose a result."""
    try:
        yield
    except Exception:
        _logger.warning("a check failed", exc_info=True)
        flags.add("check-failed")


def _checked_images(proposed: object, images: Tensor, attack: Attack) -> Tensor:
    """The images that an attack returned, in the type of the clean images.

    Raises:
        UserError: It returned something else than images of the right shape, or images with NaN.
    """
    if not isinstance(proposed, Tensor) or proposed.shape != images.shape:
        what = f"shape {tuple(proposed.shape)}" if isinstance(proposed, Tensor) else f"type {type(proposed).__name__}"
        raise UserError(f"{type(attack).__name__} returned images of {what}: it must return {tuple(images.shape)}")
    failed = int(proposed.isnan().flatten(1).any(1).sum())
    if failed:
        raise UserError(
            f"{type(attack).__name__} returned images of NaN for {failed} of {len(images)}: it must return "
            f"{tuple(images.shape)} in [0, 1]"
        )
    return proposed.detach().to(images)

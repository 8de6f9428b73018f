"""Runs an attack on one batch of images after another and scores what it finds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.attacks.base.models.precision import gradient_precision
from robustbench_cli.attacks.base.rng import Random, seed_from, seed_generators
from robustbench_cli.attacks.base.threat import distance, project_exactly, reset_outside
from robustbench_cli.benchmarks.evaluation.checks import raised_flags
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch
from robustbench_cli.benchmarks.evaluation.device_images import DeviceImages
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult
from robustbench_cli.benchmarks.evaluation.saved_images import rounded as rounded_to_levels
from robustbench_cli.benchmarks.evaluation.scoring import Candidates, Scorer
from robustbench_cli.benchmarks.evaluation.setup import Setup
from robustbench_cli.benchmarks.evaluation.successes_on_path import SuccessesOnPath
from robustbench_cli.benchmarks.evaluation.targets import choose_targets
from robustbench_cli.core.errors import UserError

__all__ = ["AttackSearch"]

_TOLERANCE = 1e-4
"""How far a pixel may move in the projection of an attack's images before the attack counts as leaving the ball."""


@dataclass(kw_only=True)
class AttackSearch:
    """An attack on one model and some images, run batch by batch.

    Attributes:
        images: The evaluated images, ready for the device of the models.
        labels: ``(N,)``, of these images.
        setup: The attack, the options and the models.
        source: The gradient source of the model that the attack follows.
        target_source: The gradient source of the attacked model, which chooses target classes.
        scorer: The deployed decision rule.
        fresh: The deployed rule of a copy of the model that has answered no query yet; ``None`` where there is no copy.
        allow_no_gradients: See :class:`~.context.RunContext`.
    """

    images: DeviceImages
    labels: Tensor
    setup: Setup
    source: GradientSource
    target_source: GradientSource
    scorer: Scorer
    fresh: Scorer | None
    allow_no_gradients: bool

    def run(self, indices: Tensor) -> BatchResult:
        """Attacks a batch.

        Args:
            indices: ``(n,)``, of the images in the data slice, on the CPU; random numbers depend on them.

        Returns:
            The outcomes, the flags and the costs.
        """
        started, passes = time.perf_counter(), self._passes()
        images = self.images.batch(indices)
        indices, labels = indices.to(images.device), self.labels[indices].to(images.device)
        candidates, run = self._candidates(indices, images, labels)
        forwards, backwards, without_gradient = self._passes() - passes
        batch = AttackedBatch(
            setup=self.setup,
            images=images,
            indices=indices,
            source=self.source,
            followed_images=self.source.recent_points,
            candidates=candidates,
            left_the_ball=run.left_the_ball,
            no_gradients=run.no_gradients,
            silent_successes=int(run.lost.sum()),
            scorer=self.scorer,
            fresh=self.fresh,
        )
        flags = raised_flags(lambda check: check.raised_by_batch(batch))
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
        return np.array([forwards, self.source.backwards, self.source.zero_gradient_share * self.source.backwards])

    def _candidates(self, indices: Tensor, images: Tensor, labels: Tensor) -> tuple[Candidates, _Run]:
        """Runs the attack once per target and scores its images."""
        attack, options = self.setup.attack, self.setup.options
        threat = attack.threat(images, norm=options.norm, eps=options.eps, targeted=options.is_targeted)
        search_threat = attack.search_threat(threat)
        random = Random.of(options.seed, images, indices=indices)
        self.target_source.bind_draws(seed_from(options.seed, "goals"), indices)
        targets = choose_targets(
            self.target_source, images, labels, options.targeted, random, classes=self.setup.classes
        )

        def rounded(perturbed: Tensor) -> Tensor:
            levels = rounded_to_levels(perturbed, images, norm=threat.norm, eps=options.eps)
            return reset_outside(
                project_exactly((levels.double() / 255).to(images), images, search_threat), images, threat
            )

        candidates = Candidates(
            self.scorer,
            images,
            labels,
            indices,
            targets=targets,
            norm=threat.norm,
            rounded=None if self.setup.single_draw else rounded,
            minimal_norm=attack.minimal_norm,
        )
        run = _Run(lost=torch.zeros_like(labels, dtype=torch.bool))
        for number, goal in enumerate(targets if len(targets) else labels[None]):
            # An attack may draw from torch's own generators: it draws the same numbers in every run.
            seed_generators(seed_from(options.seed, "draws of the attack", int(indices[0]), number))
            self.source.bind_draws(seed_from(options.seed, "attack", number), indices)
            successes = SuccessesOnPath(self.source, images, goal, search_threat)
            self.source.watch = successes if self._may_lose_successes else None
            # Entered here, the precision need not change in each step.
            with gradient_precision(self.source.precision, images.device):
                try:
                    returned = attack.run(self.source, images, goal, search_threat, random)
                except NoGradientError:
                    if not self.allow_no_gradients:
                        raise
                    returned, run.no_gradients = images, True
                finally:
                    self.source.watch = None
            proposed = _checked_images(returned, images, attack)
            inside = project_exactly(proposed, images, search_threat)
            # The comparison is false for NaN.
            run.left_the_ball |= not bool(distance(inside, proposed, "linf").max() <= _TOLERANCE)
            candidates.add(reset_outside(inside, images, threat))
            lost = successes.found & candidates.unbroken
            if bool(lost.any()):
                points = project_exactly(successes.points, images, search_threat)[lost]
                predictions, _ = self.scorer(points, labels[lost], indices[lost], number + 1)
                run.lost[lost] |= (predictions != labels[lost]).all(0)
        # The attack may have broken them towards a later target.
        run.lost &= candidates.unbroken
        return candidates, run

    @property
    def _may_lose_successes(self) -> bool:
        """Whether a success on the path is one on the attacked model: one that is deterministic and that the attack follows itself."""
        setup = self.setup
        return not (setup.attack.minimal_norm or setup.attacked.randomized) and setup.followed is setup.attacked


@dataclass
class _Run:
    """What happened in the runs of an attack on one batch of N images; see :class:`~.moments.AttackedBatch`.

    Attributes:
        lost: ``(N,)`` bool, the images with a silent success.
    """

    lost: Tensor
    left_the_ball: bool = False
    no_gradients: bool = False


def _checked_images(proposed: object, images: Tensor, attack: Attack) -> Tensor:
    """The images that an attack returned, in the type of the clean images.

    Raises:
        UserError: It returned something else than images of the right shape, or images with NaN.
    """
    if not isinstance(proposed, Tensor) or proposed.shape != images.shape:
        returned = (
            f"shape {tuple(proposed.shape)}" if isinstance(proposed, Tensor) else f"type {type(proposed).__name__}"
        )
        raise UserError(f"{type(attack).__name__} returned images of {returned}: it must return {tuple(images.shape)}")
    failed = int(proposed.isnan().flatten(1).any(1).sum())
    if failed:
        raise UserError(
            f"{type(attack).__name__} returned images of NaN for {failed} of {len(images)}: it must return "
            f"{tuple(images.shape)} in [0, 1]"
        )
    return proposed.detach().to(images)

"""The model and the images that an audit looks at, with what several checks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random, seed_from
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.checkpoints.repeats import resolve_repeats
from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS, Budget, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.loss_path import LossPath, follow
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import NEAR_ZERO
from robustbench_cli.benchmarks.evaluation.cost import passes
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.core.errors import UserError

__all__ = ["Attacked", "ModelProbe"]

Value = TypeVar("Value")

_LEAST_FOLLOWED = 8
"""The fewest unbroken images whose path says something."""


class Attacked(Protocol):
    """What an evaluation returns; see :class:`~robustbench_cli.benchmarks.evaluation.evaluate.Evaluation`."""

    @property
    def outcomes(self) -> Outcomes:
        """The outcome of every image."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that the evaluation raised."""

    @property
    def perturbed(self) -> Tensor:
        """``(N, C, H, W)``, on the CPU: the perturbed images."""

    @property
    def summary(self) -> dict[str, float]:
        """The figures of the row, by column."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelProbe:
    """A frozen model on its device, the images and the threat model of an audit.

    What is cached is computed at its first use and shared by the checks. A check that uses it names it in ``needs``.

    Attributes:
        measured: The model with the measured properties of its draws.
        images: ``(N, C, H, W)`` in [0, 1], on the device.
        labels: ``(N,)``, on the device.
        norm: The norm.
        eps: The radius.
        classes: K.
        seed: The seed of everything that is random.
        budget: See :data:`~.finding.Budget`.
        run: Evaluates ``run(attack, images, labels, **options)`` on this model, as
            :func:`~robustbench_cli.benchmarks.evaluation.evaluate.evaluate` does, or on another with ``other=model``.
        fresh: A copy of the model that has answered no query; ``None`` where it cannot be copied.
        training: Returns the training images and labels; ``None`` where they are not known.
    """

    measured: MeasuredModel
    images: Tensor
    labels: Tensor
    norm: Norm
    eps: float
    classes: int
    seed: int = 0
    budget: Budget = "standard"
    run: Callable[..., Attacked]
    fresh: nn.Module | None = None
    training: Callable[[], tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def model(self) -> nn.Module:
        """The model: images in [0, 1] to logits."""
        return self.measured.model

    @property
    def randomized(self) -> bool:
        """Whether two passes over the same images differ, as measured."""
        return self.measured.randomized

    def effort(self, quick: Value, standard: Value, thorough: Value) -> Value:
        """One of three values, by the budget."""
        return (quick, standard, thorough)[BUDGETS.index(self.budget)]

    @property
    def second_attack_images(self) -> int:
        """The number of images on which an attack beside the baseline runs, by the budget."""
        return min(len(self), self.effort(50, 100, 300))

    @property
    def baseline_images(self) -> int:
        """The number of images of the baseline: all, or for a randomized model, whose passes cost more, the first ones."""
        return min(len(self), self.effort(100, 200, 500)) if self.randomized else len(self)

    def source(self, rows: Tensor) -> GradientSource:
        """A new gradient source in full float32, whose draws are bound to images.

        Args:
            rows: ``(n,)``, the numbers of the images that will be queried.
        """
        source = self.measured.source("auto", seed=self.seed, precision="float32")
        source.bind_draws(seed_from(self.seed, "audit"), rows)
        return source

    @cached_property
    def gradient_cost(self) -> float:
        """The passes of one draw behind one gradient or one expectation of an image, each way."""
        return self.measured.source("auto").cost

    def threat(self, rows: Tensor) -> Threat:
        """The untargeted threat of some images.

        Args:
            rows: ``(n,)``, the numbers of the images.
        """
        return PGD().threat(self.images[rows], norm=self.norm, eps=self.eps, targeted=False)

    def random(self, rows: Tensor, label: str) -> Random:
        """A stream of random numbers for each image.

        Args:
            rows: ``(n,)``, the numbers of the images.
            label: What the numbers are for; other labels give other numbers.
        """
        return Random.of(seed_from(self.seed, label), self.images[rows], indices=rows)

    def evaluate(self, attack: Attack, rows: Tensor | None = None, **options: object) -> Attacked:
        """Evaluates an attack at the probe's norm, radius and seed.

        Args:
            attack: The attack.
            rows: ``(n,)``, the numbers of the images; all by default.
            **options: Options of :func:`~robustbench_cli.benchmarks.evaluation.evaluate.evaluate` in place of these.
        """
        rows = torch.arange(len(self)) if rows is None else rows
        usual: dict[str, object] = {"norm": self.norm, "eps": self.eps, "seed": self.seed}
        return self.run(attack, self.images[rows], self.labels[rows], **(usual | options))

    def passes_of(self, attack: Attack, images: int | None = None) -> int:
        """The cost of :meth:`evaluate`, if no image is broken; see :meth:`~.check.Check.passes`.

        Args:
            attack: The attack.
            images: The number of images; all by default.
        """
        cost = passes(attack, norm=self.norm, classes=self.classes)
        of_attack = 0.0 if cost is None else (cost.forwards + cost.backwards) * self.gradient_cost
        # The clean and the perturbed image are scored on two sets of draws.
        scoring = 4 * resolve_repeats(None, randomized=self.randomized)
        return round((of_attack + scoring) * (len(self) if images is None else images))

    @cached_property
    def without_gradients(self) -> str:
        """Why the model gives no input gradients, in one line; empty if it gives them."""
        rows = torch.arange(1, device=self.images.device)
        try:
            self.source(rows).gradient(self.images[:1], self.labels[:1], cross_entropy)
        except (UserError, RuntimeError, NotImplementedError) as error:
            return " ".join(str(error).split())[:200] or type(error).__name__
        return ""

    @cached_property
    def baseline_attack(self) -> Attack:
        """The attack of the baseline: PGD, or Square for a model without gradients."""
        if self.without_gradients:
            return Square(queries=self.effort(200, 1000, 5000))
        return PGD(steps=self._steps)

    @property
    def _steps(self) -> int:
        return self.effort(20, 40, 100)

    @property
    def baseline_name(self) -> str:
        """The baseline attack in a few words."""
        attack = self.baseline_attack
        effort = f"{attack.queries} queries" if isinstance(attack, Square) else f"{self._steps} steps"
        return f"{type(attack).__name__} with {effort}"

    @cached_property
    def baseline(self) -> Attacked:
        """The evaluation of :attr:`baseline_attack` on the first :attr:`baseline_images`."""
        return self.evaluate(self.baseline_attack, torch.arange(self.baseline_images))

    @cached_property
    def path(self) -> LossPath | None:
        """The path of the baseline PGD, from another random start, over images that the baseline left.

        It is ``None`` where the baseline leaves next to nothing: no robust accuracy can then be overstated.

        Raises:
            UndecidedError: The baseline left too few images.
        """
        outcomes, attack = self.baseline.outcomes, self.baseline_attack
        assert isinstance(attack, PGD)
        right = outcomes.worst_right
        if right.mean() <= NEAR_ZERO * outcomes.clean_right.mean():
            return None
        rows = torch.from_numpy(right.mean(axis=0) > 0.5).nonzero()[: self._followed_images, 0].to(self.images.device)
        if len(rows) < _LEAST_FOLLOWED:
            raise UndecidedError(f"{self.baseline_name} left {len(rows)} images, of {_LEAST_FOLLOWED} needed")
        random = self.random(rows, "path")
        return follow(attack, self.source(rows), self.images[rows], self.labels[rows], self.threat(rows), random)

    @property
    def path_passes(self) -> int:
        """The cost of :attr:`path`; see :meth:`~.check.Check.passes`."""
        return round(2 * (self._steps + 1) * self.gradient_cost * self._followed_images)

    @property
    def _followed_images(self) -> int:
        return min(self.baseline_images, self.effort(32, 64, 128))

    @cached_property
    def logits(self) -> Tensor:
        """``(N, K)``: the logits of the images, at one draw each."""
        return model_logits(self.measured, self.images)

"""The two kinds of attack: inside a fixed radius, and for the smallest radius."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from inspect import isabstract
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.draws import AskedDraws
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.measured import MeasuredModel
from robustbench_cli.attacks.base.method import Method
from robustbench_cli.attacks.base.model import frozen
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.passes import BatchSize
from robustbench_cli.attacks.base.random import Random, generators_kept, seed_from
from robustbench_cli.attacks.base.source import GradientSource
from robustbench_cli.attacks.base.threat import Threat, project_exactly, within

__all__ = ["Attack", "FixedRadiusAttack", "MinimalNormAttack"]


class Attack(Method, ABC):
    """Searches an input that the model gets wrong.

    Attributes:
        norms: The norms that the attack knows, its own first.
        minimal_norm: Whether it looks for the smallest perturbation rather than inside a given radius.
        uses: What it asks of the model (see :meth:`asked`): gradients, logits (``"scores"``), or no more than predicted
            classes.
    """

    norms: ClassVar[tuple[Norm, ...]]
    minimal_norm: ClassVar[bool]
    uses: ClassVar[Literal["gradients", "scores", "decisions"]] = "gradients"

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        norms = getattr(cls, "norms", None)
        if not isabstract(cls) and not (norms and {*norms} <= {*NORMS}):
            raise TypeError(
                f"{cls.__name__} must say which norms it knows, as norms: ClassVar[tuple[Norm, ...]] = ('linf',)"
            )

    @abstractmethod
    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """Runs the attack.

        Args:
            source: Gives logits and gradients; the attack asks nothing else of the model.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``, the classes to leave, or to reach if the threat is targeted.
            threat: Its radii are infinite for a minimal-norm attack; see :meth:`searched`.
            random: Random numbers for each image.

        Returns:
            Perturbed images ``(N, C, H, W)``. They are projected and scored by the caller, on other draws.
        """

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        norm: Norm | None = None,
        eps: float | Tensor | None = None,
        targeted: bool = False,
        eot: AskedDraws = "auto",
        seed: int = 0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Attacks a model from Python.

        Args:
            model: Images in [0, 1] to logits, normalisation inside; left as it was.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``, the classes to leave, or to reach if ``targeted``.
            norm: One of the attack's norms; its own where not given.
            eps: The radius, for all or ``(N,)``. Needed for a fixed-radius attack. What a minimal-norm attack finds
                beyond it is replaced by the image itself.
            targeted: Whether the labels are the classes to reach.
            eot: The draws behind a randomized model's gradient; see :data:`~.draws.AskedDraws`.
            seed: For the attack's own random numbers, and of the frozen draw.
            batch_size: Rows that pass through the model at once; all where not given.

        Returns:
            Perturbed images ``(N, C, H, W)``, inside the ball and the box to the last bit.

        Raises:
            UserError: The norm is not one of the attack's, the radius is missing or negative, an image leaves [0, 1],
                there is not one label for each image, or the draws are to be all and cannot be counted.
        """
        threat = self.threat(images, norm=norm, eps=eps, targeted=targeted)
        if labels.shape != images.shape[:1]:
            raise UserError(f"{len(images)} images need as many labels: these have the shape {tuple(labels.shape)}")
        asked = self.asked(model)
        with frozen(asked), generators_kept():
            source = MeasuredModel(asked, images, BatchSize(batch_size)).source(eot, seed=seed, targeted=targeted)
            source.begin(seed_from(seed, "attack"), torch.arange(len(images), device=images.device))
            perturbed = self.run(source, images, labels, self.searched(threat), Random.of(seed, images))
        return within(project_exactly(perturbed, images, self.searched(threat)), images, threat)

    def asked(self, model: nn.Module) -> nn.Module:
        """The model that the attack asks for logits and gradients: the attacked one, unless it has a surrogate for it.

        Args:
            model: The attacked one.
        """
        return model

    def fewest_classes(self, *, targeted: bool) -> int:
        """From how many classes on the attack is what its parameters and its paper say; of fewer it makes do with them.

        Args:
            targeted: Whether the threat has a target of its own.
        """
        return 2

    def searched(self, threat: Threat) -> Threat:
        """The threat inside which the attack searches: at any distance, if it looks for the smallest perturbation."""
        return replace(threat, eps=torch.full_like(threat.eps, torch.inf)) if self.minimal_norm else threat

    def threat(self, images: Tensor, *, norm: Norm | None, eps: float | Tensor | None, targeted: bool) -> Threat:
        """The threat for a batch, after a check of what the caller gave; see :meth:`__call__`."""
        name = type(self).__name__
        norm = norm or self.norms[0]
        if norm not in self.norms:
            raise UserError(f"{name} does not know the norm {norm}: it knows {', '.join(self.norms)}")
        if eps is None and not self.minimal_norm:
            raise UserError(f"{name} needs a radius: give eps")
        radii = torch.as_tensor(torch.inf if eps is None else eps, dtype=torch.float64, device=images.device)
        if radii.shape not in {torch.Size(), images.shape[:1]}:
            raise UserError(f"{len(images)} images need one eps or as many: these have the shape {tuple(radii.shape)}")
        if not bool((radii >= 0).all()):
            raise UserError(f"eps must be a number that is not negative: it is {radii.min().item():g}")
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise UserError("images must lie in [0, 1]: put the normalisation inside the model")
        return Threat(norm=norm, eps=radii.expand(len(images)).clone(), targeted=targeted)


class FixedRadiusAttack(Attack):
    """An attack that looks for an adversarial image inside a given radius."""

    minimal_norm: ClassVar[bool] = False


class MinimalNormAttack(Attack):
    """An attack that looks for the smallest perturbation that succeeds.

    It returns the image itself where it finds none. Of a randomized model only what fools every draw is a success: a
    perturbation that fools half of the draws is no answer to how large it must be. Where the draws are a sample, the
    smallest of many iterates that fooled one sample would be one that was lucky; so the goal must have been reached in
    every draw of several steps in a row, see :class:`~robustbench_cli.attacks.base.iterates.Streak`.
    """

    minimal_norm: ClassVar[bool] = True

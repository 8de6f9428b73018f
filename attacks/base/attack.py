"""The two kinds of attack: inside a fixed radius, and for the smallest radius."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from inspect import isabstract
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    Radius,
    checked_batch,
    checked_count,
    checked_eot,
    checked_keywords,
    checked_logits,
    checked_model,
    checked_norm,
    checked_radii,
    device_of,
    on_model,
    require_classes,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.rng import Random, generators_kept, seed_from
from robustbench_cli.attacks.base.threat import Threat, project_exactly, within
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings

__all__ = ["Attack", "FixedRadiusAttack", "MinimalNormAttack"]


class Attack(Settings, ABC):
    """Searches an input that the model gets wrong.

    Attributes:
        norms: The norms that the attack knows, its own first.
        minimal_norm: Whether it looks for the smallest perturbation rather than inside a given radius.
        access: What it needs of the model that it queries: ``"gradients"``, ``"scores"`` (logits) or ``"decisions"``
            (predicted classes).
    """

    norms: ClassVar[tuple[Norm, ...]]
    minimal_norm: ClassVar[bool]
    access: ClassVar[Literal["gradients", "scores", "decisions"]] = "gradients"
    elsewhere: ClassVar[Mapping[str, str]] = {
        "eps": "--eps",
        "epsilon": "--eps",
        "norm": "--norm",
        "targeted": "--targeted",
        "eot": "--eot",
        "seed": "--seed",
        "batch_size": "--batch-size",
    }

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

    @checked_keywords
    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        norm: Norm | None = None,
        eps: Radius | None = None,
        targeted: bool = False,
        eot: EOTChoice = "auto",
        seed: int = 0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Attacks a model from Python.

        Args:
            model: Images in [0, 1] to logits, with the normalization inside. It may be on another device than the images,
                and in ``train()`` mode; it is left as it was.
            images: ``(N, C, H, W)``: floats in [0, 1] or uint8; a tensor or an array, which is left as it was.
            labels: ``(N,)`` of any integer type, the classes to leave, or to reach if ``targeted``.
            norm: One of the attack's norms; its own where not given.
            eps: The radius as a number or a fraction (``"8/255"``), for all or ``(N,)``. Needed for a fixed-radius attack.
                What a minimal-norm attack finds beyond it is replaced by the image itself.
            targeted: Whether the labels are the classes to reach.
            eot: The draws behind a randomized model's gradient; see :data:`~.draws.EOTChoice`.
            seed: For the attack's own random numbers, and of the frozen draw.
            batch_size: Rows that pass through the model at once; all where not given.

        Returns:
            Perturbed images ``(N, C, H, W)``, inside the ball and the box to the last bit: a tensor where the images are, in
            float64 if they are, and in float32 otherwise.

        Raises:
            UserError: The model is no ``nn.Module`` that gives logits, the norm is not one of the attack's, the radius is
                missing, negative or not on the pixel scale, an image leaves [0, 1], there is not one class for each image,
                or the draws are to be all and cannot be counted.
        """
        checked_model(model)
        clean, classes = checked_batch(images, labels)
        eot = checked_eot(eot)
        seed = checked_count(seed, "seed", "give a whole number, at least 0", least=0)
        batch_size = None if batch_size is None else checked_count(batch_size, "batch_size")
        threat = self.threat(clean, norm=norm, eps=eps, targeted=targeted)
        asked = self.asked(model)
        # The model may write into what it is given, and the caller may be in inference mode.
        with torch.inference_mode(mode=False), frozen(model), frozen(asked), generators_kept():
            given, goals = on_model(clean, asked), classes.to(device_of(asked))
            require_classes(goals, checked_logits(asked, given[:2]).shape[1])
            source = MeasuredModel(asked, given, BatchSize(batch_size)).source(eot, seed=seed, targeted=targeted)
            source.decides = self.decides()
            source.begin(seed_from(seed, "attack"), torch.arange(len(given), device=given.device))
            searched = replace(self.searched(threat), eps=self.searched(threat).eps.to(given.device))
            perturbed = self.run(source, given, goals, searched, Random.of(seed, given))
        return within(project_exactly(perturbed.to(clean), clean, self.searched(threat)), clean, threat)

    def asked(self, model: nn.Module) -> nn.Module:
        """The model that the attack asks for logits and gradients: the attacked one, unless it has a surrogate for it.

        Args:
            model: The attacked one.
        """
        return model

    def decides(self) -> bool:
        """Whether the logits that come with its gradients decide how small a perturbation may be."""
        return self.minimal_norm

    def fewest_classes(self, *, targeted: bool) -> int:
        """From how many classes on the attack is what its parameters and its paper say; of fewer it makes do with them.

        Args:
            targeted: Whether the threat has a target of its own.
        """
        return 2

    def searched(self, threat: Threat) -> Threat:
        """The threat inside which the attack searches: at any distance, if it looks for the smallest perturbation."""
        return replace(threat, eps=torch.full_like(threat.eps, torch.inf)) if self.minimal_norm else threat

    def threat(self, images: Tensor, *, norm: Norm | None, eps: Radius | None, targeted: bool) -> Threat:
        """The threat for a batch, after a check of what the caller gave; see :meth:`__call__`.

        Args:
            images: ``(N, C, H, W)``; their number and device are used.
            norm: See :meth:`__call__`.
            eps: See :meth:`__call__`.
            targeted: See :meth:`__call__`.

        Raises:
            UserError: The norm is not one of the attack's, or the radius is missing or none.
        """
        name = type(self).__name__
        norm = checked_norm(norm, self.norms, name=name)
        if eps is not None:
            radii = checked_radii(eps, len(images), norm=norm)
        elif self.minimal_norm:
            radii = torch.full((len(images),), torch.inf, dtype=torch.float64)
        else:
            raise UserError(f"{name} needs a radius: give eps")
        return Threat(norm=norm, eps=radii.to(images.device), targeted=targeted)


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

"""The base classes of all attacks: fixed-radius attacks and minimal-norm attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from inspect import isabstract
from typing import Any, ClassVar, Literal, TypedDict, Unpack

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
    checked_seed,
    device_of,
    match_model,
    require_classes,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.rng import Random, preserve_generators, seed_from
from robustbench_cli.attacks.base.threat import Threat, project_exactly, reset_outside
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings

__all__ = ["Attack", "CallOptions", "FixedRadiusAttack", "MinimalNormAttack"]


class CallOptions(TypedDict, total=False):
    """How :meth:`Attack.__call__` runs an attack, apart from the threat.

    Attributes:
        eot: The draws per gradient of a randomized model; see :data:`~.draws.EOTChoice`. Default: ``"auto"``.
        seed: >= 0, the seed of the attack's random numbers and of a frozen draw. Default: 0.
        batch_size: >= 1, the largest number of rows that pass through the model at once; ``None``, the default, for no
            limit.
    """

    eot: EOTChoice
    seed: int
    batch_size: int | None


class Attack(Settings, ABC):
    """Searches for an input that the model misclassifies.

    Attributes:
        norms: The norms that the attack supports; the first is the default.
        minimal_norm: Whether the attack searches for the smallest perturbation, and not inside a given radius.
        access: The access to the model (see :meth:`queried_model`) that the attack needs: ``"gradients"``, ``"scores"``
            (logits) or ``"decisions"`` (predicted classes).
        perturbs: Whether the attack changes the images. One that does not is run once, at the radius 0.
    """

    norms: ClassVar[tuple[Norm, ...]]
    minimal_norm: ClassVar[bool]
    access: ClassVar[Literal["gradients", "scores", "decisions"]] = "gradients"
    perturbs: ClassVar[bool] = True
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
            raise TypeError(f"{cls.__name__} must declare its norms, as norms: ClassVar[tuple[Norm, ...]] = ('linf',)")

    @abstractmethod
    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """Runs the attack.

        Args:
            source: Computes logits and gradients, and is the only access to the model.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``, the classes to leave, or to reach if the threat is targeted.
            threat: The norm, the radii and the goal. The radii are infinite for a minimal-norm attack; see
                :meth:`search_threat`.
            random: A stream of random numbers for each image.

        Returns:
            Perturbed images ``(N, C, H, W)``. The caller projects them and scores them on held-out randomness.
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
        **options: Unpack[CallOptions],
    ) -> Tensor:
        """Attacks a model from Python.

        Args:
            model: Images in [0, 1] to logits; any normalization is inside. It may be on another device than the images
                and in ``train()`` mode, and is left as it was.
            images: ``(N, C, H, W)``, floats in [0, 1] or uint8, a tensor or an array. They are left as they were.
            labels: ``(N,)`` of any integer type, the classes to leave, or to reach if ``targeted``.
            norm: One of the attack's norms; the first by default.
            eps: The radius as a number or a fraction (``"8/255"``), for all images or ``(N,)``. A fixed-radius attack
                needs it. A minimal-norm attack returns the image itself if its perturbation is larger.
            targeted: Whether the labels are the classes to reach.
            **options: ``eot``, ``seed`` and ``batch_size``; see :class:`CallOptions`.

        Returns:
            Perturbed images ``(N, C, H, W)`` that are exactly inside the ball and the box: a tensor on the device of the
            images, in float64 if the images are, and in float32 otherwise.

        Raises:
            UserError: The model is not an ``nn.Module`` that returns logits, the attack does not support the norm, the
                radius is missing, negative or not on the pixel scale, a pixel is outside [0, 1], the number of labels is
                not N, or ``eot`` is ``"exact"`` and the model cannot enumerate its draws.
        """
        checked_model(model)
        clean, classes = checked_batch(images, labels)
        eot = checked_eot(options.get("eot", "auto"))
        seed = checked_seed(options.get("seed", 0))
        batch_size = options.get("batch_size")
        size = BatchSize(None if batch_size is None else checked_count(batch_size, "batch_size"))
        threat = self.threat(clean, norm=norm, eps=eps, targeted=targeted)
        queried = self.queried_model(model)
        # The model may write into its input, and the caller may be in inference mode.
        with torch.inference_mode(mode=False), frozen(model), frozen(queried), preserve_generators():
            inputs, goals = match_model(clean, queried), classes.to(device_of(queried))
            outputs = size.retry_smaller(2, lambda: checked_logits(queried, inputs[: min(2, size.rows or 2)]))
            require_classes(goals, outputs.shape[1])
            source = MeasuredModel(queried, inputs, size).source(
                eot, seed=seed, targeted=targeted, precision="float32" if self.needs_full_precision() else "tf32"
            )
            source.bind_draws(seed_from(seed, "attack"), torch.arange(len(inputs), device=inputs.device))
            search_threat = self.search_threat(threat)
            on_device = replace(search_threat, eps=search_threat.eps.to(inputs.device))
            perturbed = self.run(source, inputs, goals, on_device, Random.of(seed, inputs))
        return reset_outside(project_exactly(perturbed.to(clean), clean, search_threat), clean, threat)

    def queried_model(self, model: nn.Module) -> nn.Module:
        """The model that computes the logits and gradients for the attack: the attacked model, unless it has a surrogate.

        Args:
            model: The attacked model.
        """
        return model

    def needs_full_precision(self) -> bool:
        """Whether gradients, and the logits that come with them, must be computed in full float32.

        Those logits of a minimal-norm attack decide how small a perturbation may be.
        """
        return self.minimal_norm

    def reach(self) -> float | None:
        """The sum of the step sizes: the longest way from the starting point. ``None`` if they follow ``eps``.

        An attack that always starts at the image may leave it at ``None``: the perturbed images show how far it went.
        """
        return None

    def most_queries(self) -> int | None:
        """The queries per unbroken image of an attack without gradients, where they follow from its parameters.

        ``None`` where they do not: the attack is run on an image that it cannot break, and its passes are counted.
        """
        return None

    def min_classes(self, *, targeted: bool) -> int:
        """The smallest number of classes for which the attack works as its paper says.

        With fewer classes it still runs, with fewer targets or with another loss.

        Args:
            targeted: Whether the threat is targeted.
        """
        return 2

    def search_threat(self, threat: Threat) -> Threat:
        """The threat inside which the attack searches; its radii are infinite for a minimal-norm attack."""
        return replace(threat, eps=torch.full_like(threat.eps, torch.inf)) if self.minimal_norm else threat

    def threat(self, images: Tensor, *, norm: Norm | None, eps: Radius | None, targeted: bool) -> Threat:
        """Checks the caller's norm and radius, and makes the threat for a batch; see :meth:`__call__`.

        Args:
            images: ``(N, C, H, W)``; only their number and device are used.
            norm: See :meth:`__call__`.
            eps: See :meth:`__call__`.
            targeted: See :meth:`__call__`.

        Raises:
            UserError: The attack does not support the norm, or the radius is missing or invalid.
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
    """An attack that searches for an adversarial image inside a given radius."""

    minimal_norm: ClassVar[bool] = False


class MinimalNormAttack(Attack):
    """An attack that searches for the smallest perturbation that succeeds, and returns the image itself if none does.

    Against a randomized model, a success must fool every draw: the size of a perturbation that fools half of the draws
    says little about the distance to the decision boundary. If the draws are a sample, an iterate may fool all of
    them by chance, and the smallest of many such iterates probably does. So the goal must be reached in every draw of several successive steps; see
    :class:`~robustbench_cli.attacks.base.iterates.Streak`.
    """

    minimal_norm: ClassVar[bool] = True

"""Projected gradient descent in the latent space of a decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.models.latent_space import LatentSpace, latent_space_of
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, steepest_ascent
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["Latent"]


class Latent(FixedRadiusAttack):
    """Gradient steps on the latent of a decoder G: the perturbations are differences of decoded images.

    With the latent z of the image x, the iterates are ``project(x + G(z + d) - G(z))``, so the error of the reconstruction
    has no part in them. A step moves d along the normalized gradient of the cross-entropy with respect to the latent. This gradient
    ignores the projection, so d also follows pixels that the projection clips. The step sizes
    fall linearly from ``step_size |z|`` to 0. The result is the iterate with the smallest expected margin.

    The paper attacks with decoded images at any distance. Inside a ball, the attack is mostly weaker than ``pgd``, which may
    change each pixel by itself: run it beside ``pgd``, on a defense that trained on decoded images. The encoder and the
    decoder are the model's own, those of ``ladder`` or of any module with the two methods of
    :class:`~robustbench_cli.attacks.base.models.latent_space.LatentSpace`; their passes are not counted. A model without
    them is attacked with its pixels as the latents.
    """

    paper: ClassVar[str] = (
        "In the style of Zhou, Tsang, Yin: LADDER: Latent Boundary-guided Adversarial Training. Machine Learning 2022, "
        "arXiv 2206.03717"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    steps: int = Field(40, ge=1, description="number of steps")
    step_size: float = Field(
        0.2, gt=0, description="size of the first step, relative to the length of the image's latent"
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        space = latent_space_of(source.model) or _Pixels(images.shape[1:])
        latents = _encoded(source, space, images)
        _require_matching_decoder(space, latents, images)
        best = BestIterates(source, images, labels, threat)
        feasible = FeasibleSet(images, threat)
        sizes = self.step_size * latents.norm(dim=1, keepdim=True)
        start = _decoded(source, space, latents)
        for step in range(self.steps):
            iterates = feasible.project(feasible.images + _decoded(source, space, latents) - start)
            logits, gradient = source.gradient(iterates, labels, PGD.loss)
            unbroken = best.offer(iterates, logits)
            if unbroken is not None:
                if not len(unbroken):
                    return best.images
                feasible, labels = feasible.select(unbroken), labels[unbroken]
                latents, sizes, start, gradient = (part[unbroken] for part in (latents, sizes, start, gradient))
            slope = _pulled_back(source, space, latents, -gradient if threat.targeted else gradient)
            latents = latents + (1 - step / self.steps) * sizes * steepest_ascent(slope, "l2")
        iterates = feasible.project(feasible.images + _decoded(source, space, latents) - start)
        best.offer(iterates, source.logits(iterates))
        return best.images


def _encoded(source: GradientSource, space: LatentSpace, images: Tensor) -> Tensor:
    """The latents ``(N, d)`` of images ``(N, C, H, W)``, in slices that fit the batch size."""
    with torch.no_grad():
        return torch.cat([space.latents_of(images[part].clone()) for part in source.size.slices(len(images))])


def _decoded(source: GradientSource, space: LatentSpace, latents: Tensor) -> Tensor:
    """The images ``(N, C, H, W)`` of latents ``(N, d)``, in slices that fit the batch size."""
    with torch.no_grad():
        return torch.cat([space.images_of(latents[part]) for part in source.size.slices(len(latents))])


def _pulled_back(source: GradientSource, space: LatentSpace, latents: Tensor, gradient: Tensor) -> Tensor:
    """The gradient ``(N, d)`` of the loss at latents, from that ``(N, C, H, W)`` at the decoded images."""

    def slope(part: slice) -> Tensor:
        leaf = latents[part].detach().requires_grad_()
        with torch.enable_grad():
            decoded = space.images_of(leaf)
        return torch.autograd.grad(decoded, leaf, gradient[part])[0]

    return torch.cat([slope(part) for part in source.size.slices(len(latents))])


@torch.no_grad()
def _require_matching_decoder(space: LatentSpace, latents: Tensor, images: Tensor) -> None:
    """Checks that a decoder takes the encoder's latents, and gives images of the model's shape."""
    ours = "x".join(map(str, images.shape[1:]))
    try:
        decoded = space.images_of(latents[:1])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the decoder of {type(space).__name__} does not take its latents of shape {tuple(latents.shape[1:])} "
            f"({one_line(error)}): images_of must take what latents_of gives"
        ) from None
    if decoded.shape[1:] != images.shape[1:]:
        theirs = "x".join(map(str, decoded.shape[1:]))
        raise UserError(
            f"the decoder of {type(space).__name__} gives images of {theirs}: it must give {ours}, as the model takes"
        )


class _Pixels:
    """The latent space whose latents are the pixels.

    Args:
        shape: ``(C, H, W)``.
    """

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape

    def latents_of(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def images_of(self, latents: Tensor) -> Tensor:
        images: Tensor = latents.unflatten(1, self.shape)
        return images

"""Saliency maps: how much each pixel of an image moves the logit of its class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.inputs import checked_device, device_of
from robustbench_cli.attacks.base.rng import preserve_generators, seed_from
from robustbench_cli.benchmarks.devices import current
from robustbench_cli.benchmarks.evaluation.pass_settings import measured_on
from robustbench_cli.core.errors import UserError, is_out_of_memory

__all__ = ["saliency"]

_IMAGES_AT_ONCE = 256
"""The most images whose gradients are held at once."""


def saliency(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> Tensor | None:
    """The size of the label's input gradient at each pixel, relative to the largest of the image.

    The gradient is the expectation over the draws of a randomized model. Source: Simonyan, Vedaldi, Zisserman: Deep Inside
    Convolutional Networks. 2013, arXiv 1312.6034.

    Args:
        model: Images to logits ``(N, K)``.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        seed: Seed of the draws.
        device: See :class:`~.context.RunContext`.
        batch_size: See :class:`~.context.RunContext`.

    Returns:
        ``(N, H, W)`` in [0, 1], on the CPU, the maximum over the channels; 0 where an image has no gradient. ``None`` for a
        model that gives none.
    """
    device = checked_device(device) if device is not None else device_of(model)
    with (
        current(device),
        preserve_generators(),
        measured_on(model, images, device, "float32", batch_size=batch_size) as measured,
    ):
        source = measured.source("auto", precision="float32")
        maps = []
        for rows in torch.arange(len(images)).split(_IMAGES_AT_ONCE):
            source.bind_draws(seed_from(seed, "saliency"), rows.to(device))
            try:
                gradient = _gradient(source, images[rows].to(device), labels[rows].to(device))
            except (UserError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                return None
            maps.append(gradient.abs().amax(1).cpu())
    sizes = torch.cat(maps)
    return sizes / sizes.amax((1, 2), keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)


def _gradient(source: GradientSource, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient ``(N, C, H, W)`` of each image's logit of its label."""
    return source.gradient(images, labels, lambda logits, labels: logits.gather(1, labels[:, None])[:, 0])[1]

"""By how much a logit changes with the batch that an image passes in: measured, since the type of a number does not tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import margin, unmasked_classes, unmasked_spread
from robustbench_cli.attacks.base.rng import Random, seeded
from robustbench_cli.core.errors import UserError

__all__ = ["lazy_noise", "measure_noise", "measured_noise"]

_SAFETY = 4.0
"""Two logits may move against each other, and an attack meets more images and batch sizes than are measured."""

_MOST = 0.02
"""Of the spread of the logits. A model that changes by more with the batch does not round: other checks find it."""

_MOST_BY_INPUTS = 1e-4
"""The same for what the rounding of pixels explains: the jump of a quantizer is no rounding either."""

_GRID = 1 / 255


def measured_noise(source: GradientSource) -> float | None:
    """The noise of a source that :class:`.measured.MeasuredModel` has made; ``None`` of any other, which is not measured."""
    return None if source.noise is None else source.noise()


def lazy_noise(source: GradientSource, images: Tensor) -> Callable[[], float]:
    """A function that measures the noise of a source when it is first called; the source does not count its passes.

    A GPU may compute the logits that come with a gradient in another precision: these are measured too.

    Args:
        source: Where its draws are a sample, its noise is 0: no two answers could be compared.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
    """

    def with_gradient(images: Tensor) -> Tensor:
        labels = source.logits(images).mean(0).argmax(1)
        return source.gradient(images, labels, lambda logits, labels: -margin(logits, labels))[0]

    @cache
    def noise() -> float:
        if not source.exhaustive:
            return 0.0
        counted = source.forwards, source.backwards
        try:
            with seeded(0):
                return measure_noise([source.logits, *([with_gradient] if images.is_cuda else [])], images)
        except UserError:
            # A model without a gradient: its scores are all that can be asked for.
            with seeded(0):
                return measure_noise([source.logits], images)
        finally:
            source.forwards, source.backwards = counted

    return noise


@torch.no_grad()
def measure_noise(ways: Sequence[Callable[[Tensor], Tensor]], images: Tensor) -> float:
    """By how much a logit may change although the image is the same: with the batch, or with the last digit of a pixel.

    The images are moved off the grid of 8 bits and asked together, again in the opposite order in a batch twice as large,
    two of them alone, and once more with each pixel moved to one of its two neighbors in float32. Of the batches the largest
    difference counts, of the pixels the median over the images, and several times that: single images are near a jump of
    models that have any.

    Args:
        ways: Functions from images ``(n, C, H, W)`` to logits ``(D, n, K)`` of the same draws, which should agree; the first
            is asked for everything, the others once.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
    """
    random = Random.of(0, images[:8])
    shape = images.shape[1:]
    probes = (images[:8] + _GRID * (random.uniform(shape) - 0.5).to(images)).clamp(0, 1)
    moved = probes.nextafter(random.integers(2, shape).to(images))
    first, *others = ways
    together = first(probes).float()
    larger = first(torch.cat([probes.flip(0), moved])).float()
    again, of_moved = larger.split(len(probes), dim=1)
    alone = torch.cat([first(probes[row, None]).float() for row in range(min(2, len(probes)))], dim=1)
    counted = unmasked_classes(together)

    def change(logits: Tensor) -> Tensor:
        """The largest of any logit ``(n,)`` of the first n images."""
        n = logits.shape[1]
        differences = (logits - together[:, :n]).abs().where(counted[:, :n], 0)
        return differences.nan_to_num(0).amax((0, 2))

    by_batch = torch.cat([change(again.flip(1)), change(alone), *(change(way(probes).float()) for way in others)]).max()
    by_inputs = _SAFETY * change(of_moved).median()
    spread = unmasked_spread(together).mean(0).median()
    noise = torch.maximum(by_batch.minimum(_MOST * spread), by_inputs.minimum(_MOST_BY_INPUTS * spread))
    return _SAFETY * float(noise)

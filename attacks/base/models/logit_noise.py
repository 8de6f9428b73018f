"""Measures how much a logit changes with the batch in which its image passes through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import margin, unmasked_classes, unmasked_spread
from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.attacks.base.rng import Random, seeded

__all__ = ["measure_noise", "measured_noise", "noise_of"]

_SAFETY = 4.0
"""A factor for what eight images do not show: two logits move in opposite directions, other images, other batches."""

_MAX_BY_BATCH = 0.02
"""The largest noise from the batch, as a share of the logits' spread. A larger change is not rounding and no noise; a check flags it."""

_MAX_BY_PIXELS = 1e-4
"""The largest noise from the rounding of pixels, as a share of the spread. A quantizer's jump is larger."""

_GRID = 1 / 255


def measured_noise(source: GradientSource) -> float | None:
    """The logit noise of a source, if :class:`.measured_model.MeasuredModel` made it; ``None`` for any other source."""
    return None if source.noise is None else source.noise()


def noise_of(source: GradientSource, images: Tensor) -> float:
    """Measures the noise of a source, which afterwards knows nothing of these passes.

    A GPU may compute the logits that come with a gradient in another precision, so these are measured as well.

    Args:
        source: If its draws are a sample, its noise is 0: no two passes are comparable.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
    """
    if not source.exhaustive:
        return 0.0

    def with_gradient(images: Tensor) -> Tensor:
        # Any labels will do: only the logits count.
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return source.gradient(images, labels, lambda logits, labels: -margin(logits, labels))[0]

    before = source.forwards, source.backwards, source.recent_points, source.sample
    try:
        with seeded(0):
            return measure_noise([source.logits, *([with_gradient] if images.is_cuda else [])], images)
    except NoGradientError:
        # The model has no gradient, so only its scores are measured.
        with seeded(0):
            return measure_noise([source.logits], images)
    finally:
        source.forwards, source.backwards, source.recent_points, source.sample = before


@torch.no_grad()
def measure_noise(functions: Sequence[Callable[[Tensor], Tensor]], images: Tensor) -> float:
    """The largest change of a logit that the batch or the rounding of pixels explains.

    The images are moved off the 8-bit grid and passed through the model four times: together, in the opposite order in a
    batch twice as large, two of them alone, and with each pixel moved to a neighbor in float32. The change between
    batches counts with its maximum, the change by pixels with four times its median over the images: in a model with
    jumps, single images are near one.

    Args:
        functions: Map images ``(n, C, H, W)`` to logits ``(D, n, K)`` of the same draws. The first is measured on all
            batches, the others on one.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.

    Returns:
        The noise in units of the logits, with a safety factor.
    """
    random = Random.of(0, images[:8])
    shape = images.shape[1:]
    probes = (images[:8] + _GRID * (random.uniform(shape) - 0.5).to(images)).clamp(0, 1)
    moved = probes.nextafter(random.integers(2, shape).to(images))
    first, *others = functions
    together = first(probes).float()
    larger = first(torch.cat([probes.flip(0), moved])).float()
    reversed_order, of_moved = larger.split(len(probes), dim=1)
    alone = torch.cat([first(probes[row, None]).float() for row in range(min(2, len(probes)))], dim=1)
    unmasked = unmasked_classes(together)

    def change(logits: Tensor) -> Tensor:
        """``(n,)``: the largest change of any logit of the first n images."""
        n = logits.shape[1]
        differences = (logits - together[:, :n]).abs().where(unmasked[:, :n], 0)
        return differences.nan_to_num(0).amax((0, 2))

    in_other_batches = [change(reversed_order.flip(1)), change(alone)]
    by_batch = torch.cat([*in_other_batches, *(change(function(probes).float()) for function in others)]).max()
    by_pixels = _SAFETY * change(of_moved).median()
    spread = unmasked_spread(together).mean(0).median()
    by_batch = by_batch.where(by_batch <= _MAX_BY_BATCH * spread, 0)
    noise = torch.maximum(by_batch, by_pixels.minimum(_MAX_BY_PIXELS * spread))
    return _SAFETY * float(noise)

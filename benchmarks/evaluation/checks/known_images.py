"""The flag of a model that recognizes the clean images themselves."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits, require_repeatable
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["KnownImages"]

_CHANGES = 1 / 255, 4 / 255
"""The changes of each pixel: one gray level, and four, which no person sees."""

_FACTOR = 10.0
"""How much farther the clean image is from its neighbors, in logits, than they are from each other.

In the gallery, the factor that 5 % of the images exceed is 0.5 to 1.4 for honest deterministic models, and 84 to 375 for a lookup.
"""

_SHARE, _LEAST = 0.05, 2
"""The share and the number of images above which the flag is raised."""


class KnownImages(Check):
    """The clean image lies between two neighbors, and so do the logits of a model that is smooth.

    A lookup of known images, and a special treatment of images of 8 bits, put the clean image apart. A threshold that a pixel
    passes, as in a quantized model, puts one of the neighbors apart, since they move in opposite directions.
    """

    text: ClassVar[str] = (
        "the logits jump between clean images and images that differ by a few gray levels: the model recognizes the images"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "For more than 5 % and at least two of the images, the logits of the clean image are more than ten times as far from those "
        "of both of two neighbors as these are from each other. The neighbors have each pixel changed by one or by four gray "
        "levels, with random signs, and with the opposite signs."
    )
    why: ClassVar[str] = (
        "A model that looks the clean images up, or treats images of 8 bits in another way, has an accuracy that says nothing of "
        "other images. Gradients at the clean images belong to the lookup, and lead nowhere."
    )
    remedy: ClassVar[str] = (
        "Remove the special treatment. Measure the accuracy on images with a change of one gray level, and start attacks there."
    )
    source: ClassVar[str] = (
        "Own test; Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        require_repeatable(probe.measured)
        count = _images(probe)
        images, clean = probe.images[:count], probe.logits[:count]
        random = probe.random(torch.arange(count, device=images.device), self.name)
        for change in _CHANGES:
            moves = change * random.signs(images.shape[1:]).to(images)
            first, second = (model_logits(probe.measured, (images + sign * moves).clamp(0, 1)) for sign in (1, -1))
            apart = _distance(first, second).maximum(rounding(clean))
            known = _distance(first, clean).minimum(_distance(second, clean)) > _FACTOR * apart
            number = int(known.sum())
            if number >= _LEAST and number > _SHARE * count:
                right = [float((logits.argmax(1) == probe.labels[:count]).double().mean()) for logits in (clean, first)]
                return self.finding(
                    f"the logits of {number} of {count} images jump where pixels change by {255 * change:.0f} gray levels, and "
                    f"the accuracy goes from {right[0]:.3f} to {right[1]:.3f}",
                    known=number,
                    n=count,
                    accuracy=right[0],
                    accuracy_nearby=right[1],
                )
        return None

    def passes(self, probe: ModelProbe) -> int:
        return 2 * len(_CHANGES) * _images(probe)


def _images(probe: ModelProbe) -> int:
    """The number of images that pass."""
    return min(len(probe), probe.effort(50, 200, 500))


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """The largest difference of two rows of logits; masked classes, at infinity, are equal."""
    return torch.where(first == second, 0, (first - second).abs()).max(1).values

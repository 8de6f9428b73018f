"""The flag of a model that does clearly better on images in another range."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, compare_paired

__all__ = ["WrongRange"]

_LEVEL = 0.001
"""The probability of a false alarm over all ranges, if no range is better than [0, 1]."""


class WrongRange(Check):
    """The images pass as 0 to 255, as -1 to 1, normalized, divided by 255, and inverted."""

    text: ClassVar[str] = (
        "the model does clearly better on images in another range: its normalization is wrong or missing"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "In another range, more of the clean images are classified correctly than in [0, 1]: as 255 x, 2 x - 1, x / 255, 1 - x, or "
        "normalized by the mean and the standard deviation of each channel. The exact test of McNemar rejects equality at level "
        "0.001, divided by the number of ranges."
    )
    why: ClassVar[str] = (
        "The model was trained on another range, so its accuracies are those of a misused model. Radii have another meaning, too: "
        "8/255 of a range of 255 is nothing."
    )
    remedy: ClassVar[str] = (
        "Put the normalization into the model, so that it takes images in [0, 1]: --mean and --std, or a first layer."
    )
    source: ClassVar[str] = (
        "Own test; Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705"
    )
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        count = _images(probe)
        images, labels = probe.images[:count], probe.labels[:count]
        before = _scored(probe.logits[:count], labels)
        for name, convert in _RANGES.items():
            after = _scored(model_logits(probe.measured, convert(images)), labels)
            comparison = compare_paired(before, after)
            if after.accuracy > before.accuracy and comparison.p_value < _LEVEL / len(_RANGES):
                return self.finding(
                    f"accuracy {before.accuracy:.3f} on {count} images in [0, 1], and {after.accuracy:.3f} on {name}",
                    accuracy=before.accuracy,
                    accuracy_in_range=after.accuracy,
                )
        return None

    def passes(self, probe: ModelProbe) -> int:
        return len(_RANGES) * _images(probe)


def _images(probe: ModelProbe) -> int:
    """The number of images that pass."""
    return min(len(probe), probe.effort(50, 200, 500))


def _scored(logits: Tensor, labels: Tensor) -> ScoredDraws:
    # NaN is no class.
    right = (logits.argmax(1) == labels) & ~logits.isnan().any(1)
    return ScoredDraws(right=right[None].cpu().numpy(), shared=False)


def _normalized(images: Tensor) -> Tensor:
    """Images with mean 0 and standard deviation 1 in each channel, over all images."""
    deviation, mean = torch.std_mean(images, (0, 2, 3), correction=0, keepdim=True)
    return (images - mean) / deviation.clamp_min(1e-6)


_RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "0 to 255": lambda images: 255 * images,
    "-1 to 1": lambda images: 2 * images - 1,
    "normalized images": _normalized,
    "0 to 1/255": lambda images: images / 255,
    "inverted images": lambda images: 1 - images,
}

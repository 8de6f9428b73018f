"""The flag of images that occur twice, or that the model was trained on."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["DuplicateImages", "image_hashes"]

_SHARE, _LEAST = 0.01, 2
"""The share and the number of images above which the flag is raised. Published test sets have a few duplicates."""


class DuplicateImages(Check):
    """Images are equal if they are the same at 8 bits."""

    text: ClassVar[str] = "some images occur more than once, or are training images: there are fewer independent images"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "More than 1 % and at least two of the images repeat an earlier one, or are among the training images where these are at "
        "hand. Images are compared at 8 bits per channel."
    )
    why: ClassVar[str] = (
        "The confidence interval assumes that the images are independent, so with repeated images it is too narrow. The "
        "accuracy on training images is higher than that on new ones."
    )
    remedy: ClassVar[str] = "Remove the repeated images, and test on images that the model was not trained on."
    source: ClassVar[str] = (
        "Barz, Denzler: Do We Train on Test Data? Purging CIFAR of Near-Duplicates. Journal of Imaging 6, 2020, arXiv 1902.00423"
    )
    needs: ClassVar[tuple[Need, ...]] = ()

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        hashes = image_hashes(probe.images)
        repeated = len(hashes) - len({*hashes})
        known = {*image_hashes(probe.training()[0])} if probe.training is not None else set()
        trained = sum(value in known for value in hashes)
        parts = {f"{repeated} repeat an earlier image": repeated, f"{trained} are training images": trained}
        raised = [text for text, count in parts.items() if count >= _LEAST and count > _SHARE * len(hashes)]
        if not raised:
            return None
        return self.finding(
            f"of {len(hashes)} images, {' and '.join(raised)}", repeated=repeated, trained=trained, n=len(hashes)
        )


def image_hashes(images: Tensor) -> list[bytes]:
    """A hash of each image at 8 bits per channel.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].

    >>> first, second, third = image_hashes(torch.tensor([0.5, 0.5001, 0.6]).view(3, 1, 1, 1))
    >>> first == second, first == third
    (True, False)
    """
    levels = (images * 255).round().to(torch.uint8).flatten(1).cpu()
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in levels]

"""The evaluated images: always the first n of a split, and the hash that says which they were."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_cli.attacks.base.inputs import checked_count, checked_keywords
from robustbench_cli.benchmarks.datasets.base.split import Split, check_images
from robustbench_cli.core.errors import UserError

__all__ = ["Slice", "first_examples"]


@dataclass(frozen=True)
class Slice:
    """Some examples of a split.

    Attributes:
        images: ``(n, C, H, W)``, float32 in [0, 1].
        labels: ``(n,)``, int64.
        sha256: Of the images' shape, their float32 values and the labels; the same on every machine.
    """

    images: Tensor
    labels: Tensor
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


@checked_keywords
def first_examples(split: Split, n: int) -> Slice:
    """The first ``n`` examples of a split, or all of them where it has fewer.

    Args:
        split: In its own, fixed order.
        n: How many, at least 1.

    Raises:
        UserError: ``split`` is none, ``n`` is below 1, or an image is NaN somewhere or outside [0, 1].
    """
    given: object = split
    if not isinstance(given, Split):
        way = (
            "give one of its splits, dataset.split('test')" if hasattr(given, "split") else "give a split of a data set"
        )
        raise UserError(f"the split is a {type(given).__name__}: {way}")
    n = checked_count(n, "n", "at least one image is needed")
    images, labels = split.batch(torch.arange(min(n, len(split))))
    check_images(images, where="the images to be evaluated")
    return Slice(images=images, labels=labels, sha256=_sha256(images, labels))


def _sha256(images: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256(json.dumps(list(images.shape)).encode())
    # Little-endian whatever the machine, so that a cell has one identity everywhere.
    digest.update(np.ascontiguousarray(images.numpy(), dtype="<f4").data)
    digest.update(np.ascontiguousarray(labels.numpy(), dtype="<i8").data)
    return digest.hexdigest()

"""The evaluated images: the first n of a split, with a hash that identifies them."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from robustbench_cli.attacks.base.inputs import checked_count, checked_keywords
from robustbench_cli.benchmarks.datasets.base.split import Split, check_images
from robustbench_cli.core.errors import Choice, UserError

__all__ = ["Slice", "first_examples"]


@dataclass(frozen=True)
class Slice:
    """Some examples of a split.

    Attributes:
        images: ``(n, C, H, W)``, float32 in [0, 1].
        labels: ``(n,)``, int64.
        sha256: Of the images' shape, their float32 values and the labels; equal on all machines.
    """

    images: Tensor
    labels: Tensor
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


@checked_keywords
def first_examples(split: Split, n: int) -> Slice:
    """The first ``n`` examples of a split, or all of them if it has fewer.

    Args:
        split: Its order is fixed.
        n: The number of examples, at least 1.

    Raises:
        UserError: ``split`` is no split, ``n`` is below 1, or a pixel is NaN or outside [0, 1].
    """
    argument: object = split
    if not isinstance(argument, Split):
        hint = (
            "give one of its splits, dataset.split('test')"
            if hasattr(argument, "split")
            else "give a split of a data set"
        )
        raise UserError(f"the split is a {type(argument).__name__}: {hint}")
    n = checked_count(n, "n", "at least one image is needed")
    images, labels = split.first(n)
    if split.left_out:
        warnings.warn(split.left_out, Choice, stacklevel=3)
    check_images(images, where="the images to be evaluated")
    return Slice(images=images, labels=labels, sha256=_sha256(images, labels))


def _sha256(images: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256(json.dumps(list(images.shape)).encode())
    # Little-endian on every machine, so that a cell has one identity.
    digest.update(np.ascontiguousarray(images.numpy(), dtype="<f4").data)
    digest.update(np.ascontiguousarray(labels.numpy(), dtype="<i8").data)
    return digest.hexdigest()

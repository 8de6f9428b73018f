"""The radius that a deterministic procedure proves for an image, as it is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from robustbench_cli.attacks.base.models.passes import BatchSize

__all__ = ["CertifiedRadius", "enlarged", "records_by_batch", "reduced"]

_RELATIVE, _ABSOLUTE = 2e-6, 1e-7
"""How far an attack's images may lie outside a radius by their rounding."""


class CertifiedRadius(BaseModel):
    """The radius that a deterministic procedure proves for one image. The stored file has one line for each.

    Attributes:
        index: The image's index in the data slice; ``place`` in the file.
        predicted: The class that the model predicts.
        radius: The radius within which this class is proven, in the procedure's norm; 0 where nothing is proven.
        seconds: Wall time: its share of the time of its batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    index: int = Field(alias="place")
    predicted: int
    radius: float
    seconds: float


def records_by_batch(
    images: Tensor,
    indices: Sequence[int],
    radii_of: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    size: BatchSize,
) -> Iterator[CertifiedRadius]:
    """The records of images, computed in batches and timed.

    Args:
        images: ``(N, C, H, W)``.
        indices: N indices in the data slice.
        radii_of: Maps images ``(B, C, H, W)`` on the device to the predicted classes ``(B,)`` and the proven radii ``(B,)``.
        device: The device to compute on.
        size: Images at once.

    Yields:
        The record of each image, in the order of the images.
    """
    for batch in size.slices(len(images)):
        started = time.perf_counter()
        labels, radii = (values.tolist() for values in radii_of(images[batch].to(device)))
        seconds = (time.perf_counter() - started) / len(labels)
        for index, label, radius in zip(indices[batch], labels, radii, strict=True):
            yield CertifiedRadius(index=index, predicted=label, radius=radius, seconds=seconds)


def enlarged(eps: float) -> float:
    """The radius that has to be proven for ``eps``, because of the rounding of an attack's images.

    Args:
        eps: The radius.
    """
    return eps * (1 + _RELATIVE) + _ABSOLUTE


def reduced(radii: Tensor) -> Tensor:
    """The radii that are proven where ``radii`` ``(N,)`` are: the inverse of :func:`enlarged`, and at least 0."""
    return ((radii - _ABSOLUTE) / (1 + _RELATIVE)).clamp_min(0)

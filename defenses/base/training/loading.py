"""Loads training examples to a device: those in memory are copied there once, and gathered there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from robustbench_cli.attacks.base.device_memory import may_stay

__all__ = ["Examples", "InMemoryExamples", "Loader", "TensorExamples"]

_GATHERED_BYTES = 2**24
"""The most bytes of images that are gathered in one call on a GPU: those of a few steps, or of one."""


class Examples(Protocol):
    """Labeled images with access by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in [0, 1], and labels ``(B,)``, int64, at ``indices`` ``(B,)``, int64."""
        ...


@runtime_checkable
class InMemoryExamples(Examples, Protocol):
    """Examples that are held as tensors, such as images in uint8."""

    @property
    def nbytes(self) -> int:
        """The size of the tensors in bytes."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same examples on a device, which take their indices and give their batches there."""
        ...


@dataclass(frozen=True)
class TensorExamples:
    """Examples held as two tensors: ``(N, C, H, W)`` float32 in [0, 1], and ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """See :class:`InMemoryExamples`."""
        return self.images.nbytes + self.labels.nbytes

    def to(self, device: torch.device) -> TensorExamples:
        """See :class:`InMemoryExamples`."""
        return TensorExamples(self.images.to(device), self.labels.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Examples`."""
        return self.images[indices], self.labels[indices]


class Loader:
    """Loads examples to a device.

    A GPU computes a step of a small network faster than the CPU launches its kernels. So examples that are in memory are
    copied to the GPU once, and the images of several steps are gathered there in one call.

    Args:
        examples: The examples.
        device: The device of the batches.

    Attributes:
        layout: The memory layout of the images.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.layout = torch.channels_last
        self._examples = examples
        self._device = device
        self._source = torch.device("cpu")
        if isinstance(examples, InMemoryExamples) and may_stay(examples.nbytes, device):
            self._examples, self._source = examples.to(device), device

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` and labels ``(B,)`` on the device.

        Args:
            indices: ``(B,)``, int64, on any device.
        """
        images, labels = self._examples.batch(indices.to(self._source, non_blocking=True))
        return (
            images.to(self._device, memory_format=self.layout, non_blocking=True),
            labels.to(self._device, non_blocking=True),
        )

    def batches(
        self,
        batches: Sequence[Tensor],
        prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda images, labels: (images, labels),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows and labels of each batch, in order.

        Args:
            batches: The indices of each batch, at least one batch, on the CPU.
            prepare: From images ``(N, C, H, W)`` and labels ``(N,)`` to rows ``(N, ...)`` and their labels. On a GPU it gets
                the images of several batches.
        """
        sizes, together = [len(batch) for batch in batches], 1
        indices = torch.cat(tuple(batches)).to(self._source, non_blocking=True)
        while sizes:
            group, sizes = sizes[:together], sizes[together:]
            part, indices = indices.tensor_split([sum(group)])
            images, labels = self.batch(part)
            if self._device.type == "cuda":
                together = max(1, _GATHERED_BYTES * len(group) // images.nbytes)
            rows, labels = prepare(images, labels)
            yield from zip(rows.split(group), labels.split(group), strict=True)

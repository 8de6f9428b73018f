"""Loads training examples to a device: those in memory are copied there once, and gathered there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.device_memory import may_stay

__all__ = [
    "Examples",
    "InMemoryExamples",
    "Loader",
    "TensorExamples",
    "joined_examples",
    "layout_for_training",
    "mixed_batches",
]

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


@dataclass(frozen=True)
class _JoinedExamples:
    """The examples of one data set, then those of another."""

    first: Examples
    second: Examples

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Examples`."""
        of_second = indices >= len(self.first)
        count = int(of_second.sum())
        if count in (0, len(indices)):
            return self.second.batch(indices - len(self.first)) if count else self.first.batch(indices)
        parts = self.first.batch(indices[~of_second]), self.second.batch(indices[of_second] - len(self.first))
        # Where the rows of the batch are in the two parts.
        rows = of_second.to(torch.int8).argsort(stable=True).argsort()
        images, labels = (torch.cat(pair) for pair in zip(*parts, strict=True))
        return images[rows], labels[rows]


@dataclass(frozen=True)
class _JoinedInMemory(_JoinedExamples):
    """The same of examples that are held as tensors."""

    first: InMemoryExamples
    second: InMemoryExamples

    @property
    def nbytes(self) -> int:
        """See :class:`InMemoryExamples`."""
        return self.first.nbytes + self.second.nbytes

    def to(self, device: torch.device) -> _JoinedInMemory:
        """See :class:`InMemoryExamples`."""
        return _JoinedInMemory(self.first.to(device), self.second.to(device))


def joined_examples(first: Examples, second: Examples) -> Examples:
    """The examples of one data set, then those of another, as one.

    Args:
        first: Has the indices from 0.
        second: Has the indices that follow. Its images have the shape of the first's.
    """
    if isinstance(first, InMemoryExamples) and isinstance(second, InMemoryExamples):
        return _JoinedInMemory(first, second)
    return _JoinedExamples(first, second)


def mixed_batches(
    own: Tensor, extra: Tensor, *, fraction: float, batches: int, generator: torch.Generator
) -> Sequence[Tensor]:
    """The batches of an epoch of which extra examples take a fraction.

    The epoch has as many examples as ``own`` alone. So it takes only a part of them, another one in each epoch.

    Args:
        own: The indices ``(n,)``, in the order of this epoch.
        extra: The indices ``(m,)`` of the extra examples. Each is taken equally often, or once less.
        fraction: The fraction of the extra examples in each batch, to one example.
        batches: The number of batches; their sizes are nearly equal.
        generator: Draws the extra examples and the order in each batch.

    Returns:
        Indices, of each batch.
    """
    sizes = [len(part) for part in own.tensor_split(batches)]
    # Rounded over all batches so far: rounded in each, a small fraction of a small batch would always be 0.
    ends = [round(fraction * end) for end in itertools.accumulate(sizes)]
    added = [end - start for start, end in itertools.pairwise([0, *ends])]
    rounds = math.ceil(sum(added) / len(extra))
    order = torch.cat([extra[torch.randperm(len(extra), generator=generator)] for _ in range(max(rounds, 1))])
    kept = [size - count for size, count in zip(sizes, added, strict=True)]
    pairs = zip(own[: sum(kept)].split(kept), order[: sum(added)].split(added), strict=True)
    # Shuffled, because each of several processes takes a range of a batch.
    return [batch[torch.randperm(len(batch), generator=generator)] for batch in (torch.cat(pair) for pair in pairs)]


def layout_for_training(network: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory layout in which a network is trained: channels-last, unless torch corrupts its memory there.

    Most convolutions are fastest in the channels-last layout. But on CPUs without AVX-512, the backward pass of torch 2.15 to the
    weights of a 1 x 1 convolution with a stride and fewer than 8 input channels writes beyond its memory in it.

    Args:
        network: The network.
        device: The device of the training.
    """
    fatal = device.type == "cpu" and any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels // layer.groups < 8
        for layer in network.modules()
    )
    return torch.contiguous_format if fatal else torch.channels_last


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

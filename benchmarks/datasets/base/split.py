"""The examples of one split: images in [0, 1] and their labels, fetched by index."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from robustbench_cli.attacks.base.inputs import range_hint
from robustbench_cli.core.errors import UserError

__all__ = ["Split", "TensorSplit", "check_images"]


def check_images(images: Tensor, *, where: str) -> None:
    """Checks that all pixels are in [0, 1].

    Args:
        images: Floats of any shape.
        where: The images and their origin: the beginning of the message.

    Raises:
        UserError: A pixel is NaN or outside [0, 1].
    """
    if images.isnan().any():
        raise UserError(f"{where} hold NaN: every pixel must be a number in [0, 1]")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise UserError(f"{where} reach from {low:.9g} to {high:.9g}: {range_hint(low, high)}")


class Split(ABC):
    """The examples of one split, in an order that never changes.

    A subclass provides the images; it may read them on demand.

    Attributes:
        labels: ``(N,)``, int64, each in ``[0, K)``.
        usual_eps: The usual radius in linf of its data set, from which radius-dependent parameters of defenses follow;
            ``None`` if it is unknown.
        usual_augmentations: The usual augmentations of its data set's training images.
        class_names: The names of its data set's classes, in order; ``None`` if they are unknown.
        left_out: What a user should know of examples that cannot be read and are left out; empty if there are none.
    """

    usual_eps: float | None = None
    usual_augmentations: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    left_out: str = ""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Tensor) -> Tensor:
        """The images at some indices.

        Args:
            indices: ``(B,)``, int64 on the CPU.

        Returns:
            ``(B, C, H, W)``, float32 in [0, 1].
        """

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and the labels at some indices.

        Args:
            indices: ``(B,)``, int64 on the CPU.

        Returns:
            ``(B, C, H, W)`` and ``(B,)``, on the CPU.
        """
        return self.images(indices), self.labels[indices]

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """The first images and their labels, or all of them if there are fewer.

        Args:
            n: The number of images, at least 1.

        Returns:
            As :meth:`batch`.
        """
        return self.batch(torch.arange(min(n, len(self))))


class TensorSplit(Split):
    """Examples in memory.

    Args:
        images: ``(N, C, H, W)``: uint8, or floats in [0, 1].
        labels: ``(N,)``, int64.
        where: The images and their origin, for messages.

    Raises:
        UserError: The images have the wrong type or shape, or a pixel is NaN or outside [0, 1].
    """

    def __init__(self, images: Tensor, labels: Tensor, *, where: str = "the images") -> None:
        super().__init__(labels)
        if images.ndim != 4 or not images.numel():
            raise UserError(f"{where} have the shape {tuple(images.shape)}: give (N, C, H, W), each at least 1")
        if len(images) != len(labels):
            raise UserError(f"{where} are {len(images)}, their labels {len(labels)}: give one label per image")
        if images.dtype != torch.uint8:
            if not images.is_floating_point():
                raise UserError(f"{where} are of type {images.dtype}: give uint8, or floats in [0, 1]")
            check_images(images, where=where)
            images = images.to(torch.float32)
        self._images = images.contiguous()
        # A tensor, because a GPU divides by a number less exactly: it multiplies by the reciprocal.
        self._largest = torch.tensor(255.0)

    @property
    def eight_bits(self) -> bool:
        """Whether the pixels are stored as uint8."""
        return self._images.dtype == torch.uint8

    @property
    def nbytes(self) -> int:
        """The size of images and labels in bytes."""
        return self._images.nbytes + self.labels.nbytes

    def to(self, device: torch.device) -> TensorSplit:
        """The same examples on a device, in their own type. They take indices and give batches there.

        Args:
            device: The device.
        """
        moved = copy.copy(self)
        for name in ("labels", "_images", "_largest"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def images(self, indices: Tensor) -> Tensor:
        images = self._images[indices]
        return images / self._largest if images.dtype == torch.uint8 else images

"""The base class of augmentations, and the augmentations that a user names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings
from robustbench_cli.defenses.base.training.augmentations import registry

__all__ = ["Augmentation", "augment", "build_augmentations", "describe_augmentations", "mix", "read_augmentations"]


class Augmentation(Settings, ABC):
    """Changes training images at random before each step.

    It draws from torch's global generators, for each image of a batch independently, and runs on the images' device.

    Attributes:
        mixes_labels: Whether it mixes images of several classes. Its labels are then probabilities ``(B, K)``.
        mirrors: Whether it mirrors images, which changes the class of a digit.
    """

    mixes_labels: ClassVar[bool] = False
    mirrors: ClassVar[bool] = False

    @abstractmethod
    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augments a batch.

        Args:
            images: ``(B, C, H, W)``, float32 in [0, 1]. They stay unchanged.
            labels: Classes ``(B,)``, or probabilities ``(B, K)`` if it or an augmentation before it mixes labels.

        Returns:
            Images of the same shape in [0, 1], and their labels in the form in which they came.
        """


def mix(tensor: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """The weighted mean of two tensors, row by row.

    Args:
        tensor: ``(B, ...)``.
        other: ``(B, ...)``.
        share: The weights ``(B,)`` of ``other``, in [0, 1].
    """
    return tensor.lerp(other, share.to(tensor.dtype).reshape(-1, *[1] * (tensor.dim() - 1)))


def read_augmentations(value: object) -> object:
    """The augmentations as a user writes them, in the form that a recipe stores.

    Args:
        value: ``"crop,flip"``, or a list of names and of mappings such as ``{"name": "crop", "padding": 2}``; ``"none"`` alone
            is an empty list.

    Returns:
        A tuple of mappings with ``name`` and all parameters; ``None`` as it is.

    Raises:
        UserError: A name or a parameter is unknown, or a value is not allowed.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")] if value.strip() else []
    if value in (["none"], ("none",)):
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple):
        raise UserError("give names, such as crop,flip")
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in value]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise UserError(f"{entry!r:.80} is no augmentation: give a name, or {{name: crop, padding: 2}}")
    return tuple({"name": entry["name"], **_build(entry).model_dump(mode="json")} for entry in entries)


def build_augmentations(entries: Sequence[dict[str, Any]]) -> list[Augmentation]:
    """The augmentations of a recipe, in order.

    Args:
        entries: As :func:`read_augmentations` returns them.
    """
    return [_build(entry) for entry in entries]


def describe_augmentations(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What distinguishes the augmentations of a recipe from others: parameters, and the hash of a user's own code.

    Args:
        entries: As :func:`read_augmentations` returns them.
    """
    sources = [registry.source_of(entry["name"]) for entry in entries]
    return [
        entry if source is None else {**entry, "source": source} for entry, source in zip(entries, sources, strict=True)
    ]


def augment(
    augmentations: Sequence[Augmentation], images: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Runs augmentations one after the other.

    Args:
        augmentations: In order.
        images: ``(B, C, H, W)``, float32 in [0, 1].
        labels: ``(B,)``.
        classes: The number of classes K, for labels that are mixed.

    Returns:
        The images, and their labels: ``(B,)``, or probabilities ``(B, K)`` from the first augmentation on that mixes labels.

    Raises:
        UserError: An augmentation changes the size of the images.
    """
    for augmentation in augmentations:
        if augmentation.mixes_labels and labels.dim() == 1:
            labels = functional.one_hot(labels, classes).to(images.dtype)
        augmented, labels = augmentation.run(images, labels)
        if augmented.shape != images.shape:
            name = type(augmentation).__name__
            raise UserError(
                f"augmentation {name} makes images {tuple(augmented.shape)} of {tuple(images.shape)}: it must keep their size"
            )
        # In the network's memory layout, which the next augmentation and the first layer are fastest with.
        in_layout = augmented.stride() == images.stride()
        images = augmented if in_layout else torch.empty_like(images).copy_(augmented)
    return images, labels


def _build(entry: dict[str, Any]) -> Augmentation:
    name = entry["name"]
    kind: type[Augmentation] = registry.load(name)
    return kind.from_parameters({key: value for key, value in entry.items() if key != "name"}, name=name)

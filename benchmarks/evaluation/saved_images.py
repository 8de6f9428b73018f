"""Adversarial images in files of 8 bits per channel, scored as the files hold them."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import Threat, distance, per_image, project_exactly
from robustbench_cli.benchmarks.datasets.base.arrays import Array, read_arrays
from robustbench_cli.benchmarks.datasets.base.as_picture import as_picture
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.regular_file import open_regular

__all__ = ["SavedImages", "levels", "rounded"]

Bytes = NDArray[np.uint8]


def levels(images: Tensor) -> Tensor:
    """Rounds images to the nearest of 256 levels.

    Args:
        images: Numbers in [0, 1], of any shape.

    Returns:
        uint8, of the same shape.
    """
    return (images.double() * 255).round().to(torch.uint8)


def rounded(perturbed: Tensor, images: Tensor, *, norm: Norm, eps: float | None) -> Tensor:
    """Rounds perturbed images to 256 levels, inside the ball around the clean image in 256 levels.

    A pixel takes the nearest level. If that leaves the ball, it takes the nearest level towards the clean image: in linf only
    that pixel, in another norm all pixels of that image.

    Args:
        perturbed: ``(N, C, H, W)`` in [0, 1].
        images: ``(N, C, H, W)``, the clean images.
        norm: The norm of the ball.
        eps: Its radius; ``None`` for any distance, where every pixel takes the nearest level.

    Returns:
        ``(N, C, H, W)`` uint8.
    """
    if eps is None:
        return levels(perturbed)
    center = levels(images).double()
    radius = torch.full((len(images),), eps, dtype=torch.float64, device=images.device)
    inside = project_exactly(perturbed.double(), center / 255, Threat(norm=norm, eps=radius)) * 255 - center
    # 8/255 times 255 is not always 8 in floating point.
    nearest, shorter = inside.round(), (inside * (1 + 1e-9)).trunc()
    if norm == "linf":
        leaves = nearest.abs() > eps * 255 * (1 + 1e-9)
    else:
        leaves = per_image(distance(nearest / 255, torch.zeros_like(nearest), norm) > eps * (1 + 1e-9), images)
    return (center + torch.where(leaves, shorter, nearest)).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class SavedImages:
    """The adversarial images of a cell, as the files hold them.

    Attributes:
        images: ``(N, H, W, C)``, the clean images.
        perturbed: ``(N, H, W, C)``.
        labels: ``(N,)``.
        predictions: ``(R, N)``, the deployed rule's predictions on ``perturbed`` in R draws; see
            :func:`~robustbench_cli.attacks.base.models.decision.decisions`.
        saliency: ``(N, H, W)``, the :func:`~.saliency.saliency` of the clean images; ``None`` for a model without gradients.
    """

    images: Bytes
    perturbed: Bytes
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    saliency: Bytes | None = None

    @classmethod
    def of(
        cls,
        images: Tensor,
        perturbed: Tensor,
        labels: Tensor,
        predictions: NDArray[np.int64],
        saliency: Tensor | None = None,
    ) -> SavedImages:
        """Makes the record from tensors.

        Args:
            images: ``(N, C, H, W)`` uint8, on the CPU.
            perturbed: ``(N, C, H, W)`` uint8, on the CPU.
            labels: ``(N,)``.
            predictions: ``(R, N)``.
            saliency: ``(N, H, W)`` in [0, 1], on the CPU.
        """
        return cls(
            images=images.permute(0, 2, 3, 1).numpy(),
            perturbed=perturbed.permute(0, 2, 3, 1).numpy(),
            labels=labels.numpy(),
            predictions=predictions,
            saliency=None if saliency is None else levels(saliency).numpy(),
        )

    @property
    def perturbed_levels(self) -> Tensor:
        """``(N, C, H, W)`` uint8, as :func:`levels` gives them."""
        return torch.from_numpy(self.perturbed).permute(0, 3, 1, 2)

    @property
    def robust_accuracy(self) -> float:
        """The share of right predictions over images and draws; clean errors count as errors.

        A rejection is right if the attack has changed the image, and wrong otherwise.
        """
        changed = (self.perturbed != self.images).any(axis=(1, 2, 3))
        return float(((self.predictions == self.labels) | (self.predictions == REJECTED) & changed).mean())

    def write(self, folder: Path, name: str) -> None:
        """Writes ``NAME/INDEX_label_LABEL_predicted_PREDICTION.png`` for every image, and then ``NAME.npz``.

        The prediction in a file's name is that of the first draw.

        Args:
            folder: The folder of all saved images.
            name: The name of the file and of the folder.

        Raises:
            UserError: The folder cannot be written.
        """
        pictures = folder / name
        shutil.rmtree(pictures, ignore_errors=True)
        for index, (image, label, prediction) in enumerate(
            zip(self.perturbed, self.labels, self.predictions[0], strict=True)
        ):
            content = io.BytesIO()
            as_picture(image).save(content, "PNG")
            write_atomically(pictures / f"{index:05}_label_{label}_predicted_{prediction}.png", content.getvalue())
        arrays = io.BytesIO()
        np.savez_compressed(arrays, **{key: array for key, array in vars(self).items() if array is not None})
        write_atomically(folder / f"{name}.npz", arrays.getvalue())

    @classmethod
    def read(cls, folder: Path, name: str) -> SavedImages:
        """Reads ``NAME.npz``.

        Args:
            folder: The folder of all saved images.
            name: The name of the file.

        Raises:
            UserError: The file is missing or damaged.
        """
        path = folder / f"{name}.npz"
        try:
            with open_regular(path) as file:
                return cls._checked(read_arrays(file))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is missing or damaged ({one_line(error)}): remove {folder} to save its images again"
            ) from None

    @classmethod
    def _checked(cls, arrays: dict[str, Array]) -> SavedImages:
        """Saved images of arrays of any origin.

        Raises:
            ValueError: They are not the arrays that :meth:`write` stores.
        """
        kinds = {"images": (4, "u1"), "perturbed": (4, "u1"), "labels": (1, "i8"), "predictions": (2, "i8")}
        if "saliency" in arrays:
            kinds["saliency"] = (3, "u1")
        if {name: (array.ndim, array.dtype.str[1:]) for name, array in arrays.items()} != kinds:
            raise ValueError("it has other arrays than saved images")
        images, number = arrays["images"], len(arrays["labels"])
        shapes = images.shape == arrays["perturbed"].shape and arrays["predictions"].shape[1] == number == len(images)
        shapes &= "saliency" not in arrays or arrays["saliency"].shape == images.shape[:3]
        if not (shapes and images.size and arrays["predictions"].size and images.shape[3] in (1, 3)):
            raise ValueError("its arrays are of different images")
        return cls(**arrays)

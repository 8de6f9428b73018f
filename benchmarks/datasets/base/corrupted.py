"""The base class of data sets of corrupted images alone, and the arrays of CIFAR-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, NoTrainingImagesError, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit
from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = ["CifarC", "Corrupted"]

PER_SEVERITY = 10_000
"""The images of one severity in a file of CIFAR-10-C or CIFAR-100-C: the test images in their order."""

TOTAL = 5 * PER_SEVERITY


class Corrupted(Dataset):
    """Published images under corruptions; there are neither clean images nor any to train on."""

    only_corrupted: ClassVar[bool] = True
    argument_name: ClassVar[str | None] = "PATH"

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        super().__init__(argument, data_dir=data_dir)
        self.folder = Path(argument or "").expanduser()
        if not self.folder.is_dir():
            raise UserError(
                f"no folder {self.folder}: give {self.name.partition(':')[0]}:PATH, the folder of the unpacked files"
            )

    def load(self, name: SplitName) -> Split:
        if name == "train":
            raise NoTrainingImagesError(
                f"{self.name} has no images to train on: give a --checkpoint, or train on the clean data set first"
            )
        raise UserError(
            f"{self.name} has corrupted images only: give --suite corruptions, or --corruption fog --severity 3"
        )


class CifarC(Corrupted):
    """The published arrays of one of the CIFAR data sets: a file of 50,000 images for each corruption, and their labels."""

    shape = (3, 32, 32)

    def published(self, corruption: str, severity: int) -> Split:
        images = self._array(f"{corruption.replace('-', '_')}.npy", (TOTAL, 32, 32, 3))
        labels = self._array("labels.npy", (TOTAL,))
        rows = slice((severity - 1) * PER_SEVERITY, severity * PER_SEVERITY)
        pixels = torch.from_numpy(images[rows].transpose(0, 3, 1, 2).copy())
        split = TensorSplit(pixels, torch.from_numpy(labels[rows].astype(np.int64)))
        self._check(split, where=f"{corruption} at severity {severity} of {self.name}")
        return split

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """An array of uint8 in a file, which stays on the disk.

        Raises:
            UserError: The file is missing or damaged, or holds something else.
        """
        path = self.folder / name
        if not path.is_file():
            existing = sorted(
                file.stem.replace("_", "-") for file in self.folder.glob("*.npy") if file.stem != "labels"
            )
            hint = (
                did_you_mean(name.removesuffix(".npy").replace("_", "-"), existing, lead="it has ")
                if existing
                else "it has no .npy file"
            )
            raise UserError(f"{self.name} has no file {name}: {hint}")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
            raise UserError(f"{path} cannot be read ({one_line(error)}): download it again") from None
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != shape:
            found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
            raise UserError(f"{path} holds {found}: give the published file, uint8 of shape {shape}")
        return array

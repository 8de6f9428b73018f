"""ImageNet-C, as it was published."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from robustbench_cli.benchmarks.datasets.base.corrupted import Corrupted
from robustbench_cli.benchmarks.datasets.base.pictures import Example, PictureSplit
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.datasets.imagenet import CLASSES, ImageNet
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["ImageNetC"]


class ImageNetC(Corrupted):
    """ImageNet-C: ImageNet's 50,000 validation images under each of 19 corruptions at 5 severities, read where they are.

    ``PATH`` has the folders ``CORRUPTION/SEVERITY/SYNSET``, or these in the folders of the archives (``noise``, ``blur``,
    ``weather``, ``digital``, ``extra``). The order of the images is that of ``imagenet:PATH``: the first images are the same for each
    corruption and severity, and for the clean images. A folder with other files than the first one is an error.
    """

    paper: ClassVar[str] = "D. Hendrycks, T. Dietterich, ICLR 2019, arXiv 1903.12261; doi.org/10.5281/zenodo.2235448"
    eps: ClassVar[str] = "4/255"
    any_size: ClassVar[bool] = True
    classes = CLASSES

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
    ) -> None:
        super().__init__(argument, data_dir=data_dir)
        self._preprocessing, self._on_bad_image = preprocessing, on_bad_image
        self._folders = {
            path.parent.name.replace("_", "-"): path.parent
            for pattern in ("*/1", "*/*/1")
            for path in sorted(self.folder.glob(pattern))
            if path.is_dir()
        }
        if not self._folders:
            raise UserError(
                f"{self.folder} has no folder CORRUPTION/1: give imagenet-c:PATH, where PATH has fog/1/n01440764"
            )
        images, examples = self._images(min(self._folders), 1)
        self.shape, self.class_names = images.shape, images.class_names
        self._files = [*examples]

    def published(self, corruption: str, severity: int) -> Split:
        if corruption not in self._folders:
            raise UserError(
                f"{self.name} has no folder {corruption.replace('-', '_')}: {did_you_mean(corruption, self._folders, lead='it has ')}"
            )
        images, examples = self._images(corruption, severity)
        differences = sorted({*self._files} ^ {*examples})
        if differences:
            raise UserError(
                f"{self._folders[corruption] / str(severity)} and {self._folders[min(self._folders)] / '1'} differ in "
                f"{len(differences):,} files, such as {differences[0]}: give each corruption and severity the same images"
            )
        split = PictureSplit([*examples.values()], shape=images.shape, owner=images)
        self._check(split, where=f"{corruption} at severity {severity} of {self.name}")
        return split

    def _images(self, corruption: str, severity: int) -> tuple[ImageNet, dict[str, Example]]:
        """The images of a folder, which has the layout of ImageNet's validation images, in their order; by ``SYNSET/FILE``."""
        folder = self._folders[corruption] / str(severity)
        images = ImageNet(str(folder), preprocessing=self._preprocessing, on_bad_image=self._on_bad_image)
        examples = {
            str(picture).removeprefix(f"{folder}/"): (picture, label) for picture, label in images.examples("test")
        }
        return images, examples

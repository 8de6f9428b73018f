"""What is known of the entries of RobustBench's model zoo without RobustBench."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from torch import nn

from robustbench_cli.benchmarks.datasets.base.choices import Interpolation
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import bare_network
from robustbench_cli.benchmarks.models.base.wide_resnet import wide_resnet
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["ZooEntry", "find_entry", "zoo"]

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}

# The resizing and the crop of the ImageNet entries, by RobustBench's names for them: (H, W), shorter side, interpolation.
_PREPROCESSING: dict[str, tuple[tuple[int, int], int | None, Interpolation]] = {
    "Res256Crop224": ((224, 224), 256, "bilinear"),
    "BicubicRes256Crop224": ((224, 224), 256, "bicubic"),
    "Res224": ((224, 224), 224, "bilinear"),
    "Crop288": ((288, 288), None, "bilinear"),
}


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """An entry of the zoo: a line of ``robustbench_zoo.csv``, with the facts of RobustBench 1.1.1's ``model_zoo``.

    Attributes:
        dataset: ``cifar10``, ``cifar100`` or ``imagenet``.
        threat_model: ``Linf``, ``L2`` or ``corruptions``.
        name: The name in the zoo.
        network: The same network here; empty if there is none.
        mean: Mean of the normalization inside RobustBench's network, three numbers; empty without one.
        std: Standard deviation of that normalization.
        key: The key of the weights in the published file, where RobustBench does not take ``state_dict`` or the whole file.
        preprocessing: RobustBench's name for the resizing and the crop; empty for CIFAR.
    """

    dataset: str
    threat_model: str
    name: str
    network: str
    mean: str
    std: str
    key: str
    preprocessing: str

    @property
    def path(self) -> str:
        """The full name: data set, threat model, name."""
        return f"{self.dataset}/{self.threat_model}/{self.name}"

    @property
    def classes(self) -> int:
        """K."""
        return CLASSES[self.dataset]

    @property
    def metadata(self) -> ModelMetadata:
        """The normalization and the preprocessing; a network that is not here normalizes by itself."""
        size, resize, interpolation = _PREPROCESSING.get(self.preprocessing, ((32, 32), None, None))
        return ModelMetadata(
            classes=self.classes,
            mean=tuple(map(float, self.mean.split())) or None,
            std=tuple(map(float, self.std.split())) or None,
            normalizes=not self.mean,
            image_size=size,
            resize=resize,
            interpolation=interpolation,
            origin=f"RobustBench {self.path}",
        )

    def build(self, shape: tuple[int, int, int]) -> nn.Module:
        """The network of this project with fresh weights; ``network`` must not be empty.

        Args:
            shape: ``(C, H, W)``.
        """
        if wide := re.fullmatch(r"wrn-(\d+)-(\d+)(?::(\w+))?", self.network):
            depth, width = int(wide[1]), int(wide[2])
            return wide_resnet(
                self.network, depth=depth, width=width, shape=shape, classes=self.classes, argument=wide[3]
            )
        return bare_network(self.network, shape=shape, classes=self.classes)


@cache
def zoo() -> tuple[ZooEntry, ...]:
    """The entries, in RobustBench's order."""
    table = resources.files(__package__ or "").joinpath("robustbench_zoo.csv").read_text(encoding="utf-8")
    return tuple(ZooEntry(**row) for row in csv.DictReader(table.splitlines()))


def find_entry(path: str) -> ZooEntry:
    """An entry by its name, where no other has the same name, or by its full name.

    Args:
        path: ``NAME``, ``THREAT_MODEL/NAME`` or ``DATASET/THREAT_MODEL/NAME``; capitals do not matter before the name.

    Raises:
        UserError: There is no such entry, or several.

    >>> find_entry("Carmon2019Unlabeled").path
    'cifar10/Linf/Carmon2019Unlabeled'
    """
    *places, name = path.split("/")
    named = [entry for entry in zoo() if entry.name == name]
    if not named:
        names = sorted({entry.name for entry in zoo()})
        raise UserError(f"RobustBench has no model '{name}': {did_you_mean(name, names)}")
    wanted = {place.lower() for place in places}
    found = [entry for entry in named if wanted <= {entry.dataset, entry.threat_model.lower()}]
    if len(found) == 1:
        return found[0]
    options = ", ".join(f"robustbench:{entry.path}" for entry in found or named)
    problem = f"several models '{path}'" if found else f"no model '{path}'"
    raise UserError(f"RobustBench has {problem}: give {options}")

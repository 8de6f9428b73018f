"""The entries of RobustBench's model zoo, by name, with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from platformdirs import user_cache_path
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base import robustbench_package
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.robustbench_zoo import find_entry
from robustbench_cli.benchmarks.models.base.source import ModelSource
from robustbench_cli.benchmarks.weights.fill import LoadedWeights, fill
from robustbench_cli.benchmarks.weights.weights_file import StateDict, read_bytes, read_tensors
from robustbench_cli.core.errors import UserError

__all__ = ["RobustBench"]


class RobustBench(ModelSource):
    """An entry of RobustBench's model zoo (Croce et al., NeurIPS 2021, arXiv 2010.09670): ``robustbench:Carmon2019Unlabeled``.

    A name that the zoo has for several data sets or threat models is written ``robustbench:cifar10/Linf/NAME``. The weights
    come from the file in ``--checkpoint``, or RobustBench downloads them if it is installed. RobustBench is needed for the
    networks that are not among the models here, too.
    """

    prefix: ClassVar[str] = "robustbench"
    form: ClassVar[str] = "[DATASET/THREAT_MODEL/]NAME"
    describes_files: ClassVar[bool] = True

    def __init__(self, argument: str | None = None, *, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(argument, config=config)
        if self.weights is not None:
            raise UserError(f"robustbench:{self.name} comes with its weights: leave out '@{self.weights}'")
        self.entry = find_entry(self.name)
        self.name = self.entry.path

    @property
    def trained(self) -> bool:
        return True

    @property
    def metadata(self) -> ModelMetadata:
        return self.entry.metadata

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self.entry.build(shape) if self.entry.network else robustbench_package.untrained(self.entry)

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        folder = user_cache_path("advdef") / "robustbench"
        if not self.entry.network:
            return robustbench_package.pretrained(self.entry, folder)
        path = folder / f"{self.entry.path}.pt"
        if not path.is_file():
            robustbench_package.download(self.entry, path)
        return self.from_file(read_tensors(read_bytes(path), path), path, shape=shape, classes=self.entry.classes)[0]

    def from_file(
        self, tensors: Mapping[str, Tensor], path: Path, *, shape: tuple[int, int, int], classes: int
    ) -> tuple[nn.Module, LoadedWeights]:
        if not self.entry.network:
            return robustbench_package.from_file(self.entry, path), LoadedWeights()
        network = self.untrained(shape=shape, classes=classes)
        return network, fill(network, _as_robustbench_takes(tensors, self.entry.key), path, spec=self.spec)


def _as_robustbench_takes(tensors: Mapping[str, Tensor], key: str) -> Mapping[str, Tensor]:
    """The state dict of a published file that RobustBench takes; a file of another layout as it is.

    Args:
        tensors: Of the file.
        key: The key where this is not ``state_dict`` or the whole file.
    """
    if not isinstance(tensors, StateDict):
        return tensors
    states = {tensors.key: tensors, **tensors.alternatives}
    for wanted in (f"{key}.state_dict", key) if key else ("state_dict", ""):
        if wanted in states:
            return StateDict(states[wanted], wanted)
    return tensors

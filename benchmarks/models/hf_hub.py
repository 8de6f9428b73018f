"""Models of the Hugging Face Hub that timm builds, by their repository."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from robustbench_cli.benchmarks.models.base.hub import HubRepository
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.plausible_size import require_plausible_size
from robustbench_cli.benchmarks.models.base.source import ModelSource
from robustbench_cli.benchmarks.models.base.timm_network import TimmNetwork
from robustbench_cli.benchmarks.weights.folder import read_json
from robustbench_cli.benchmarks.weights.opened_file import open_file
from robustbench_cli.core.errors import UserError

__all__ = ["HfHub"]


class HfHub(ModelSource):
    """A model of the Hugging Face Hub whose ``config.json`` names an architecture of timm: ``hf-hub:OWNER/NAME``.

    Needs the extra ``advdef[hub]``. ``@REVISION`` is a branch, a tag or a commit. Code in a repository is never run.
    """

    prefix: ClassVar[str] = "hf-hub"
    form: ClassVar[str] = "OWNER/NAME[@REVISION]"

    @property
    def trained(self) -> bool:
        return True

    @property
    def _repository(self) -> HubRepository:
        return HubRepository(self.name, self.weights)

    @cached_property
    def _description(self) -> tuple[TimmNetwork, str]:
        """The network, and the commit that describes it; empty where a checkpoint does."""
        if self._config is not None:
            # A checkpoint that lacks it must not choose what is downloaded.
            return TimmNetwork.from_config(self._config, where=self.spec), ""
        file = self._repository.file("config.json")
        if file is None:
            raise UserError(
                f"{self.spec} has no config.json that names its architecture: download the folder, and give it as "
                "--checkpoint with the --model that it is"
            )
        # The folder of a file in the Hub's cache is named after the commit.
        return TimmNetwork.from_config(read_json(file), where=self.spec), file.parent.name

    @property
    def config(self) -> dict[str, Any]:
        return self._description[0].config

    @cached_property
    def metadata(self) -> ModelMetadata:
        network, commit = self._description
        return network.metadata(origin=f"hf-hub:{self.name}@{commit}", where=self.spec)

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self._description[0].build(shape=shape, classes=classes)

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        network, commit = self._description
        classes = self.metadata.classes
        if classes is None:
            raise UserError(f"{self.spec} does not say how many classes it has: its config.json lacks num_classes")
        # Of the same commit, also if the Hub changes between two downloads.
        file = HubRepository(self.name, commit).weights()
        tensors = open_file(file).tensors(file)
        require_plausible_size(lambda: network.build(shape=shape, classes=classes), tensors, file)
        return network.build(shape=shape, classes=classes, state=tensors)

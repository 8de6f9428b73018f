"""Timm's networks, by name, with its weights."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.hub import HubRepository
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import ModelSource, not_downloaded
from robustbench_cli.benchmarks.models.base.timm_network import TimmNetwork, timm_library
from robustbench_cli.benchmarks.weights.folder import WEIGHT_FILES
from robustbench_cli.benchmarks.weights.opened_file import open_file
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["Timm"]


class Timm(ModelSource):
    """A network of timm: ``timm:resnet18``, with weights ``timm:resnet18.a1_in1k`` or ``timm:resnet18@DEFAULT``.

    Needs the extra ``advdef[timm]``. A transformer is built for the size of the data's images.
    """

    prefix: ClassVar[str] = "timm"

    def __init__(self, argument: str | None = None, **keywords: Any) -> None:
        super().__init__(argument, **keywords)
        timm = timm_library(f"timm:{self.name}")
        architecture, _, tag = self.name.partition(".")
        known = timm.list_models()
        if architecture not in known:
            raise UserError(f"timm has no network '{architecture}': {did_you_mean(architecture, known)}")
        if tag and self.weights not in {None, tag}:
            raise UserError(
                f"timm:{self.name} names its weights already, and '@{self.weights}' others: give one of them"
            )
        self.name, self.weights = architecture, tag or self.weights
        if self.weights is not None:
            tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}*") if self._is_of(name)]
            default = timm.models.get_pretrained_cfg(architecture)
            self.weights = default.tag if self.weights == "DEFAULT" and tags else self.weights
            if self.weights not in tags:
                hint = did_you_mean(self.weights, tags) if tags else "leave them out for fresh ones"
                raise UserError(f"timm has no weights '{self.weights}' of {architecture}: {hint}")

    def _is_of(self, name: str) -> bool:
        return name.partition(".")[0] == self.name

    @property
    def trained(self) -> bool:
        return self.weights is not None or bool(self._config)

    @property
    def config(self) -> dict[str, Any]:
        return self._network.config if self._config else {}

    @property
    def spec(self) -> str:
        return f"timm:{self.name}" + ("" if self.weights is None else f".{self.weights}")

    @property
    def _cfg(self) -> dict[str, Any]:
        """Timm's description of the weights; of the default ones for a network without."""
        timm = timm_library(self.spec)
        cfg = timm.models.get_pretrained_cfg(self.spec.removeprefix("timm:"))
        return dict(cfg.to_dict()) if cfg is not None else {}

    @cached_property
    def _network(self) -> TimmNetwork:
        if self._config:
            # From a folder or a checkpoint, which says more than the name.
            return TimmNetwork.from_config(self._config, where=self.spec)
        return TimmNetwork(self.name, self._cfg, {})

    @property
    def _repository(self) -> HubRepository | None:
        name = self._cfg.get("hf_hub_id")
        return None if name is None else HubRepository(name)

    @cached_property
    def metadata(self) -> ModelMetadata:
        if not self.trained:
            return ModelMetadata()
        origin = "" if self._config else str(self._repository or self._cfg["url"])
        return self._network.metadata(origin=origin, where=self.spec)

    @property
    def fingerprint(self) -> str:
        if self._repository is None:
            return self.metadata.origin
        filename = self._cfg.get("hf_hub_filename")
        commit = self._repository.commit((filename,) if filename else WEIGHT_FILES)
        return f"{self._repository}@{commit}"

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self._network.build(shape=shape, classes=classes)

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        classes = self.metadata.classes
        assert classes is not None
        return self._network.build(shape=shape, classes=classes, state=self._state())

    def _state(self) -> dict[str, Tensor]:
        """The weights as they were published."""
        if self._repository is not None:
            file = self._repository.weights(self._cfg.get("hf_hub_filename"))
            return dict(open_file(file).tensors(file))
        url = self._cfg["url"]
        try:
            state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
                url, progress=False, map_location="cpu", weights_only=True
            )
        except Exception as error:
            raise not_downloaded(url, error, instead="try again") from error
        return state

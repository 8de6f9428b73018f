"""An honest model of the gallery: a network and a defense, trained once per seed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.defenses import registry as defenses

__all__ = ["DATASET", "HonestModel"]

DATASET = "digits"


@dataclass(frozen=True, kw_only=True)
class HonestModel:
    """A model that hides nothing.

    Attributes:
        model: The network, as users name theirs.
        defense: The defense.
        parameters: Parameters of the defense that are not its defaults.
        dataset: The data set, as users name theirs.
        epochs: Training epochs.
        slow: Whether an audit takes a minute rather than seconds.
    """

    model: str = "small-cnn"
    defense: str = "none"
    parameters: Mapping[str, object] = field(default_factory=dict)
    dataset: str = DATASET
    epochs: int = 20
    slow: bool = False

    def trained(self, seed: int) -> nn.Module:
        """The model in ``eval()`` mode, trained now unless the user's cache folder has it.

        Args:
            seed: The seed of the training.
        """
        cache = ModelCache(
            dataset=self.dataset,
            data_dir=None,
            device=torch.device("cpu"),
            seed=seed,
            recipe={"epochs": self.epochs},
            begin=lambda label, path: print(f"training {label}, seed {seed}, once: {path}", file=sys.stderr),
        )
        spec = method_spec(defenses, self.defense, dict(self.parameters)).spec
        return cache.trained(cache.training(model=self.model, defenses=(spec,))).load()

"""What the tests of trainings share: a user's own defense and the comparison of weights."""

from __future__ import annotations

from pathlib import Path

import torch

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.defenses import registry as defenses

OWN = """
import copy
from typing import ClassVar
from torch import nn
from robustbench_cli.defenses.base.defense import Defense

class Darker(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, images):
        return self.model(images / 2)

class Dim(Defense):
    '''Halves every pixel.'''

    paper: ClassVar[str] = "none"

    def protect(self, model, example):
        return Darker(model)
"""


def tensors(defended: DefendedModel) -> dict[str, torch.Tensor]:
    """The weights of a model on the disk."""
    return defended.load().state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether the weights are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def own_defense(folder: Path) -> MethodSpec:
    (folder / "own.py").write_text(OWN)
    return method_spec(defenses, f"{folder / 'own.py'}:Dim", {}).spec

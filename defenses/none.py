"""No defense: the baseline of all comparisons."""

from __future__ import annotations

import copy
from typing import ClassVar

from torch import Tensor, nn

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.at_once import learner_in
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["Undefended"]


class Undefended(Defense):
    """The unchanged model with standard training."""

    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "none"

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        if learner_in(model) is None:
            trainer.fit(model, name="training")
        else:
            trainer.fit_at_once(model, name="training")

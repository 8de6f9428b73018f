from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.none import Undefended


def test_it_is_plain_training_of_a_copy(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """The weights equal those of the trainer alone, and the user's model stays unchanged."""
    train, _ = digits
    model = normed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe, device = Recipe(epochs=1), torch.device("cpu")
    defended = Undefended().protect(model, train.images[:1])
    Undefended().fit(defended, Trainer(train, recipe, seed=0, device=device))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    Trainer(train, recipe, seed=0, device=device).fit(model, name="training")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in defended.state_dict().items())

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.defenses.base.decision_rules import Decision
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.hrs import HRS
from robustbench_cli.defenses.noise_injection import NoiseInjection

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_one_draw_is_trained(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Training uses one draw a step, so all decision rules end with the same weights."""
    train, _ = digits
    trained = []
    for decision in ("one-draw", "mean", "vote"):
        torch.manual_seed(0)
        defense = GaussianNoise(decision=decision, draws=3)
        defended = defense.protect(normed(), train.images[:1])
        defense.fit(defended, Trainer(train, Recipe(epochs=1), seed=0, device=torch.device("cpu")))
        assert not any(module.training for module in defended.modules())
        trained.append([*defended.state_dict().values()])
    assert all(torch.equal(first, other) for more in trained[1:] for first, other in zip(trained[0], more, strict=True))


def test_defenses_are_stacked(normed: Callable[[], nn.Module]) -> None:
    """Composed defenses keep their own rules: a vote over noise around the exact mean of a switching model."""
    inner = HRS(channels=(2, 2), decision="exact").protect(normed(), IMAGES[:1])
    outer = NoiseInjection(sigma=0.3, decision="vote", draws=3).protect(inner, IMAGES[:1]).eval()
    assert isinstance(outer, Decision)
    assert [module.rule for module in outer.modules() if isinstance(module, Decision)] == ["vote", "exact"]
    assert is_randomized(outer, IMAGES)
    quiet = NoiseInjection(sigma=0, decision="mean", draws=3).protect(inner, IMAGES[:1]).eval()
    torch.testing.assert_close(quiet(IMAGES), inner.eval()(IMAGES))


class Training(RandomizedDefense):
    """Defines its own training of the draws."""

    paper: ClassVar[str] = "none"

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return model

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains nothing in this test."""


def test_a_randomized_defense_trains_if_it_trains_its_draws() -> None:
    """``train_draws`` counts as training; without it a defense trains nothing, whatever its decision rule."""
    assert (Training.trains, Training().needs_fit) == (True, True)
    assert (NoiseInjection.trains, NoiseInjection(decision="vote").needs_fit) == (False, False)

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.evaluation.setup import Setup

IMAGES = torch.rand(4, 1, 4, 4)


class Noisy(nn.Module):
    """Logits with noise."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) + torch.randn(len(images), 16)


@pytest.mark.parametrize("accounting", ["expected", "single-draw"])
@pytest.mark.parametrize(("model", "draws"), [(nn.Flatten(), 1), (Noisy(), 10)])
def test_draws_follow_from_the_model_and_the_options(accounting: Any, model: nn.Module, draws: int) -> None:
    """Ten draws for a randomized model by default; only its draws can be counted singly."""
    measured = MeasuredModel(model, IMAGES)
    options = EvaluationOptions(accounting=accounting)
    for attack, gradients in ((PGD(), True), (Square(), False)):
        setup = Setup(attack=attack, options=options, attacked=measured, followed=measured, classes=16)
        assert setup.draws == draws
        assert setup.single_draw == (accounting == "single-draw" and draws == 10)
        assert setup.follows_gradients == gradients

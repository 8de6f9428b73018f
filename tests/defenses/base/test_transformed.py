from __future__ import annotations

import torch
from torch import nn

from robustbench_cli.defenses.base.transformed import Transformed


class Inverted(nn.Module):
    """Inverts an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 - images


def test_the_last_element_is_the_model() -> None:
    """The transformations run in order, and a non-adaptive attack gets the model without them."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images = torch.rand(2, 1, 2, 2)
    transformed = Transformed(nn.ReflectionPad2d(1), Inverted(), nn.AvgPool2d(2), model)
    assert torch.equal(transformed(images), model(nn.AvgPool2d(2)(1 - nn.ReflectionPad2d(1)(images))))
    assert transformed.unwrapped_model is model

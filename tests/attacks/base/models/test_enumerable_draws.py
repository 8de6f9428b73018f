from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.enumerable_draws import cost_of_all_draws, enumeration_is_wrong

IMAGES = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
MANY = [1.0 + draw for draw in range(40)]


class Channels(nn.Module):
    """Draws a scale from some probabilities, and enumerates scales that may be others."""

    def __init__(self, scales: list[float], probabilities: list[float], enumerated: list[float]) -> None:
        super().__init__()
        self.scales, self.probabilities = torch.tensor(scales), torch.tensor(probabilities, dtype=torch.float64)
        self.enumerated = torch.tensor(enumerated)
        self.number_of_draws, self.cost_of_all_draws = len(enumerated), 1.5

    def forward(self, images: Tensor) -> Tensor:
        drawn = self.scales[torch.multinomial(self.probabilities, len(images), replacement=True)]
        return images.flatten(1) * drawn[:, None]

    def all_draws(self, images: Tensor) -> Tensor:
        return torch.stack([images.flatten(1) * scale for scale in self.enumerated])


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (Channels([1, 2, 3], [1, 1, 1], [1, 2, 3]), False),
        (Channels([1, 2], [2, 1], [1, 1, 2]), False),
        (Channels([1, 2, 3], [1, 1, 1], [1, 2, 4]), True),
        (Channels([1, 2, 3], [1, 1, 1], [1, 2]), True),
        (Channels(MANY[:20], [1] * 20, MANY), True),
        (Channels(MANY, [40] + [1] * 39, MANY), True),
    ],
    ids=[
        "right",
        "equal draws",
        "another draw",
        "a draw is missing",
        "draws that are never made",
        "not equally likely",
    ],
)
def test_an_enumeration_is_compared_with_the_draws(model: nn.Module, wrong: bool) -> None:
    """Each sampled draw must be an enumerated one, and all of them must be equally likely."""
    assert enumeration_is_wrong(model, IMAGES) is wrong
    assert cost_of_all_draws(model, IMAGES) == (None if wrong else 1.5)


def test_a_model_without_an_enumeration_has_no_cost() -> None:
    """Nor is its enumeration wrong."""
    assert not enumeration_is_wrong(nn.Flatten(), IMAGES)
    assert cost_of_all_draws(nn.Flatten(), IMAGES) is None

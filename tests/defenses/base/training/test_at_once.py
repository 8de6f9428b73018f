from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.training.at_once import LearnsAtOnce, inputs_of, learner_in


class NearestMean(LearnsAtOnce):
    """Classifies by the nearest mean of a class: a network that has no gradient descent."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(2, 4))

    @property
    def has_learned(self) -> bool:
        """Whether the means are known."""
        return bool(self.means.any())

    def learn(self, images: Tensor, labels: Tensor, *, seed: int) -> None:
        """Takes the means of both classes."""
        self.means = torch.stack([images[labels == label].flatten(1).mean(0) for label in (0, 1)])

    def forward(self, images: Tensor) -> Tensor:
        """Negative distances to the means."""
        return -torch.cdist(images.flatten(1), self.means)


class Halved(nn.Module):
    """A layer before it."""

    def forward(self, images: Tensor) -> Tensor:
        """Half of each pixel."""
        return images / 2


IMAGES, LABELS = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2


def test_it_learns_from_all_images_behind_the_layers_before_it() -> None:
    """More images than one batch of the recipe."""
    model = defend(nn.Sequential(Halved(), NearestMean()), "none", (IMAGES, LABELS), batch_size=8)
    expected = torch.stack([IMAGES[label == LABELS].flatten(1).mean(0) / 2 for label in (0, 1)])
    assert torch.allclose(model[1].means, expected)


def test_what_trains_by_gradients_is_refused() -> None:
    with pytest.raises(
        UserError, match="follows gradients of the weights, and the model learns from all examples at once"
    ):
        defend(NearestMean(), "pgd-at", (IMAGES, LABELS), epochs=1)


def test_a_module_is_found_with_its_inputs() -> None:
    learner = NearestMean()
    network = nn.Sequential(Halved(), learner)
    assert learner_in(network) is learner and learner_in(Halved()) is None
    assert torch.equal(inputs_of(learner, network, IMAGES), IMAGES / 2)

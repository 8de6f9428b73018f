from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.saliency import saliency

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1, 0])


def _linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 3)


def test_a_linear_models_saliency_is_its_weights() -> None:
    """Of the label, the largest channel of each pixel, relative to the largest pixel."""
    linear = _linear()
    found = saliency(nn.Sequential(nn.Flatten(), linear), IMAGES, LABELS)
    sizes = linear.weight[LABELS].detach().view(5, 3, 4, 4).abs().amax(1)
    torch.testing.assert_close(found, sizes / sizes.flatten(1).amax(1)[:, None, None])


def test_draws_are_averaged() -> None:
    """Half of the draws have the opposite gradient on the right, so that only the left half of the images counts."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            signs = 1 - 2 * torch.randint(2, (len(images), 1, 1)).float()
            left, right = images.sum(1).split(2, dim=2)
            return (5 * left + 5 * signs * right).flatten(1)[:, :2].cumsum(1)

    found = saliency(Model(), IMAGES, LABELS.clamp_max(1), seed=3)
    assert found is not None
    assert found[:, 0, 0].eq(1).all()
    again = saliency(Model(), IMAGES, LABELS.clamp_max(1), seed=3)
    assert torch.equal(found, again)


def test_a_model_without_gradients_has_none() -> None:
    """Neither has one whose backward pass fails. A zero gradient is a map of zeros."""

    class Cut(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images.detach())
            return logits

    assert saliency(Cut(nn.Flatten(), _linear()), IMAGES, LABELS) is None

    class Rounded(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images.round())
            return logits

    found = saliency(Rounded(nn.Flatten(), _linear()), IMAGES, LABELS)
    assert found is not None
    assert not found.any()

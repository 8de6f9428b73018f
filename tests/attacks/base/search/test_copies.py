from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.search.copies import chunks_of, mean_gradient, scaled_copies


class Affine(nn.Module):
    """Two logits, linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(2, 12, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def test_the_mean_over_chunks_is_the_derivative_of_the_mean_loss() -> None:
    """By torch's own derivative, for chunks of different sizes and for copies outside the box, which count as those on its edge."""
    model, images, labels = Affine(), torch.rand(4, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    outside = images.unsqueeze(1) + torch.tensor([1.5, -1.5], dtype=torch.float64)[:, None, None, None]
    chunks = [scaled_copies(images.unsqueeze(1), 3), (outside, [1.0, 1.0])]
    gradient = mean_gradient(EOT(model), chunks, labels)
    leaf = images.clone().requires_grad_()
    edges = [leaf + (copy.clamp(0, 1) - images) for copy in outside.unbind(1)]
    copies = torch.cat([leaf, leaf / 2, leaf / 4, *edges])
    loss = functional.cross_entropy(model(copies), labels.repeat(5), reduction="sum") / 5
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, leaf)[0])


def test_chunks_hold_every_copy_once() -> None:
    """Whatever their number is, and no chunk is empty."""
    for count in (1, 9, 10, 11, 40):
        assert sum(chunks_of(count)) == count
        assert 0 < min(chunks_of(count)) <= max(chunks_of(count)) <= 10

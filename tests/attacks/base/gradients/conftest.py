"""A model of a few small networks, one of which each row draws, with images and labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGES = torch.rand(7, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2])


class Paths(nn.Module):
    """One of D small networks, drawn by each row for itself; all of them can be enumerated."""

    def __init__(self, draws: int = 4, *, cost: float = 2.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(draws, 9, 6, generator=generator), requires_grad=False)
        self.second = nn.Parameter(torch.randn(draws, 6, 4, generator=generator), requires_grad=False)
        self.number_of_draws, self.cost_of_all_draws = draws, cost
        self.rows: list[int] = []

    def path(self, index: int, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.first[index]).tanh() @ self.second[index]

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        drawn = torch.randint(self.number_of_draws, (len(images),))
        every = torch.stack([self.path(index, images) for index in range(self.number_of_draws)])
        return every[drawn, torch.arange(len(images))]

    def all_draws(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        return torch.stack([self.path(index, images) for index in range(self.number_of_draws)])


def mean_of_gradients(model: Paths) -> Tensor:
    """Path by path and image by image, the gradient of the cross-entropy; and their mean over the paths."""
    total = torch.zeros_like(IMAGES)
    for index in range(model.number_of_draws):
        for row in range(len(IMAGES)):
            leaf = IMAGES[row : row + 1].clone().requires_grad_()
            loss = nn.functional.cross_entropy(model.path(index, leaf), LABELS[row : row + 1])
            total[row] += torch.autograd.grad(loss, leaf)[0][0] / model.number_of_draws
    return total

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.attacks.paper_cw_pgd import PaperCWPGD
from robustbench_cli.attacks.paper_pgd import PaperPGD


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("attack", [PaperPGD, PaperCWPGD])
def test_the_iterates_are_those_of_the_optimizer_of_torch(attack: type[PaperPGD], targeted: bool) -> None:
    """``torch.optim.Adam`` on the sign of the gradient, or on the gradient, with the image clipped after each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))
    images, labels, eps = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0]), 0.2
    point = (images - eps).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.05)
    for _ in range(15):
        logits = model(point)
        if attack is PaperPGD:
            loss = functional.cross_entropy(logits, labels, reduction="sum")
        else:
            own = functional.one_hot(labels, 4)
            loss = ((logits - 1e4 * own).amax(1) - (logits * own).sum(1)).sum()
        (gradient,) = torch.autograd.grad(loss if targeted else -loss, point)
        point.grad = gradient.sign() if attack is PaperPGD else gradient
        optimizer.step()
        with torch.no_grad():
            point.clamp_(0, 1).copy_(images + (point - images).clamp(-eps, eps))
    perturbed = attack(steps=15, lr=0.05)(model, images, labels, eps=eps, targeted=targeted)
    torch.testing.assert_close(perturbed, point.detach(), atol=1e-5, rtol=0)


def test_the_last_iterate_counts() -> None:
    """Of a model that gives the class in a narrow band only, a step too far loses what was won."""

    class Ridge(nn.Module):
        """Class 1 where the pixel is within 0.05 of 0.5."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            distance = (images.flatten(1).mean(1) - 0.5).abs()
            return torch.stack([distance, torch.full_like(distance, 0.05)], 1)

    image, target = torch.full((1, 1, 1, 1), 0.6), torch.tensor([1])
    reached = [
        int(Ridge()(PaperPGD(steps=steps)(Ridge(), image, target, eps=0.3, targeted=True)).argmax())
        for steps in range(1, 9)
    ]
    assert 1 in reached
    assert 0 in reached[reached.index(1) :]

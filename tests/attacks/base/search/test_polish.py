from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal
from robustbench_cli.attacks.base.search.polish import polish
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.fmn import FMN

PIXELS = 16


class Kink(nn.Module):
    """Class 0 as long as either of two linear functions is positive."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(2, PIXELS, generator=generator)
        # Both are positive at a gray image, one more than the other.
        self.bias = torch.tensor([2.0, 1.5]) - 0.5 * self.weight.sum(1)

    def forward(self, images: Tensor) -> Tensor:
        value = (images.flatten(1) @ self.weight.T + self.bias).amax(1)
        return torch.stack([value, torch.zeros_like(value)], 1)

    def exact(self, norm: Norm) -> float:
        """The distance of a gray image to class 1, by a linear program: both functions are at most 0."""
        eye, zeros, ones = np.eye(PIXELS), np.zeros((PIXELS, PIXELS)), np.ones((PIXELS, 1))
        rows = np.block(
            [
                [self.weight.numpy(), np.zeros((2, PIXELS + 1))],
                [eye, -eye, 0 * ones],
                [-eye, -eye, 0 * ones],
                [zeros, eye, -ones],
            ]
        )
        limits = np.concatenate([-self.bias.numpy(), np.full(PIXELS, 0.5), np.full(PIXELS, -0.5), np.zeros(PIXELS)])
        cost = np.concatenate([np.zeros(PIXELS), np.full(PIXELS, float(norm == "l1")), [float(norm == "linf")]])
        return float(linprog(cost, rows, limits, bounds=[(0, 1)] * PIXELS + [(0, None)] * (PIXELS + 1)).fun)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_it_ends_at_the_kink(norm: Norm) -> None:
    """Of twelve random pairs of planes, within 1 % of the linear program in linf and 2 % in l1; FMN alone is farther."""
    image, label = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    before, after = [], []
    for seed in range(12):
        model = Kink(seed)
        exact = model.exact(norm)
        source = EOT(model)
        best = BestPerturbation(source, image, label, norm, Goal.of(source, targeted=False))
        perturbed = FMN(steps=30)(model, image, label, norm=norm)
        best.start_from(perturbed, model(perturbed).argmax(1) == 1)
        before.append(best.distance.item() / exact)
        polish(source, image, label, best)
        best.shorten()
        assert model(best.images).argmax(1) == 1
        assert distance(best.images, image, norm).item() == pytest.approx(best.distance.item(), rel=1e-5)
        after.append(best.distance.item() / exact)
    assert min(after) >= 1 - 1e-5
    assert max(after) <= {"linf": 1.01, "l1": 1.02}[norm]
    assert max(before) > 1.1

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.search.boundary_steps import BoundarySteps
from robustbench_cli.attacks.base.search.linearization import plane_of_goal
from robustbench_cli.attacks.base.search.minimal_norm import BestPerturbation, Goal


class Pair(nn.Module):
    """Class 1 beyond a boundary to which the first pixel has the largest slope, until the second has passed 0.2."""

    def forward(self, images: Tensor) -> Tensor:
        first, second = images.flatten(1).T
        lead = first + 0.9 * second + 5 * (second - 0.2).relu() - 0.5
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(None, 0.5), ([True, True], 0.5), ([True, False], 0.5), ([False, True], 1.5 / 5.9)],
)
def test_pixels_that_the_first_steps_leave_out_lead_to_another_minimum(
    pixels: list[bool] | None, expected: float
) -> None:
    """The boundary is crossed by the first pixel alone at 0.5, and by the second at 1.5 / 5.9 (closed form)."""
    images, labels = torch.zeros(3, 1, 1, 2), torch.zeros(3, dtype=torch.int64)
    source = EOT(Pair())
    goal = Goal.of(source, targeted=False)
    best = BestPerturbation(source, images, labels, "l1", goal)
    BoundarySteps(steps=20).descend(
        images,
        images,
        partial(plane_of_goal, source, labels=labels, goal=goal),
        best,
        pixels=None if pixels is None else torch.tensor(pixels).expand_as(images),
    )
    best.shorten()
    torch.testing.assert_close(best.distance, torch.full_like(best.distance, expected), rtol=0.01, atol=0)

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation.successes_on_path import SuccessesOnPath

IMAGES = torch.full((4, 1, 1, 1), 0.5)


class Thirds(nn.Module):
    """Three classes by one pixel, above 0.55, from 0.45 to 0.55, and below; the class in the middle is 1."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        return torch.stack([pixel - 0.55, 0 * pixel, 0.45 - pixel], 1)


def successes(*points: float, goal: int, targeted: bool) -> tuple[list[bool], list[float]]:
    """Which images have a success on these paths of one point after another, and where."""
    source = MeasuredModel(Thirds(), IMAGES).source("auto")
    threat = Threat(norm="linf", eps=torch.full((4,), 0.1, dtype=torch.float64), targeted=targeted)
    found = SuccessesOnPath(source, IMAGES, torch.full((4,), goal), threat)
    for point in points:
        path = IMAGES.clone()
        path[:2] = point
        found(path, source.logits(path))
    return found.found.tolist(), found.points.flatten().tolist()


@pytest.mark.parametrize(
    ("goal", "targeted", "first"), [(1, False, 0.44), (0, True, 0.58), (2, True, 0.44), (1, True, 0.5)]
)
def test_the_first_success_counts(goal: int, targeted: bool, first: float) -> None:
    """Any other class, or the target; class 1 is that of the images that do not move."""
    found, points = successes(0.5, 0.44, 0.58, 0.42, goal=goal, targeted=targeted)
    assert found == [True, True, goal == 1 and targeted, goal == 1 and targeted]
    assert points == pytest.approx([first, first, 0.5, 0.5])


def test_points_outside_of_the_ball_do_not_count() -> None:
    """The radius is 0.1."""
    assert successes(0.39, 0.61, goal=1, targeted=False)[0] == [False] * 4

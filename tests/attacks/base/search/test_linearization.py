from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.linearization import Plane, short_step_to_plane, step_to_plane


def shortest(point: Tensor, slope: Tensor, value: float, norm: Norm) -> float:
    """The length of the shortest step inside the box to where a linear function is 0, by scipy's solvers."""
    pixels, direction = point.flatten().double().numpy(), slope.flatten().double().numpy()
    box = list(zip(-pixels, 1 - pixels, strict=True))
    if norm == "l2":
        plane = {"type": "eq", "fun": lambda step: direction @ step + value, "jac": lambda _: direction}
        solution = minimize(lambda s: s @ s, 0 * pixels, jac=lambda s: 2 * s, bounds=box, constraints=plane, tol=1e-14)
        return float(np.sqrt(solution.fun))
    eye = np.eye(len(pixels))
    # Sizes that bound the steps from both sides: one for all pixels, or one for each.
    bound = -np.ones((len(pixels), 1)) if norm == "linf" else -eye
    sizes = bound.shape[1]
    solution = linprog(
        np.r_[0 * pixels, np.ones(sizes)],
        A_ub=np.block([[eye, bound], [-eye, bound]]),
        b_ub=np.zeros(2 * len(pixels)),
        A_eq=[np.r_[direction, np.zeros(sizes)]],
        b_eq=[-value],
        bounds=box + [(0, None)] * sizes,
    )
    return float(solution.fun)


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2), ("l1", 1)])
def test_the_step_is_the_shortest_to_the_plane_inside_the_box(norm: Norm, order: float) -> None:
    """From either side of the plane, at pixels inside the box and at its edges, with slopes of which some are 0."""
    generator = torch.Generator().manual_seed(0)
    points = (1.6 * torch.rand(8, 1, 3, 3, generator=generator) - 0.3).clamp(0, 1)
    slopes = torch.randn(8, 1, 3, 3, generator=generator)
    slopes[:, :, 0, 0] = 0
    values = torch.linspace(-0.6, 0.6, 8)
    steps = step_to_plane(points, slopes, values, norm)
    assert ((points + steps >= -1e-7) & (points + steps <= 1 + 1e-7)).all()
    torch.testing.assert_close((slopes * steps).flatten(1).sum(1), -values, rtol=0, atol=1e-6)
    for point, slope, value, step in zip(points, slopes, values, steps, strict=True):
        expected = shortest(point, slope, value.item(), norm)
        assert torch.linalg.vector_norm(step, ord=order).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_plane_outside_the_box_is_approached_as_far_as_the_box_allows(norm: Norm) -> None:
    """Every pixel that matters ends at its edge of the box; without a slope nothing moves."""
    points = torch.tensor([0.25, 0.5, 1.0]).expand(2, 1, 1, 3)
    slopes = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]]).view(2, 1, 1, 3)
    steps = step_to_plane(points, slopes, torch.tensor([9.0, 9.0]), norm)
    torch.testing.assert_close(points + steps, torch.tensor([[0, 1, 1], [0.25, 0.5, 1.0]]).view(2, 1, 1, 3))


def test_the_short_step_goes_the_same_way_but_no_further_than_the_plane_is_away_without_a_box() -> None:
    """With one of two pixels at the edge, it is cut to the closed-form distance; with room for both, it is the whole step."""
    slope = torch.tensor([[3.0, 4.0]]).view(1, 1, 1, 2)
    for pixel, expected in ((0.0, (0.2, 0.0)), (0.5, (0.12, 0.16))):
        points = torch.tensor([[0.5, pixel]]).view(1, 1, 1, 2)
        plane = Plane(slope, torch.tensor([1.0], dtype=torch.float64))
        step = -short_step_to_plane(points, plane, "l2").flatten()
        torch.testing.assert_close(step, torch.tensor(expected))

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search import linearization
from robustbench_cli.attacks.base.search.linearization import (
    Plane,
    nearest_plane,
    plane_of_goal,
    short_step_to_plane,
    step_to_plane,
)
from robustbench_cli.attacks.base.search.minimal_norm import Goal
from tests.attacks.conftest import LinearVictim


def shortest(point: Tensor, slope: Tensor, value: float, norm: Norm) -> float:
    """The length of the shortest step inside the box to the zero set of a linear function, by scipy's solvers."""
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
    """From both sides of the plane, for pixels inside the box and at its edges, and with some slopes of 0."""
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
    """Every pixel with a slope ends at its edge of the box; without a slope nothing moves."""
    points = torch.tensor([0.25, 0.5, 1.0]).expand(2, 1, 1, 3)
    slopes = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]]).view(2, 1, 1, 3)
    steps = step_to_plane(points, slopes, torch.tensor([9.0, 9.0]), norm)
    torch.testing.assert_close(points + steps, torch.tensor([[0, 1, 1], [0.25, 0.5, 1.0]]).view(2, 1, 1, 3))


def test_the_short_step_goes_the_same_way_but_no_further_than_the_plane_is_away_without_a_box() -> None:
    """If one of two pixels is at the edge, the step has the closed-form distance; if both have room, it is the whole step."""
    slope = torch.tensor([[3.0, 4.0]]).view(1, 1, 1, 2)
    for pixel, expected in ((0.0, (0.2, 0.0)), (0.5, (0.12, 0.16))):
        points = torch.tensor([[0.5, pixel]]).view(1, 1, 1, 2)
        plane = Plane(slope, torch.tensor([1.0], dtype=torch.float64))
        step = -short_step_to_plane(points, plane, "l2").flatten()
        torch.testing.assert_close(step, torch.tensor(expected))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steps_of_several_points_and_planes_are_those_of_each(norm: Norm) -> None:
    """Points broadcast against slopes and slopes against points."""
    generator = torch.Generator().manual_seed(0)
    points, slopes = (torch.rand(4, 5, 2, 3, 3, generator=generator) for _ in range(2))
    slopes = slopes - 0.5
    values = torch.randn(4, 5, generator=generator)
    for part in range(4):
        one = step_to_plane(points[part], slopes[part], values[part], norm)
        assert torch.equal(step_to_plane(points, slopes, values, norm)[part], one)
        assert torch.equal(
            step_to_plane(points[:1], slopes, values, norm)[0], step_to_plane(points, slopes, values, norm)[0]
        )
        assert torch.equal(
            step_to_plane(points, slopes[:1], values, norm)[0], step_to_plane(points, slopes, values, norm)[0]
        )


@pytest.mark.parametrize("confidence", [0.0, 0.5])
@pytest.mark.parametrize("box", [False, True])
def test_the_nearest_plane_is_that_of_the_class_at_the_smallest_distance(confidence: float, box: bool) -> None:
    """Of a linear model, whose planes are its boundaries, by the formula for every class and image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6)).requires_grad_(False)
    images = 0.5 + 0.02 * torch.randn(20, 1, 3, 3)
    labels = model(images).argmax(1)
    goal = Goal(targeted=False, confidence=confidence)
    shortfall, plane = nearest_plane(EOT(model, batch_size=30), images, labels, goal, classes=5, norm="l2", box=box)
    weight, logits = model[1].weight, model(images)
    for index, label in enumerate(labels):
        gaps = logits[index, label] - logits[index] + confidence
        distances = gaps / (weight[label] - weight).norm(dim=1)
        distances[label] = torch.inf
        nearest = distances.argmin()
        torch.testing.assert_close(plane.slope[index].flatten(), weight[label] - weight[nearest])
        assert plane.value[index].item() == pytest.approx(gaps[nearest].item(), rel=1e-2, abs=1e-3)
        others = [j for j in range(6) if j != label]
        assert shortfall.values[0, index].item() == pytest.approx(gaps[others].min().item(), abs=1e-5)


def test_a_goal_of_its_own_has_the_plane_of_its_shortfall() -> None:
    """Towards a target of a linear model: the difference of the weights of the likeliest class and the target."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).requires_grad_(False)
    images = torch.rand(6, 1, 3, 3)
    top = model(images).topk(4)
    targets = top.indices[:, 3]
    _, plane = plane_of_goal(EOT(model), images, targets, Goal(targeted=True))
    expected = model[1].weight[top.indices[:, 0]] - model[1].weight[targets]
    torch.testing.assert_close(plane.slope.flatten(1), expected)
    torch.testing.assert_close(plane.value.float(), top.values[:, 0] - top.values[:, 3], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_classes_are_sorted_by_the_distance_of_a_linear_model(
    norm: Norm, linear_victim: Callable[..., LinearVictim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is that of the distances in closed form, also if few gradients are held at once."""
    victim = linear_victim(6)
    expected = victim.distances(norm).argsort(1)[:, :5]
    others = torch.arange(6).expand(len(victim.images), -1)
    others = others[others != victim.labels[:, None]].view(-1, 5)
    classes = torch.cat([victim.labels[:, None], others], 1)
    for numbers in (1 << 27, 6 * 36 * 5):
        monkeypatch.setattr(linearization, "_NUMBERS_AT_ONCE", numbers)
        order = linearization.by_boundary_distance(
            EOT(victim.model.requires_grad_(False)), victim.images, classes, norm
        )
        assert torch.equal(order[:, 0], victim.labels)
        assert torch.equal(order[:, 1:], expected)

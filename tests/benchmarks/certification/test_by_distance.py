from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.fab import FAB
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.by_distance import BoundaryDistance, boundary_distance, is_linear
from robustbench_cli.benchmarks.models.base.build import Normalize
from robustbench_cli.core.errors import UserError

NORMS: list[Norm] = ["linf", "l2", "l1"]
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def linear() -> nn.Sequential:
    """A linear classifier of images of 1 x 3 x 3."""
    torch.manual_seed(0)
    layer = nn.Linear(9, 3)
    with torch.no_grad():
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer)


def images(*, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def radii(model: nn.Module, rows: Tensor, norm: Norm) -> Tensor:
    records = BoundaryDistance(norm=norm).examine(
        model, rows, indices=range(len(rows)), seed=0, device=torch.device("cpu"), batch_size=5
    )
    return torch.tensor([record.radius for record in records])


@pytest.mark.parametrize("norm", NORMS)
def test_without_edges_it_is_the_margin_over_the_dual_norm(norm: Norm) -> None:
    """``|w x + b| / ||w||`` for two classes, exactly: in the middle of the box no pixel gets to its edge."""
    weights = torch.randn(20, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    margins = torch.linspace(0.001, 0.05, 20, dtype=torch.float64)
    distances = boundary_distance(weights, margins, torch.full_like(weights, 0.5), norm=norm)
    assert torch.allclose(distances, margins / weights.norm(DUAL[norm], dim=1), rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_with_edges_it_is_the_optimum_of_a_solver(norm: Norm) -> None:
    """A linear program in linf and l1, and a quadratic one in l2, by SciPy; some boundaries are out of reach."""
    random = np.random.default_rng(3)
    weights, rows, margins = random.normal(size=(12, 5)), random.random((12, 5)).round(1), random.random(12) * 2
    tensors = (torch.from_numpy(values) for values in (weights, margins, rows))
    distances = boundary_distance(*tensors, norm=norm).tolist()
    expected = [_solved(*problem, norm) for problem in zip(weights, margins, rows, strict=True)]
    assert distances == pytest.approx(expected, rel=1e-4)
    assert any(np.isinf(expected)) and any(np.isfinite(expected))


def _solved(weight: np.ndarray, margin: float, row: np.ndarray, norm: Norm) -> float:
    bounds = list(zip(-row, 1 - row, strict=True))
    if weight @ np.where(weight > 0, 1 - row, -row) < margin:
        return np.inf
    if norm == "l2":
        falls = {"type": "ineq", "fun": lambda moves: weight @ moves - margin}
        return (
            minimize(
                lambda moves: moves @ moves, np.where(weight > 0, 1 - row, -row), bounds=bounds, constraints=falls
            ).fun
            ** 0.5
        )
    # The size of each pixel's move lies below one number in linf, and below a number of its own in l1.
    sizes = np.ones((5, 1)) if norm == "linf" else np.eye(5)
    below = np.block([[np.eye(5), -sizes], [-np.eye(5), -sizes], [-weight[None], np.zeros((1, sizes.shape[1]))]])
    cost = np.concatenate([np.zeros(5), np.ones(sizes.shape[1])])
    limits = bounds + [(0, None)] * sizes.shape[1]
    return linprog(cost, below, np.append(np.zeros(10), -margin), bounds=limits).fun


def test_a_margin_of_nothing_has_no_distance() -> None:
    """Also where the weights are all zero."""
    weights, rows = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.full((2, 2), 0.5)
    for norm in NORMS:
        assert boundary_distance(weights, torch.zeros(2), rows, norm=norm).tolist() == [0, 0]


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_finds_the_distance_within_one_percent(norm: Norm) -> None:
    """FAB: no image is nearer, and the mean is within 1 %, also where pixels get to their edges."""
    model = linear()
    for low, high in ((0.4, 0.6), (0.0, 1.0)):
        rows = images(low=low, high=high)
        proven = radii(model, rows, norm)
        labels = model(rows).argmax(1)
        attacked = FAB(steps=20)(model, rows, labels, norm=norm)
        found = (attacked - rows).flatten(1).norm({"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
        broken = model(attacked).argmax(1) != labels
        assert bool(broken.all()) and bool((found >= proven).all())
        assert (found.sum() / proven.sum()).item() == pytest.approx(1, abs=0.01)


def test_a_normalization_is_part_of_the_model() -> None:
    """Half of all logits have the same boundaries."""
    rows, layer = images(low=0.45, high=0.55), linear()
    halved = nn.Sequential(Normalize(mean=0.5, std=2.0, channels=1), linear())
    with torch.no_grad():
        halved[1][1].bias.copy_(layer[1].bias / 2 + layer[1].weight.sum(1) / 4)
    assert torch.allclose(halved(rows), layer(rows) / 2, atol=1e-6)
    assert torch.allclose(radii(halved, rows, "l2"), radii(layer, rows, "l2"), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_rounding_inside_the_model_counts(norm: Norm) -> None:
    """Two layers whose large numbers cancel: in single precision the logits at the boundary are off by a tenth."""
    layer, model = linear()[1], nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Linear(6, 3))
    large = 1e6 * torch.rand(3, 9, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        model[1].weight.copy_(torch.cat([layer.weight + large, large]))
        model[1].bias.copy_(torch.cat([layer.bias, torch.zeros(3)]))
        model[2].weight.copy_(torch.cat([torch.eye(3), -torch.eye(3)], 1))
        model[2].bias.zero_()
    rows, exact = images(low=0.0, high=1.0), copy.deepcopy(model).double()
    logits = model(rows)
    others = logits.topk(2).indices[:, 1]
    difference = exact[1].weight.T @ exact[2].weight.T
    towards = (difference.T[others] - difference.T[logits.argmax(1)]).view_as(rows).float()
    steps = {"linf": towards.sign(), "l2": towards / towards.flatten(1).norm(dim=1).view(-1, 1, 1, 1)}.get(norm)
    if steps is None:
        largest = towards.abs().flatten(1).argmax(1, keepdim=True)
        steps = torch.zeros(12, 9).scatter(1, largest, towards.flatten(1).gather(1, largest).sign()).view_as(rows)
    for share in torch.linspace(0.9, 1, 50).tolist():
        moved = (rows + share * radii(model, rows, norm).view(-1, 1, 1, 1) * steps).clamp(0, 1)
        assert torch.equal(model(moved).argmax(1), logits.argmax(1))


def test_what_is_linear() -> None:
    assert is_linear(Network(linear(), images(low=0, high=1)))
    curved = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
    assert not is_linear(Network(curved, images(low=0, high=1)))
    with pytest.raises(UserError, match="the method distance is for linear classifiers, and this model is none"):
        BoundaryDistance().require(curved, images(low=0, high=1))


def test_another_norm_has_no_certificates() -> None:
    with pytest.raises(UserError, match="no certificates in l0: give linf, l2 or l1"):
        BoundaryDistance(norm="l0")

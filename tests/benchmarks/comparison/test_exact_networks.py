from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.fmn import FMN
from robustbench_cli.benchmarks.comparison.exact import ExactDistance
from robustbench_cli.benchmarks.comparison.exact_networks import (
    CASES,
    ExactCase,
    _answers,
    distance_table,
    radius_table,
    rounding_distance,
)
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.relu_network import BallNorm, ReLUNetwork
from robustbench_cli.benchmarks.models.base.build import build_model

SOLVED = [ExactDistance(lower, lower, 1, 0.1) for lower in (0.1, 0.2, 0.4)]


def cells(table: str) -> list[list[str]]:
    """The cells of a table's rows, without the header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_excess_is_relative_to_the_exact_distance() -> None:
    """Of three images one is at the exact distance, one 5 % farther and one is unbroken."""
    lengths = {
        "a": torch.tensor([0.1003, 0.21, torch.inf], dtype=torch.float64),
        "b": torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64),
    }
    assert cells(distance_table(lengths, {"a": "7"}, SOLVED, np.zeros(3))) == [
        ["a", "33.3 %", "66.7 %", "inf %", "0", "7"],
        ["b", "66.7 %", "66.7 %", "50.0 %", "0", ""],
    ]


def test_what_the_tolerance_moves_is_no_excess_and_is_counted() -> None:
    """An image on the boundary and one 2 % beyond it are judged by their tolerance, a third one is within 1 % anyway."""
    answers = [ExactDistance(lower, lower, 1, 0.1) for lower in (0.0, 0.001, 0.4)]
    lengths = {"a": torch.tensor([2e-5, 0.00102, 0.402], dtype=torch.float64)}
    (row,) = cells(distance_table(lengths, {}, answers, np.full(3, 2e-5)))
    assert row == ["a", "100.0 %", "100.0 %", "0.5 %", "2", ""]
    (row,) = cells(distance_table(lengths, {}, answers, np.zeros(3)))
    assert row == ["a", "33.3 %", "66.7 %", "inf %", "0", ""]


@pytest.mark.parametrize(("norm", "dual"), [("linf", 7.0), ("l1", 4.0)])
def test_the_tolerance_moves_the_boundary_of_a_linear_model_by_its_share(norm: BallNorm, dual: float) -> None:
    """The tolerance over the dual norm of the slopes; a pixel at the edge of the box that cannot move has none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    model.load_state_dict(
        {"1.weight": torch.tensor([[3.0, 4.0, 5.0], [0.0, 0.0, 0.0]]), "1.bias": torch.tensor([0.0, 3.49])}
    )
    image = torch.tensor([0.5, 0.5, 0.0]).view(1, 1, 1, 3)
    (moved,) = rounding_distance(model, ImageSet(image, torch.tensor([0])), norm)
    tolerance = 1e-4 * 0.01 + 16 * 2**-23 * 3.5
    assert moved.item() == pytest.approx(tolerance / dual, rel=1e-2)


def test_an_image_that_is_not_solved_does_not_count() -> None:
    """Its row would say nothing of the attack; at a radius between its bounds the exact robust accuracy is a range."""
    answers = [*SOLVED[:2], ExactDistance(0.15, 0.5, 9, 60.0)]
    lengths = {"a": torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)}
    (row,) = cells(distance_table(lengths, {}, answers, np.zeros(3)))
    assert row == ["a", "100.0 %", "100.0 %", "0.0 %", "0", ""]
    left = {0.3: torch.tensor([False, True, True])}
    assert cells(radius_table(left, answers)) == [["0.3", "0.0 to 33.3 %", "66.7 %", "1"]]


def test_an_attack_within_a_proven_distance_is_an_error() -> None:
    """It names the attack and the image."""
    lengths = {"a": torch.tensor([0.1, 0.15, 0.4], dtype=torch.float64)}
    with pytest.raises(RuntimeError, match="a broke images within a distance that is proven to be safe: 1"):
        distance_table(lengths, {}, SOLVED, np.zeros(3))
    with pytest.raises(RuntimeError, match="safe: 2"):
        radius_table({0.3: torch.tensor([False, False, False])}, SOLVED)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.most == 60], ids=lambda case: f"{case.network}-{case.norm}"
)
def test_the_answers_of_untrained_networks_agree_with_the_networks(case: ExactCase) -> None:
    """Every network that takes seconds is converted; its distance is at most that of an attack."""
    torch.manual_seed(0)
    model = build_model(
        f"robustbench_cli.benchmarks.comparison.exact_networks:{case.network}", shape=(1, 8, 8), classes=10
    ).eval()
    image = torch.rand(1, 1, 8, 8)
    label = model(image).argmax(1)
    perturbed = FMN(steps=40)(model, image, label, norm=case.norm)
    assert model(perturbed).argmax(1) != label
    network = ReLUNetwork.of(model, (1, 8, 8))
    assert network(image.flatten().double().numpy()).argmax() == label
    upper = distance(perturbed, image, case.norm).numpy()
    (answer,) = _answers(model, ImageSet(image, label), case.norm, upper, seconds=20.0)
    assert 0 < answer.lower <= answer.upper <= upper[0]

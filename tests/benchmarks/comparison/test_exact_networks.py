from __future__ import annotations

import pytest
import torch

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.fmn import FMN
from robustbench_cli.benchmarks.comparison.exact import ExactDistance
from robustbench_cli.benchmarks.comparison.exact_networks import (
    CASES,
    ExactCase,
    _answers,
    distance_table,
    radius_table,
)
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.relu_network import ReLUNetwork
from robustbench_cli.benchmarks.models.base.build import build_model

SOLVED = [ExactDistance(lower, lower, 1, 0.1) for lower in (0.1, 0.2, 0.4)]


def cells(table: str) -> list[list[str]]:
    """The cells of a table's rows, without the header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_excess_is_relative_to_the_exact_distance() -> None:
    """Of three images one is at the exact distance, one 5 % farther and one is unbroken; a tenth of an 8-bit step is free."""
    lengths = {
        "a": torch.tensor([0.1003, 0.21, torch.inf], dtype=torch.float64),
        "b": torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64),
    }
    assert cells(distance_table(lengths, {"a": "7"}, SOLVED)) == [
        ["a", "33.3 %", "66.7 %", "inf %", "7"],
        ["b", "66.7 %", "66.7 %", "49.9 %", ""],
    ]


def test_an_image_that_is_not_solved_does_not_count() -> None:
    """Its row would say nothing of the attack; at a radius between its bounds the exact robust accuracy is a range."""
    answers = [*SOLVED[:2], ExactDistance(0.15, 0.5, 9, 60.0)]
    lengths = {"a": torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)}
    assert cells(distance_table(lengths, {}, answers)) == [["a", "100.0 %", "100.0 %", "0.0 %", ""]]
    left = {0.3: torch.tensor([False, True, True])}
    assert cells(radius_table(left, answers)) == [["0.3", "0.0 to 33.3 %", "66.7 %", "1"]]


def test_an_attack_within_a_proven_distance_is_an_error() -> None:
    """It names the attack and the image."""
    lengths = {"a": torch.tensor([0.1, 0.15, 0.4], dtype=torch.float64)}
    with pytest.raises(RuntimeError, match="a broke images within a distance that is proven to be safe: 1"):
        distance_table(lengths, {}, SOLVED)
    with pytest.raises(RuntimeError, match="safe: 2"):
        radius_table({0.3: torch.tensor([False, False, False])}, SOLVED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.network}-{case.norm}")
def test_the_answers_of_untrained_networks_agree_with_the_networks(case: ExactCase) -> None:
    """Every network of the comparison is converted; its distance is at most that of an attack."""
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

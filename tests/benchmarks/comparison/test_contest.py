from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison import contest as contest_module
from robustbench_cli.benchmarks.comparison.contest import Contest, distances, robust_accuracy
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import PGDBudget

BUDGET = PGDBudget(norm="linf", eps=0.1, steps=2)


@pytest.fixture
def threshold() -> nn.Module:
    """Class 0 where the first of two pixels is above 0.5, else class 1."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        network[1].bias.copy_(torch.tensor([-0.5, 0.5]))
    return network


# Distances of 0.05, 0.2 and 0.05 from the threshold; the last is of class 1 and named as 0.
EXAMPLES = ImageSet(torch.tensor([[0.55, 0.5], [0.7, 0.5], [0.45, 0.5]]).view(3, 1, 1, 2), torch.tensor([0, 0, 0]))


def test_an_image_beyond_the_ball_is_projected_before_it_is_scored(threshold: nn.Module) -> None:
    """Of three images moved across the threshold, one is unbroken: its ball does not reach that far."""
    perturbed = EXAMPLES.images.clone()
    perturbed[..., 0] = 0.1
    assert robust_accuracy(threshold, EXAMPLES, perturbed, BUDGET) == pytest.approx(1 / 3)
    assert robust_accuracy(threshold, EXAMPLES, perturbed, replace(BUDGET, eps=0.3)) == 0
    assert robust_accuracy(threshold, EXAMPLES, EXAMPLES.images, BUDGET) == pytest.approx(2 / 3)


def test_a_distance_counts_only_where_the_model_is_fooled(threshold: nn.Module) -> None:
    """The l2 norm after clipping to the box; infinite for an image that stays correct."""
    perturbed = torch.tensor([[0.45, 0.5], [0.6, 0.5], [-3.0, 0.5]]).view(3, 1, 1, 2)
    expected = torch.tensor([0.1, torch.inf, 0.45], dtype=torch.float64)
    torch.testing.assert_close(distances(threshold, EXAMPLES, perturbed), expected, rtol=0, atol=1e-6)


def test_a_library_runs_in_a_process_of_its_own(defended: DefendedModel, examples: ImageSet) -> None:
    """The process returns the images and the seconds of each turn."""
    with Contest(["advdef"]) as contest:
        entries = contest.run(defended, examples, BUDGET, turns=2)
    assert [*entries] == ["advdef"]
    assert len(entries["advdef"].seconds) == 2
    length = distance(entries["advdef"].perturbed, examples.images, "linf")
    assert ((length > 0) & (length <= BUDGET.eps)).all()


def test_the_seconds_are_those_of_the_attack(
    defended: DefendedModel, examples: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read before and after the attack, and not while the model is loaded."""
    events: list[str] = []
    readings = iter([10.0, 13.5])
    load = DefendedModel.load

    def clock() -> float:
        events.append("clock")
        return next(readings)

    def loaded(model: DefendedModel) -> nn.Module:
        events.append("load")
        return load(model)

    monkeypatch.setattr(contest_module, "clock", clock)
    monkeypatch.setattr(DefendedModel, "load", loaded)
    arrays = (examples.images.numpy(), examples.labels.numpy())
    perturbed, seconds = contest_module._attack("advdef", defended, *arrays, BUDGET)
    assert (events, seconds) == (["load", "clock", "clock"], 3.5)
    assert perturbed.shape == arrays[0].shape

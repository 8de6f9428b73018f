from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.comparison.gpu_parts import Row, our_pgd, patterns, plain_pgd, timed
from robustbench_cli.benchmarks.comparison.peers import PGDBudget

CPU = torch.device("cpu")


def test_a_ratio_and_its_goal() -> None:
    """Ours over the other's time, or the other's over ours where the row says how many times as fast we are."""
    seconds = {"advdef": 2.0, "plain loop": 1.0, "Foolbox": 12.0}
    slower = Row(name="pgd", seconds=seconds, goal=1.15)
    assert (slower.ratio, slower.reached) == (2.0, False)
    faster = Row(name="cw", seconds=seconds, over="Foolbox", faster=True, goal=5)
    assert (faster.ratio, faster.reached) == (6.0, True)
    alone = Row(name="cw", seconds=seconds, over="AutoAttack", goal=1)
    assert (alone.ratio, alone.reached) == (None, None)


def test_the_median_of_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first turn does not count; of 1, 2 and 6 seconds the median is 2."""
    now, lengths = [0.0], iter([50.0, 1.0, 6.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def run() -> None:
        now[0] += next(lengths)

    assert timed({"run": run}, CPU, turns=3) == {"run": 2.0}


def test_the_plain_loop_and_ours_solve_the_same_problem() -> None:
    """On a linear model both end at the corner of the ball that the sign of the gradient gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).requires_grad_(False)
    images, budget = torch.full((2, 1, 3, 3), 0.5), PGDBudget(norm="linf", eps=0.1, steps=8)
    labels = model(images).argmax(1)
    # The other class is far, so that nothing breaks before the end.
    model[1].bias[labels[0]] += 10
    step = 0.1 * (model[1].weight[1 - labels[0]] - model[1].weight[labels[0]]).sign().view(1, 3, 3)
    for perturbed in (
        plain_pgd(model, images, labels, budget),
        our_pgd(model, images, labels, budget, "float32", {}),
    ):
        torch.testing.assert_close(perturbed, images + step)


def test_the_patterns_can_be_told_apart() -> None:
    """The nearest of the ten mean images of other examples has the right class."""
    images, labels = patterns(500, 1)
    means = torch.stack([images[labels == label].mean(0) for label in range(10)])
    others, classes = patterns(100, 2)
    nearest = (others[:, None] - means).flatten(2).norm(dim=2).argmin(1)
    assert torch.equal(nearest, classes)

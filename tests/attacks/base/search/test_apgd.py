from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.apgd import _DenseRun, _SparseRun
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat


def test_the_checkpoints_are_the_papers() -> None:
    """Of 100 steps: 22, 41, 57, 70, 80, 87, 93, 99; of any other number the same shares, rounded up."""
    spans = _DenseRun.checkpoints(100)
    assert [mark for mark in spans if mark < 100] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [spans[mark] for mark in (22, 41, 57, 99)] == [22, 19, 16, 6]
    assert [mark for mark in _DenseRun.checkpoints(20) if mark < 20] == [5, 9, 12, 14, 16, 18, 19]


def test_the_stages_of_l1_take_all_the_steps() -> None:
    """Balls of three, two and one radii, with three, three and four tenths of the steps; a single step is in the ball."""
    assert _SparseRun.stages(100) == [(3, 30), (2, 30), (1, 40)]
    for steps in range(1, 30):
        assert sum(count for _, count in _SparseRun.stages(steps)) == steps
        assert _SparseRun.stages(steps)[-1][1] >= 1


def unit_ball(norm: Norm) -> Threat:
    return Threat(norm=norm, eps=torch.ones(2, dtype=torch.float64))


def pixels(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_a_step_has_the_papers_momentum() -> None:
    """The first step is the gradient step; the second one adds three quarters of it and a quarter of the last move."""
    run = _DenseRun(pixels(0.5, 0.5), torch.zeros(2), FeasibleSet(pixels(0.5, 0.5), unit_ball("linf")))
    run.step_size = torch.tensor([0.1, 0.1])
    run.record(torch.zeros(2), pixels(1, -1))
    run.move()
    torch.testing.assert_close(run.iterates, pixels(0.6, 0.4))
    run.record(torch.ones(2), pixels(1, 1))
    run.move()
    torch.testing.assert_close(run.iterates, pixels(0.6 + 0.075 + 0.025, 0.4 + 0.075 - 0.025))


def test_the_step_size_is_halved_where_too_few_steps_increase_the_loss() -> None:
    """Of two images, one climbs at each of two steps and keeps its step size; the other one returns to its best point."""
    run = _DenseRun(pixels(0.5, 0.5), torch.zeros(2), FeasibleSet(pixels(0.5, 0.5), unit_ball("linf")))
    run.record(torch.tensor([0.0, 5.0]), pixels(1, 1))
    for step, loss in enumerate(([1.0, 4.0], [2.0, 3.0])):
        run.iterates = pixels(0.6, 0.6) + 0.1 * step
        run.record(torch.tensor(loss), pixels(1, 1))
    # The first record compares with infinity and counts as no increase.
    assert run.increases.tolist() == [2, 0]
    run.adapt(1.5)
    assert run.step_size.tolist() == [2, 1]
    torch.testing.assert_close(run.iterates, pixels(0.7, 0.5))


def test_a_sparse_run_restarts_with_the_largest_step_where_it_becomes_sparser() -> None:
    """One image's best point changes three of four pixels instead of four, the other one's all four."""
    images = torch.zeros(2, 1, 2, 2)
    run = _SparseRun(images + 0.5, torch.zeros(2), FeasibleSet(images, unit_ball("l1")))
    assert run.changed.tolist() == [4, 4]
    run.top = run.top.clone()
    run.top[0, 0, 0, 0] = 0
    run.step_size = torch.tensor([0.3, 0.3])
    run.adapt(0)
    torch.testing.assert_close(run.step_size, torch.tensor([1.0, 0.2]))
    assert run.moved.tolist() == [math.ceil(3 / 1.5), math.ceil(4 / 1.5)]
    assert torch.equal(run.iterates, torch.stack([run.top[0], images[1] + 0.5]))

from __future__ import annotations

from typing import Any

import torch

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.evaluation.setup import Setup


def batch(**options: Any) -> AttackedBatch:
    """A batch of six images after PGD, whose models nobody asks."""
    nothing: Any = None
    setup = Setup(attack=PGD(), options=EvaluationOptions(**options), attacked=nothing, followed=nothing, classes=10)
    return AttackedBatch(
        setup=setup,
        images=torch.zeros(6, 1, 2, 2),
        indices=torch.arange(6),
        source=nothing,
        followed_images=None,
        candidates=nothing,
        left_the_ball=False,
        no_gradients=False,
        silent_successes=0,
        scorer=nothing,
        fresh=nothing,
    )


def test_gradients_are_checked_in_the_ball_of_the_first_images() -> None:
    """Four of them, untargeted; near the image where there is no radius."""
    threat = batch(norm="l2", eps=0.5, targeted="next").threat
    assert (threat.norm, threat.eps.tolist(), threat.targeted) == ("l2", [0.5] * 4, False)
    assert batch(eps=0).threat.eps.tolist() == [0.03] * 4


def test_an_attack_that_asked_for_no_gradient_has_none_to_check() -> None:
    """Whatever the model is."""
    assert not batch(eps=0.1).has_gradients

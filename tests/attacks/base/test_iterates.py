from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.apgd_ce import APGDCE
from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.non_adaptive import NonAdaptive
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.sparse_rs import SparseRS
from robustbench_cli.attacks.spsa import SPSA
from robustbench_cli.attacks.square import Square

ATTACKS: list[tuple[Attack, Norm, float]] = [
    (PGD(steps=20, restarts=2), "linf", 0.1),
    (PGD(steps=20), "l1", 4.0),
    (CWPGD(steps=20), "l2", 0.7),
    (APGDCE(steps=20), "linf", 0.1),
    (APGDT(steps=20, n_target_classes=4, ranking_steps=5, top_k=2), "l2", 0.7),
    (Square(queries=100, restarts=2), "linf", 0.1),
    (Square(queries=100, early_stopping=True), "l1", 6.0),
    (SparseRS(queries=100), "l0", 6.0),
    (SPSA(steps=10, pairs=4), "linf", 0.1),
    (NonAdaptive(), "linf", 0.1),
]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("attack", "norm", "eps"), ATTACKS, ids=lambda value: type(value).__name__)
def test_when_images_leave_the_batch_changes_nothing(
    attack: Attack, norm: Norm, eps: float, targeted: bool, digits_victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, as on a CPU, or seldom, as on a GPU: the perturbed images are the same bit by bit, and not all fall."""
    images, labels = digits_victim.images[:24], digits_victim.labels[:24]
    goals = (labels + 1) % 10 if targeted else labels
    found: list[Tensor] = []
    for seldom in (False, True):
        monkeypatch.setattr(BestIterates, "seldom", seldom)
        # One row at a time: in a larger batch a row's logits may differ in their last digit.
        perturbed = attack(
            digits_victim.model, images, goals, norm=norm, eps=eps, targeted=targeted, batch_size=1, seed=1
        )
        found.append(perturbed)
    assert torch.equal(*found)
    if not targeted:
        assert 0 < digits_victim.accuracy(torch.cat([found[0], digits_victim.images[24:]])) < 1


def test_what_has_fallen_stays_as_it_fell() -> None:
    """A later iterate that is fooled by more takes its place neither in the images nor in the margins of the run."""
    source: Any = gradient_source(torch.nn.Flatten(), randomized=False)
    images, labels = torch.zeros(1, 1, 1, 2), torch.tensor([0])
    threat = Threat(norm="linf", eps=torch.ones(1, dtype=torch.float64))
    best = BestIterates(source, images, labels, threat)
    best.seldom = True  # type: ignore[misc]
    best.begin_restart()
    iterates = torch.tensor([[1.0, 0.5], [0.4, 0.6], [0.0, 1.0]]).view(3, 1, 1, 1, 2)
    margins = []
    for iterate in iterates:
        assert margin(iterate.flatten(1), labels).numel() == 1
        best.offer(iterate, iterate.flatten(1)[None])
        margins.append(best.margins_of_run.item())
    assert torch.equal(best.images, iterates[1])
    assert margins[0] > 0 > margins[1] == margins[2]

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat

from .conftest import LinearVictim, Victim


def test_a_trial_finds_the_target_that_the_logits_do_not_name(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of six classes the nearest is not the likeliest of every image; tried with ten steps, it is the one that is aimed at."""
    victim = linear_victim(6)
    words = {"norm": "linf", "eps": 1.02 * victim.radii("linf")}

    def accuracy(attack: APGDT) -> float:
        return victim.accuracy(attack(victim.model, victim.images, victim.labels, **words))

    assert accuracy(APGDT(n_target_classes=1)) > 0
    assert accuracy(APGDT(ranking_steps=10, top_k=1)) == 0


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_targets_together_break_what_they_break_one_after_another(norm: Norm, digits_victim: Victim) -> None:
    """As rows of one batch, each target takes the same steps: the same images fall, and the smallest margins are the same."""
    images, labels = digits_victim.images[:30], digits_victim.labels[:30]
    model = digits_victim.model.requires_grad_(False)
    radius = {"linf": 0.1, "l1": 2.0}[norm]
    threat = Threat(norm=norm, eps=torch.full((30,), radius, dtype=torch.float64))
    margins, costs = [], []
    for batch_size in (1, 30 * 9):
        source = EOT(model, batch_size=batch_size)
        perturbed = APGDT(steps=10).run(source, images, labels, threat, Random.of(3, images))
        margins.append(margin(model(perturbed), labels))
        costs.append(source.backwards)
    one_by_one, together = margins
    assert torch.equal(one_by_one < 0, together < 0)
    unbroken = together > 0
    assert 0 < unbroken.sum() < 30
    torch.testing.assert_close(together[unbroken], one_by_one[unbroken], rtol=1e-3, atol=1e-3)
    # An image that one target breaks is attacked towards the others until then.
    assert costs[0] < costs[1] < 9 * 10 * 30


def test_a_batch_is_filled_with_targets(linear_victim: Callable[..., LinearVictim]) -> None:
    """As many targets as fit, at least one; 24 images that none of five targets breaks, and ten steps each."""
    victim = linear_victim(6)
    rows: list[int] = []

    class Watching(EOT):
        def values_and_gradient(self, images: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
            rows.append(len(images))
            return super().values_and_gradient(images, *args, **options)

    threat = Threat(norm="linf", eps=0.5 * victim.radii("linf").double())
    count = len(victim.images)
    for batch_size, expected in ((None, [1] * 5), (count - 1, [1] * 5), (2 * count, [2, 2, 1]), (7 * count, [5])):
        rows.clear()
        source = Watching(victim.model.requires_grad_(False), batch_size=batch_size)
        APGDT(steps=2).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        assert rows[::2] == rows[1::2] == [count * targets for targets in expected]


def test_only_finalists_are_paid_for_in_full(linear_victim: Callable[..., LinearVictim]) -> None:
    """Five targets with two steps each, then two of them with ten; without a choice there is no trial."""
    victim = linear_victim(6)
    for top_k, expected in ((2, 5 * 2 + 2 * 10), (5, 5 * 10)):
        source = EOT(victim.model.requires_grad_(False))
        threat = Threat(norm="linf", eps=0.5 * victim.radii("linf").double())
        attack = APGDT(steps=10, ranking_steps=2, top_k=top_k)
        attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        assert source.backwards == len(victim.images) * expected

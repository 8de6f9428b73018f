from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat

from .conftest import LinearVictim


def test_a_trial_finds_the_target_that_the_logits_do_not_name(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of six classes the nearest is not the likeliest of every image; tried with ten steps, it is the one that is aimed at."""
    victim = linear_victim(6)
    words = {"norm": "linf", "eps": 1.02 * victim.radii("linf")}

    def accuracy(attack: APGDT) -> float:
        return victim.accuracy(attack(victim.model, victim.images, victim.labels, **words))

    assert accuracy(APGDT(n_target_classes=1)) > 0
    assert accuracy(APGDT(ranking_steps=10, top_k=1)) == 0


def test_only_finalists_are_paid_for_in_full(linear_victim: Callable[..., LinearVictim]) -> None:
    """Five targets with two steps each, then two of them with ten; without a choice there is no trial."""
    victim = linear_victim(6)
    for top_k, expected in ((2, 5 * 2 + 2 * 10), (5, 5 * 10)):
        source = EOT(victim.model.requires_grad_(False))
        threat = Threat(norm="linf", eps=0.5 * victim.radii("linf").double())
        attack = APGDT(steps=10, ranking_steps=2, top_k=top_k)
        attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        assert source.backwards == len(victim.images) * expected

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.square import Square

from .conftest import LinearVictim, NoisyLogits, Victim


@pytest.mark.parametrize(("norm", "excess"), [("linf", 1.03), ("l2", 1.6), ("l1", 2.5)])
def test_hardly_more_than_the_exact_distance_is_enough(
    norm: str, excess: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """With 1500 queries the attack comes less near to the boundary in l2 and l1 than in linf."""
    linear_victim(2).assert_falls_beyond_the_boundary(Square(queries=1500), norm, excess)


def test_a_lucky_draw_does_not_end_the_search(digits_victim: Victim) -> None:
    """Against noise larger than most improvements, the margin falls by over half of what it falls by without noise."""
    images, labels = digits_victim.images[:20], digits_victim.labels[:20]

    def margins(images: Tensor) -> float:
        with torch.no_grad():
            return margin(digits_victim.model(images), labels).mean().item()

    clean = margins(images)
    plain = margins(Square(queries=300)(digits_victim.model, images, labels, eps=0.05))
    noisy = margins(Square(queries=600)(NoisyLogits(digits_victim.model, 0.3), images, labels, eps=0.05, eot=4))
    assert clean - noisy > 0.5 * (clean - plain)


def test_square_leaves_what_it_will_not_break(linear_victim: Callable[..., LinearVictim]) -> None:
    """Far below the distance it asks a fraction of its queries; just above it, it finds all that it finds otherwise."""
    victim = linear_victim(2)

    def attacked(attack: Square, factor: float) -> tuple[float, float]:
        source = gradient_source(victim.model, randomized=False)
        threat = Threat(norm="linf", eps=factor * victim.radii("linf").double())
        with torch.no_grad():
            perturbed = attack.run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
        return victim.accuracy(perturbed), source.forwards / (len(victim.images) * attack.queries)

    assert attacked(Square(queries=1500), 0.5) == (1, 1)
    standing, asked = attacked(Square(queries=1500, early_stopping=True), 0.5)
    assert standing == 1
    assert asked < 0.3
    assert attacked(Square(queries=1500, early_stopping=True), 1.03)[0] == 0


def test_square_leaves_each_image_by_itself(digits_victim: Victim) -> None:
    """Which image is left, and what was found for it by then, does not depend on the others."""
    images, labels = digits_victim.images[:6], digits_victim.labels[:6]
    attack, random = Square(queries=400, early_stopping=True), Random.of(0, images)
    source = gradient_source(digits_victim.model, randomized=False)
    threat = Threat(norm="linf", eps=torch.full((6,), 0.05, dtype=torch.float64))
    with torch.no_grad():
        together = attack.run(source, images, labels, threat, random.select(torch.arange(6)))
        for row in torch.arange(6)[:, None]:
            alone = attack.run(source, images[row], labels[row], threat.select(row), random.select(row))
            torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-6)


def official_share(number: int, queries: int, *, rescale: bool) -> float:
    """``p_selection`` of the authors' AutoAttack (square.py), over ``p_init``."""
    if rescale:
        number = int(number / queries * 10_000)
    for after, part in (
        (8000, 512),
        (6000, 256),
        (4000, 128),
        (2000, 64),
        (1000, 32),
        (500, 16),
        (200, 8),
        (50, 4),
        (10, 2),
    ):
        if number > after:
            return 1 / part
    return 1.0


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("queries", [500, 5000, 10_000])
def test_squares_windows_shrink_as_in_autoattack(queries: int, rescale: bool) -> None:
    """Candidate by candidate, with the schedule for 10,000 queries as it is or brought to so many."""
    attack, images = Square(queries=queries, rescale_schedule=rescale), torch.zeros(1, 3, 32, 32)
    for number in range(0, queries - 1, 7):
        side = max(round((0.8 * official_share(number, queries, rescale=rescale) * 32 * 32) ** 0.5), 1)
        assert attack._side((number + 1) / queries, images) == side

"""Attacks that ask for scores or decisions, against the closed form of linear models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.finite_differences import estimated_gradient
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.hopskipjump import HopSkipJump
from robustbench_cli.attacks.nes import NES
from robustbench_cli.attacks.sparse_rs import SparseRS
from robustbench_cli.attacks.spsa import SPSA
from robustbench_cli.attacks.square import Square
from robustbench_cli.core.errors import UserError

from .conftest import LinearVictim, Victim

WITHOUT_GRADIENTS = [name for name in registry.names() if registry.load(name).access != "gradients"]


class Answers:
    """A source that answers one kind of question only."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        self._source = gradient_source(model, randomized=False)
        self.draws, self.exhaustive, self.noise = self._source.draws, self._source.exhaustive, None
        setattr(self, kind, getattr(self._source, kind))


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_an_attack_asks_for_no_more_than_it_says(name: str, linear_victim: Callable[..., LinearVictim]) -> None:
    """On a source that has nothing but scores, or nothing but decisions, the attack succeeds."""
    victim, kind = linear_victim(5), registry.load(name)
    attack: Attack = kind(**{key: 200 for key in ("queries",) if key in kind.model_fields})
    norm = attack.norms[0]
    threat = Threat(norm=norm, eps=(4 * victim.radii(norm)).double())
    answers: Any = Answers(victim.model, {"scores": "logits", "decisions": "decisions"}[attack.access])
    with torch.no_grad():
        perturbed = attack.run(answers, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert victim.accuracy(perturbed) == 0


@pytest.mark.parametrize(
    ("attack", "norm", "excess"),
    [
        (Square(queries=1500), "linf", 1.03),
        (Square(queries=1500), "l2", 1.6),
        (Square(queries=1500), "l1", 2.5),
        (SparseRS(queries=1500), "l0", 1.2),
        (NES(), "linf", 1.05),
        (NES(), "l2", 1.05),
        (SPSA(), "linf", 1.05),
        (SPSA(), "l2", 1.05),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Attack) else str(value),
)
def test_hardly_more_than_the_exact_distance_is_enough(
    attack: Attack, norm: Any, excess: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """At a radius a little above the distance to the boundary all images fall; a little below it none does."""
    victim = linear_victim(2)
    radii = victim.radii(norm).double()
    above, below = (radii * excess).ceil() if norm == "l0" else radii * excess, radii - (1 if norm == "l0" else 1e-3)
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, norm=norm, eps=above)) == 0
    assert victim.accuracy(attack(victim.model, victim.images, victim.labels, norm=norm, eps=below)) == 1


@pytest.mark.parametrize(("norm", "excess"), [("l2", 1.03), ("linf", 1.06)])
def test_hopskipjump_finds_the_nearest_image(
    norm: Any, excess: float, linear_victim: Callable[..., LinearVictim]
) -> None:
    """On a linear model its median distance is the closed form's, but for a few per cent."""
    victim = linear_victim(2)
    perturbed = HopSkipJump(queries=3000)(victim.model, victim.images, victim.labels, norm=norm)
    assert victim.accuracy(perturbed) == 0
    ratio = distance(perturbed, victim.images, norm) / victim.radii(norm)
    assert 1 <= ratio.median() < excess


def test_hopskipjump_says_that_it_has_nowhere_to_start(linear_victim: Callable[..., LinearVictim]) -> None:
    """A class that the model never predicts cannot be begun at: a line names it."""
    victim = linear_victim(3)
    never = nn.Sequential(victim.model, nn.ConstantPad1d((0, 1), -1e9))
    with pytest.raises(UserError, match="no starting point for class 3"):
        HopSkipJump()(never, victim.images[:4], torch.full((4,), 3), targeted=True)


def test_estimates_point_along_the_gradient(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of P random directions in d dimensions, the estimate's cosine with the gradient is about (P / (P + d)) ** 0.5."""
    victim = linear_victim(2)
    random = Random.of(0, victim.images)
    source = gradient_source(victim.model, randomized=False)
    with torch.no_grad():
        estimate = estimated_gradient(
            source, victim.images, victim.labels, (random.normal((20, 1, 6, 6)) for _ in range(20)), 1e-3
        )
        weight = victim.model.weight
        exact = (weight[1 - victim.labels] - weight[victim.labels]).view_as(estimate)
        cosine = torch.cosine_similarity(estimate.flatten(1), exact.flatten(1))
    expected = (400 / (400 + 36)) ** 0.5
    assert abs(cosine.mean() - expected) < 0.02


class NoisyLogits(nn.Module):
    """Logits with normal noise, which every row draws for itself."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits + self.sigma * torch.randn_like(logits)


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
    attack, random = Square(queries=200, early_stopping=True), Random.of(0, images)
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

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.random_search import Drawn, RandomSearch
from robustbench_cli.attacks.base.threat import Threat

IMAGES = torch.full((4, 1, 1, 1), 0.5)
LABELS = torch.zeros(4, dtype=torch.int64)
RADII = torch.tensor([0.05, 0.15, 0.3, 0.45], dtype=torch.float64)


class Threshold(nn.Module):
    """Class 1 where the only pixel is above 0.7, by a margin that grows linearly; each row may add noise."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        lead = images.flatten(1)[:, 0] - 0.7 + self.noise * torch.randn(len(images))
        return torch.stack([-lead / 2, lead / 2, torch.full_like(lead, -3.0)], 1)


def centers(images: Tensor, threat: Threat, random: Random) -> Tensor:
    return images.clone()


def shifts(shares: Sequence[float], images: Tensor, threat: Threat, random: Random) -> Drawn:
    """Uniform in the ball, for several queries."""
    numbers = 2 * random.ahead(len(shares)).uniform(images.shape[1:]) - 1
    return Drawn(per_query=(numbers,), per_image=(threat.eps.view(-1, 1, 1, 1).float(),))


def anywhere(share: float, incumbents: Tensor, images: Tensor, threat: Threat, drawn: tuple[Tensor, ...]) -> Tensor:
    shift, radius = drawn
    return (images + shift * radius).clamp(0, 1)


def run(search: RandomSearch, model: nn.Module, *, draws: int = 1, **threat: bool) -> tuple[Tensor, EOT]:
    source = EOT(model, draws=draws, randomized=draws > 1)
    ball = Threat(norm="linf", eps=RADII, **threat)
    labels = LABELS + 1 if ball.targeted else LABELS
    return search.run(source, IMAGES, labels, ball, Random.of(0, IMAGES)), source


@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_of_all_proposals_is_returned(targeted: bool) -> None:
    """Of a monotone score, the largest pixel that was proposed; images whose ball reaches beyond the threshold break."""
    search = RandomSearch(start=centers, draw=shifts, propose=anywhere, queries=200)
    perturbed, _ = run(search, Threshold(), targeted=targeted)
    broken = perturbed.flatten() > 0.7
    assert broken.tolist() == [False, False, True, True]
    torch.testing.assert_close(perturbed.flatten()[:2], 0.5 + RADII[:2].float(), rtol=0, atol=0.01)


def test_broken_images_cost_no_more_queries_and_restarts_are_for_the_others() -> None:
    """Two images never break: they cost all queries of both restarts, the start included; the others few."""
    search = RandomSearch(start=centers, draw=shifts, propose=anywhere, queries=100, restarts=2)
    _, source = run(search, Threshold())
    assert 2 * 2 * 100 < source.forwards < 2 * 2 * 100 + 2 * 50


def test_early_stopping_gives_up_images_that_do_not_come_closer() -> None:
    """The margins of two unbreakable images are constant after a few queries, and the search stops; no success is lost."""
    searches = [
        RandomSearch(start=centers, draw=shifts, propose=anywhere, queries=1000, early_stopping=stops)
        for stops in (False, True)
    ]
    (patient, all_queries), (stopped, queries) = (run(search, Threshold()) for search in searches)
    assert torch.equal(patient.flatten() > 0.7, stopped.flatten() > 0.7)
    assert queries.forwards < 0.6 * all_queries.forwards


def test_early_stopping_goes_on_where_a_logarithmic_decrease_ends_below_zero() -> None:
    """The margin falls by the same amount at each doubling of the queries: to below 0 at the end, or by a tenth of that."""
    queries, goal = 1000, 0.2
    needed = goal / math.log2(queries - 1)

    def numbers(shares: Sequence[float], images: Tensor, threat: Threat, random: Random) -> Drawn:
        rates = torch.where(threat.eps < 0.4, 1.02 * needed, 0.1 * needed).float()
        return Drawn(per_query=((torch.tensor(shares) * queries)[:, None].expand(-1, len(rates)),), per_image=(rates,))

    def descend(share: float, incumbents: Tensor, images: Tensor, threat: Threat, drawn: tuple[Tensor, ...]) -> Tensor:
        number, rate = drawn
        return images + (rate * number.log2()).view(-1, 1, 1, 1)

    search = RandomSearch(start=centers, draw=numbers, propose=descend, queries=queries, early_stopping=True)
    source = EOT(Threshold(), draws=1, randomized=False)
    ball = Threat(norm="linf", eps=RADII[2:])
    perturbed = search.run(source, IMAGES[:2], LABELS[:2], ball, Random.of(0, IMAGES[:2]))
    assert (perturbed.flatten() > 0.7).tolist() == [True, False]
    # The second image leaves at the first forecast, after 300 queries.
    assert source.forwards < queries + 300


@pytest.mark.parametrize(("queries", "candidates"), [(501, 4), (600, 3), (600, 16)])
def test_candidates_that_are_scored_together(candidates: int, queries: int) -> None:
    """Where proposals do not depend on the incumbent, the best of all is the same, for as many passes."""
    (expected, alone), (perturbed, source) = (
        run(
            RandomSearch(start=centers, draw=shifts, propose=anywhere, queries=queries, candidates=together),
            Threshold(),
        )
        for together in (1, candidates)
    )
    assert torch.equal(perturbed[:2], expected[:2])
    assert (perturbed.flatten() > 0.7).tolist() == [False, False, True, True]
    assert 2 * queries < source.forwards <= alone.forwards + 2 * candidates


def test_images_do_not_depend_on_each_other_where_candidates_are_scored_together() -> None:
    """Each of three proposals starts from its own image's incumbent."""

    def nearby(share: float, incumbents: Tensor, images: Tensor, threat: Threat, drawn: tuple[Tensor, ...]) -> Tensor:
        shift, radius = drawn
        return (incumbents + 0.1 * shift * radius).clamp(images - radius, images + radius)

    search = RandomSearch(start=centers, draw=shifts, propose=nearby, queries=540, candidates=3)
    together, _ = run(search, Threshold())
    for row in torch.arange(4)[:, None]:
        source = EOT(Threshold(), draws=1, randomized=False)
        random = Random.of(0, IMAGES).select(row)
        ball = Threat(norm="linf", eps=RADII[row])
        assert torch.equal(search.run(source, IMAGES[row], LABELS[row], ball, random), together[row])


def test_early_stopping_leaves_targeted_searches_alone() -> None:
    """Their score is no margin, so there is no forecast."""
    searches = [
        RandomSearch(start=centers, draw=shifts, propose=anywhere, queries=100, early_stopping=stops)
        for stops in (False, True)
    ]
    (patient, _), (stopped, _) = (run(search, Threshold(), targeted=True) for search in searches)
    assert torch.equal(patient, stopped)


def test_a_sample_of_draws_is_searched_in_spite_of_its_noise() -> None:
    """With noise as large as the margin, the incumbents still end in the upper quarter of their balls."""
    search = RandomSearch(start=centers, draw=shifts, propose=anywhere, queries=400)
    perturbed, source = run(search, Threshold(0.1), draws=8)
    assert ((perturbed - IMAGES).flatten() > 0.5 * RADII).all()
    # The start and the end of the search cost a query each beyond the pairs.
    assert source.forwards == 4 * 8 * (400 + 1)


def test_how_many_queries_are_drawn_for_at_once_changes_nothing() -> None:
    """One query at a time, as many as the search offers, and any number between: the same points to the bit."""

    def at_most(number: int) -> RandomSearch:
        return RandomSearch(
            start=centers, draw=lambda shares, *rest: shifts(shares[:number], *rest), propose=anywhere, queries=60
        )

    for draws in (1, 4):
        torch.manual_seed(0)
        expected, _ = run(at_most(1), Threshold(), draws=draws)
        for number in (2, 5, 100):
            assert torch.equal(run(at_most(number), Threshold(), draws=draws)[0], expected)


def test_the_shares_of_the_queries_that_are_drawn_for() -> None:
    """Each query of a search has its own share, in order, whether or not images leave the batch in between."""
    asked: list[float] = []

    def propose(share: float, *rest: Any) -> Tensor:
        asked.append(share)
        return anywhere(share, *rest)

    run(RandomSearch(start=centers, draw=shifts, propose=propose, queries=50), Threshold())
    assert asked == [query / 50 for query in range(1, 50)]

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.apgd_ce import APGDCE
from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates, Streak
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
    results: list[Tensor] = []
    for seldom in (False, True):
        monkeypatch.setattr(BestIterates, "seldom", seldom)
        # One row at a time: in a larger batch a row's logits may differ in their last digit.
        perturbed = attack(
            digits_victim.model, images, goals, norm=norm, eps=eps, targeted=targeted, batch_size=1, seed=1
        )
        results.append(perturbed)
    assert torch.equal(*results)
    if not targeted:
        assert 0 < digits_victim.accuracy(torch.cat([results[0], digits_victim.images[24:]])) < 1


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
        margins.append(best.margins.item())
    assert torch.equal(best.images, iterates[1])
    assert margins[0] > 0 > margins[1] == margins[2]


IMAGES = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])


def threat(*, targeted: bool = False) -> Threat:
    return Threat(norm="linf", eps=torch.full((4,), 0.1, dtype=torch.float64), targeted=targeted)


class Scripted(GradientSource):
    """A source that only says whether its draws are all that there are."""

    def __init__(self, *, exhaustive: bool) -> None:
        super().__init__(nn.Identity())
        self.draws, self.exhaustive = 2, exhaustive

    def _seeded_model(
        self, images: Tensor, keys: Tensor, draws: range, query: int
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        raise NotImplementedError


def logits_with(margins: list[list[float]], labels: Tensor) -> Tensor:
    """Logits ``(D, n, 2)`` whose margins at the labels are given draw by draw."""
    rows = torch.tensor(margins)
    signs = torch.nn.functional.one_hot(labels, 2) * 2 - 1
    return rows[:, :, None] * signs / 2


def iterate(value: float, count: int = 4) -> Tensor:
    return torch.full((count, 1, 3, 3), value)


def test_the_best_iterate_is_kept_by_expected_margin() -> None:
    """Of a sample, the iterate with the smallest margin over all its draws; not the one with the luckiest draw."""
    best = BestIterates(Scripted(exhaustive=False), IMAGES, LABELS, threat())
    assert torch.equal(best.images, IMAGES)
    assert best.offer(iterate(0.1), logits_with([[5, 5, 1, 1], [5, 5, 1, 1]], LABELS)) is None
    assert best.offer(iterate(0.2), logits_with([[-9, 1, 1, 1], [9, 1, 2, 0.5]], LABELS)) is None
    assert best.offer(iterate(0.3), logits_with([[-0.1, 6, -3, 2], [0.1, -4, -3, 2]], LABELS)) is None
    assert best.images[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.3, 0.3, 0.2])


def test_of_all_draws_those_that_resist_are_counted_first() -> None:
    """Where the draws are all that there are, fooling one more of them is worth more than any margin."""
    best = BestIterates(Scripted(exhaustive=True), IMAGES, LABELS, threat())
    best.offer(iterate(0.1), logits_with([[9, 1, 5, 5], [-0.5, 1, 5, 5]], LABELS))
    best.offer(iterate(0.2), logits_with([[0.1, -0.5, 4, 6], [0.1, 9, 5, 5]], LABELS))
    assert best.images[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("targeted", [False, True])
def test_an_image_leaves_when_no_draw_resists_any_more(*, targeted: bool) -> None:
    """The positions handed back are those of the images that still stand; a sample of draws lets none go."""
    sign = -1 if targeted else 1
    best = BestIterates(Scripted(exhaustive=True), IMAGES, LABELS, threat(targeted=targeted))
    margins = sign * torch.tensor([[1.0, -1, -1, 1], [1, -1, 1, 1]])
    assert best.offer(iterate(0.1), logits_with(margins.tolist(), LABELS)).tolist() == [0, 2, 3]
    assert best.rows.tolist() == [0, 2, 3]
    margins = sign * torch.tensor([[1.0, -1, -1], [1, -1, -1]])
    assert best.offer(iterate(0.2, 3), logits_with(margins.tolist(), LABELS[best.rows])).tolist() == [0]
    assert best.images[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert best.begin_restart().tolist() == [0]
    sample = BestIterates(Scripted(exhaustive=False), IMAGES, LABELS, threat(targeted=targeted))
    assert sample.offer(iterate(0.1), logits_with([[-sign * 1.0] * 4] * 2, LABELS)) is None
    assert sample.begin_restart().tolist() == [0, 1, 2, 3]


def test_an_iterate_without_numbers_is_never_the_best() -> None:
    """A diverged iterate neither replaces the image nor makes it leave."""
    best = BestIterates(Scripted(exhaustive=True), IMAGES, LABELS, threat())
    assert best.offer(iterate(0.1), torch.full((2, 4, 2), torch.nan)) is None
    assert torch.equal(best.images, IMAGES)
    assert best.begin_restart().tolist() == [0, 1, 2, 3]


def test_a_sample_must_be_fooled_several_times_in_a_row() -> None:
    """A draw that resists starts the count anew, for its image alone; of all draws one time is enough."""
    streak = Streak(Scripted(exhaustive=False), IMAGES)
    for step in range(1, 9):
        success = streak.offer(torch.tensor([True, step != 3, False, True]))
        assert success.tolist() == [step >= 5, step >= 8, False, step >= 5]
    every = Streak(Scripted(exhaustive=True), IMAGES)
    assert every.offer(torch.tensor([True, False, True, False])).tolist() == [True, False, True, False]


def offer_all(best: BestIterates, rows: int, offers: list[Tensor]) -> list[int]:
    """Offers iterates whose only pixel is ``10 * offer + row``, with two logits ``(m, 0)``; returns the rows after each."""
    counts = []
    for number, margins in enumerate(offers):
        points = (10.0 * number + torch.arange(rows)).view(-1, 1, 1, 1)[: len(margins)]
        best.offer(points, torch.stack([margins, torch.zeros_like(margins)], 1)[None])
        counts.append(len(best.rows))
    return counts


@pytest.mark.parametrize("seldom", [False, True])
def test_the_first_row_that_breaks_an_image_gives_its_best_iterate(
    *, seldom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images in three rows each; neither a later break of another row nor a larger one takes its place."""
    monkeypatch.setattr(BestIterates, "seldom", seldom)
    images = torch.zeros(3, 1, 1, 1)
    best = BestIterates(Scripted(exhaustive=True), images, torch.zeros(3, dtype=torch.int64), threat())
    rows = best.begin_restart(copies=3)
    assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert best.copies.tolist() == [0, 1, 2] * 3
    offers = [torch.full((9,), 5.0) for _ in range(12)]
    offers[3][4] = 2.0
    if seldom:
        offers[5][[1, 2]] = torch.tensor([-1.0, -9.0])
        offers[6][0] = -99.0
        offers[6][7] = -0.5
        assert offer_all(best, 9, offers[:9])[-1] == 9
        assert best.images.flatten().tolist() == [51.0, 34.0, 67.0]
        # The rows of the two broken images have left by the comparison after the next.
        assert best.offer(torch.zeros(9, 1, 1, 1), torch.ones(1, 9, 2)) is None
    else:
        offers[1][1] = -1.0
        offers[1][2] = -9.0
        assert offer_all(best, 9, offers[:2]) == [9, 6]
        assert best.rows.tolist() == [1, 1, 1, 2, 2, 2]
        assert best.copies.tolist() == [0, 1, 2] * 2
        assert best.images.flatten().tolist()[0] == 11.0
    assert best.unbroken().tolist() == ([1] if seldom else [1, 2])
    assert len(best.margins) == len(best.rows)


def test_offers_that_wait_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random margins over 40 offers, with logits that are no numbers among them: the same as one comparison at a time."""
    generator = torch.Generator().manual_seed(0)
    margins = 1.6 + 0.8 * torch.randn(40, 50, generator=generator)
    margins[torch.rand(40, 50, generator=generator) < 0.1] = torch.nan
    results = []
    for seldom in (False, True):
        monkeypatch.setattr(BestIterates, "seldom", seldom)
        best = BestIterates(
            Scripted(exhaustive=True), torch.zeros(50, 1, 1, 1), torch.zeros(50, dtype=torch.int64), threat()
        )
        best.begin_restart()
        counts = []
        for number in range(40):
            rows = best.rows
            best.offer(
                (100.0 * number + rows).view(-1, 1, 1, 1),
                torch.stack([margins[number, rows], torch.zeros(len(rows))], 1)[None],
            )
            counts.append(len(best.rows))
        results.append((best.images, best.unbroken()))
        assert counts[-1] < 50
    for values in zip(*results, strict=True):
        assert torch.equal(*values)
    # By a plain loop: the first break, or else the smallest margin.
    for image, point in enumerate(results[0][0].flatten().tolist()):
        column = margins[:, image].nan_to_num(torch.inf)
        breaks = (column < 0).nonzero().flatten().tolist()
        assert point == 100 * (breaks[0] if breaks else int(column.argmin())) + image


@pytest.mark.parametrize("seldom", [False, True])
def test_rows_that_an_attack_gives_up_keep_their_best_iterates(
    *, seldom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up with offers waiting; the image stays unbroken, and a restart begins with it again."""
    monkeypatch.setattr(BestIterates, "seldom", seldom)
    best = BestIterates(Scripted(exhaustive=True), torch.zeros(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64), threat())
    offer_all(best, 4, [torch.tensor([4.0, 3, 2, 1]), torch.tensor([5.0, 2, 3, 1]), torch.tensor([6.0, 6, 1, 6])])
    best.keep(torch.tensor([True, False, True, False]))
    assert best.rows.tolist() == [0, 2]
    best.offer(torch.tensor([70.0, 71.0]).view(-1, 1, 1, 1), torch.tensor([[[0.5, 0.0], [7.0, 0.0]]]))
    assert best.images.flatten().tolist() == [70.0, 11.0, 22.0, 3.0]
    assert best.begin_restart().tolist() == [0, 1, 2, 3]

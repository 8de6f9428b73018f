from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack, MinimalNormAttack
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates, Streak
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])


class Brightness(nn.Module):
    """Class 1 where the mean is above 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


class Far(FixedRadiusAttack):
    """Goes further than it may."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images + 5


class Given(MinimalNormAttack):
    """Finds a perturbation of a given length for each image, of which some have no answer."""

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        found = images.clone()
        found[:, 0, 0, 0] = (images[:, 0, 0, 0] + torch.tensor([0.1, 0.2, 0.3, torch.nan])).where(
            images[:, 0, 0, 0] < 0.5, images[:, 0, 0, 0] - torch.tensor([0.1, 0.2, 0.3, torch.nan])
        )
        return found


def threat(*, targeted: bool = False) -> Threat:
    return Threat(norm="linf", eps=torch.full((4,), 0.1, dtype=torch.float64), targeted=targeted)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_that_goes_too_far_is_brought_back(norm: Norm) -> None:
    """What is returned lies in each image's own ball and in the box, whatever the attack did."""
    eps = torch.tensor([0.0, 0.1, 0.2, 1.0 if norm == "linf" else 5.0])
    perturbed = Far()(Brightness(), IMAGES, LABELS, norm=norm, eps=eps)
    assert (distance(perturbed, IMAGES, norm) <= eps.double()).all()
    assert ((perturbed >= 0) & (perturbed <= 1)).all()
    assert torch.equal(perturbed[0], IMAGES[0])
    assert torch.equal(perturbed[3], torch.ones_like(IMAGES[3]))


def test_a_minimal_norm_attack_is_read_at_its_radius() -> None:
    """What it found beyond the radius is replaced by the image, and so is what is no image; the rest stays as found."""
    whole = Given()(Brightness(), IMAGES, LABELS)
    assert distance(whole, IMAGES, "l2").tolist() == pytest.approx([0.1, 0.2, 0.3, 0], abs=1e-6)
    within = Given()(Brightness(), IMAGES, LABELS, eps=torch.tensor([0.5, 0.15, 0.31, 1.0]))
    expected = whole.clone()
    expected[1] = IMAGES[1]
    assert torch.equal(within, expected)


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"eps": 0.1, "norm": "l0"}, "Far does not know the norm l0: it knows linf, l2"),
        ({}, "Far needs a radius: give eps"),
        ({"eps": -0.1}, "eps must be a number that is not negative: it is -0.1"),
        ({"eps": float("nan")}, "eps must be a number that is not negative: it is nan"),
        ({"eps": torch.tensor([0.1, -0.2, 0.1, 0.1])}, "eps must be a number that is not negative: it is -0.2"),
        ({"eps": torch.tensor([0.1, 0.2])}, r"4 images need one eps or as many: these have the shape \(2,\)"),
        ({"eps": 0.1, "images": IMAGES * 255}, "the images reach from .* to 242.9.*: divide them by 255"),
        ({"eps": 0.1, "images": IMAGES * torch.nan}, "the images hold NaN"),
        ({"eps": 0.1, "labels": LABELS[:3]}, r"4 images need as many labels: these have the shape \(3,\)"),
    ],
)
def test_wrong_input_is_one_line(keywords: dict[str, object], line: str) -> None:
    """From Python, too, a mistake is told in one line, before anything is computed."""
    given = {"images": IMAGES, "labels": LABELS, **keywords}
    with pytest.raises(UserError, match=f"^{line}"):
        Far()(Brightness(), given.pop("images"), given.pop("labels"), **given)  # type: ignore[arg-type]


def test_an_attack_without_known_norms_cannot_be_defined() -> None:
    """A class that says nothing, or nonsense, of its norms fails where it is written."""
    for norms in ((), ("l3",)):
        with pytest.raises(TypeError, match="Mine must say which norms it knows"):
            type(
                "Mine", (Far,), {"norms": norms, "__annotations__": {"norms": ClassVar[tuple]}, "__module__": __name__}
            )


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


def test_the_model_is_asked_whether_it_is_randomized() -> None:
    """A randomized model gets as many draws a gradient as were asked for, a deterministic one a single one."""
    asked: list[tuple[int, bool]] = []

    class Asking(Far):
        def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
            assert isinstance(source, EOT)
            asked.append((source.draws, source.exhaustive))
            return images

    class NoiseLayer(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.1 * torch.randn_like(images))

    for model in (Brightness(), NoiseLayer()):
        Asking()(model, IMAGES, LABELS, eps=0.1, eot=7)
    assert asked == [(1, True), (7, False)]

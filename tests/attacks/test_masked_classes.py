"""Classes that a model masks are as good as not there, whatever masks them and whichever attack asks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance

from .conftest import Victim
from .test_every_attack import CASES, EPS
from .test_every_attack import quick as with_a_surrogate

pytestmark = pytest.mark.parametrize(("name", "norm"), CASES)

FILLS = (-1e4, torch.finfo(torch.float32).min, -torch.inf)

FEW = {"steps": 8, "queries": 80, "pairs": 4, "candidates": 3, "n_target_classes": 3, "binary_search_steps": 2}


def quick(name: str, model: nn.Module) -> Attack:
    """The attack with few steps, queries and targets."""
    attack = with_a_surrogate(name, model)
    few = {key: value for key, value in FEW.items() if key in type(attack).model_fields}
    return attack.model_copy(update=few)


class Masked(nn.Module):
    """Some of a model's classes, and others that it masks before and after them."""

    def __init__(self, model: nn.Module, fill: float, *, opened: int = 10, before: int, after: int) -> None:
        super().__init__()
        self.model = model
        self.fill = fill
        self.opened = opened
        self.before = before
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)[:, : self.opened]
        before, after = (logits.new_full((len(logits), count), self.fill) for count in (self.before, self.after))
        return torch.cat([before, logits, after], 1)


def attacked(
    name: str, norm: Norm, victim: Victim, fill: float, *, opened: int, before: int, after: int
) -> tuple[Tensor, Tensor]:
    """What the model says of images under attack, in the open classes' own numbers, and how far they have been moved."""
    model = Masked(victim.model, fill, opened=opened, before=before, after=after).eval()
    rows = (victim.labels < opened).nonzero()[:8, 0]
    images, labels = victim.images[rows], victim.labels[rows] + before
    attack: Attack = quick(name, model)
    eps = None if attack.minimal_norm else EPS[norm] / 4
    perturbed = attack(model, images, labels, norm=norm, eps=eps)
    with torch.no_grad():
        return model(perturbed).argmax(1) - before, distance(perturbed, images, norm)


@pytest.mark.parametrize(("opened", "before", "after"), [(10, 1, 9), (2, 0, 8)], ids=["ten", "two"])
def test_any_fill_gives_the_same_decisions_and_distances(
    name: str, norm: Norm, opened: int, before: int, after: int, digits_victim: Victim
) -> None:
    """Half of twenty classes masked, and all of ten but two: as by -1e9, up to rounding."""
    classes = {"opened": opened, "before": before, "after": after}
    decisions, lengths = attacked(name, norm, digits_victim, -1e9, **classes)
    for fill in FILLS:
        others, others_lengths = attacked(name, norm, digits_victim, fill, **classes)
        assert torch.equal(others, decisions)
        torch.testing.assert_close(others_lengths, lengths, rtol=2e-3, atol=1e-6)

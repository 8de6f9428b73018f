from __future__ import annotations

from collections.abc import Callable

import pytest

from robustbench_cli.attacks.paper_cw_pgd import PaperCWPGD
from robustbench_cli.attacks.paper_pgd import PaperPGD

from .conftest import LinearVictim


@pytest.mark.parametrize("attack", [PaperPGD, PaperCWPGD])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    attack: type[PaperPGD], linear_victim: Callable[..., LinearVictim]
) -> None:
    """Of a linear model with two classes every image is right below its distance to the other, and wrong above."""
    victim = linear_victim(2)
    for factor, accuracy in ((0.999, 1), (1.001, 0)):
        eps = factor * victim.radii("linf")
        assert victim.accuracy(attack(lr=1.0)(victim.model, victim.images, victim.labels, eps=eps)) == accuracy

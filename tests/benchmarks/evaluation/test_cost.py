from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.library import ForeignAttack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.fab_t import FABT
from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.hopskipjump import HopSkipJump
from robustbench_cli.attacks.malt import MALT
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.sparse_rs import SparseRS
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.evaluation.cost import Passes
from robustbench_cli.benchmarks.evaluation.cost import passes as passes_or_none


def passes(attack: Attack, *, norm: Norm | None = None, classes: int = 10) -> Passes:
    """The passes of one of the project's own attacks."""
    cost = passes_or_none(attack, norm=norm, classes=classes)
    assert cost is not None
    return cost


@pytest.mark.parametrize(
    ("attack", "norm", "cost"),
    [
        (FGSM(), "linf", Passes(1, 1)),
        (PGD(steps=7, restarts=3), "l2", Passes(24, 21)),
        (APGDT(steps=10, n_target_classes=4), "linf", Passes(1 + 4 * 11, 40)),
        (APGDT(steps=10, n_target_classes=4), "l1", Passes(1 + 4 * 11, 40)),
        (Square(queries=50), "linf", Passes(50, 0)),
    ],
)
def test_the_cost_is_what_the_papers_algorithms_take(attack: Attack, norm: Norm, cost: Passes) -> None:
    """Every step takes the gradient at one point, and each run looks at where it came to."""
    assert passes(attack, norm=norm) == cost


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (Square(queries=40, restarts=2), "linf"),
        (Square(queries=40, candidates=4), "l2"),
        (SparseRS(queries=30, restarts=2), "l0"),
    ],
)
def test_the_queries_that_an_attack_states_are_those_that_it_takes(attack: Attack, norm: Norm) -> None:
    """On a model whose answer no perturbation changes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].bias[0] = 1000.0
    images = torch.full((1, 1, 8, 8), 0.5)
    source = gradient_source(model, randomized=False)
    threat = attack.threat(images, norm=norm, eps=0.3 if norm != "l0" else 5.0, targeted=False)
    attack.run(source, images, torch.zeros(1, dtype=torch.int64), threat, Random.of(0, images))
    assert passes(attack, norm=norm) == Passes(round(source.forwards), 0)


def test_fewer_classes_are_fewer_targets() -> None:
    """Nine of ten, two of three."""
    assert passes(FABT(steps=5), classes=3).backwards * 9 == passes(FABT(steps=5), classes=10).backwards * 2


def test_more_classes_are_more_linearized_boundaries() -> None:
    """MALT takes a backward pass for the label and for at most 100 others, and then ten for each of three targets."""
    for classes, others in ((10, 9), (50, 49), (300, 100)):
        assert passes(MALT(steps=10, n_target_classes=3), classes=classes).backwards == 1 + others + 3 * 10


def test_the_cost_is_that_of_an_image_that_stands() -> None:
    """C&W tries all its constants; an attack by decisions has no start and looks for one as long as it may."""
    assert passes(CW(steps=10, binary_search_steps=3)).backwards >= 30
    assert passes(HopSkipJump()).backwards == 0


def test_an_attack_of_another_library_is_not_run() -> None:
    """It may take minutes even for one image."""

    class Slow(ForeignAttack):
        """An attack that would fail, because it has no library."""

    assert passes_or_none(Slow()) is None

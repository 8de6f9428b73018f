from __future__ import annotations

from typing import Any

import pytest
import torch

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.fmn import FMN
from robustbench_cli.attacks.non_adaptive import NonAdaptive
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.decision_rules import with_decision_rule
from robustbench_cli.defenses.base.transformed import Transformed
from robustbench_cli.defenses.feature_squeezing import BitDepth, FeatureSqueezing
from robustbench_cli.defenses.noise_injection import NoiseInjection

from .conftest import Victim


def test_it_is_the_attack_on_the_model_inside(digits_victim: Victim) -> None:
    """Bit by bit what the other attack makes of the undefended model, whatever stands around that."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    noisy = with_decision_rule(NoiseInjection().protect(model, images[:1]), "vote", draws=3, example=images[:1])
    for defended in (FeatureSqueezing(bit_depth=1).protect(model, images[:1]), noisy, model):
        for norm, eps in (("linf", 0.1), ("l2", 1.0)):
            expected = PGD(steps=5)(model, images, labels, norm=norm, eps=eps, seed=3)  # type: ignore[arg-type]
            attack = NonAdaptive(attack=PGD(steps=5))
            assert torch.equal(attack(defended, images, labels, norm=norm, eps=eps, seed=3), expected)  # type: ignore[arg-type]


def test_a_smallest_perturbation_counts_inside_the_radius_only(digits_victim: Victim) -> None:
    """Of a minimal-norm attack, what it found within the radius is given, and the image itself where that lies beyond."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    found = FMN(steps=20)(model, images, labels, norm="linf")
    near = distance(found, images, "linf") <= 0.15
    assert near.any()
    assert not near.all()
    given = NonAdaptive(attack=FMN(steps=20))(model, images, labels, norm="linf", eps=0.15)
    assert torch.equal(given[near], found[near])
    assert torch.equal(given[~near], images[~near])


def test_quantisation_undoes_the_smallest_perturbations_and_no_others(digits_victim: Victim) -> None:
    """Of those, most images come back; of what an adaptive attack makes inside the same radius, few do."""
    images, labels = digits_victim.images, digits_victim.labels
    model = Transformed(BitDepth(2), digits_victim.model).eval()
    right = model(images).argmax(1) == labels
    left = [
        (right & (model(attack(model, images, labels, norm="linf", eps=0.3)).argmax(1) == labels)).double().mean()
        for attack in (NonAdaptive(attack=FMN(steps=30)), PGD(steps=30))
    ]
    assert left[0] > left[1] + 0.3


@pytest.mark.parametrize("attack", ["square", Square(), "sigma-zero", NonAdaptive()], ids=str)
def test_attacks_that_it_does_not_run(attack: Any) -> None:
    """One without gradients, of other norms only, or itself, is refused in one line."""
    with pytest.raises(
        UserError, match="give a gradient-based attack that supports linf and l2, such as pgd or fmn"
    ) as told:
        NonAdaptive.from_parameters({"attack": attack}, name="non-adaptive")
    assert "\n" not in str(told.value)

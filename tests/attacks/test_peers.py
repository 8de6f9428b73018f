from __future__ import annotations

import warnings
from types import ModuleType

import pytest
import torch

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.cw_linf import CWLinf
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD

from .conftest import Victim

IMAGE = 1 / 60
"""What one of the images is of the accuracy."""


@pytest.fixture(scope="module")
def foolbox() -> ModuleType:
    """Foolbox, which needs a word to its git library where there is no git, and imports a name that scipy has moved."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("GIT_PYTHON_REFRESH", "quiet")
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox
    return foolbox


STARTS = 5


@pytest.mark.parametrize(("norm", "radii"), [("linf", (0.05, 0.1, 0.15)), ("l2", (0.3, 0.6, 0.9))])
def test_pgd_leaves_no_more_than_foolboxs(
    norm: Norm, radii: tuple[float, ...], foolbox: ModuleType, digits_victim: Victim
) -> None:
    """With the same steps and step size, and with our own, accuracy is no higher than Foolbox's; means over five starts."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1))
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    for eps in radii:
        peer = same = own = margin = 0.0
        for seed in range(STARTS):
            torch.manual_seed(seed)
            _, perturbed, _ = kind(abs_stepsize=eps / 10, steps=20)(theirs, images, labels, epsilons=eps)
            peer += digits_victim.accuracy(perturbed) / STARTS
            attacks = PGD(steps=20, step_size=eps / 10), PGD(steps=20), CWPGD(steps=20)
            left = [
                digits_victim.accuracy(attack(model, images, labels, norm=norm, eps=eps, seed=seed)) / STARTS
                for attack in attacks
            ]
            same, own, margin = same + left[0], own + left[1], margin + left[2]
        assert 0 < peer < 1
        assert same <= peer + IMAGE
        assert own <= peer + IMAGE
        assert margin <= peer + 2 * IMAGE


def test_cw_finds_no_larger_perturbations_than_foolboxs(foolbox: ModuleType, digits_victim: Victim) -> None:
    """With the same constants times steps all images fall, at a median L2 distance that is no larger."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=100)
    _, perturbed, fooled = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=None)
    assert fooled.double().mean() > 0.9
    ours = CW(binary_search_steps=5, steps=100)(model, images, labels)
    assert digits_victim.accuracy(ours) == 0
    assert distance(ours, images, "l2").median() <= distance(perturbed, images, "l2")[fooled].median()


def test_cw_linf_finds_no_larger_perturbations_than_foolboxs_fmn(foolbox: ModuleType, digits_victim: Victim) -> None:
    """Its median linf distance is at most 1 % above that of the best linf search there after five times as many gradients."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    attack = foolbox.attacks.LInfFMNAttack(steps=500)
    _, perturbed, fooled = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=None)
    assert fooled.all()
    ours = CWLinf(steps=100)(model, images, labels)
    assert digits_victim.accuracy(ours) == 0
    assert distance(ours, images, "linf").median() <= 1.01 * distance(perturbed, images, "linf").median()

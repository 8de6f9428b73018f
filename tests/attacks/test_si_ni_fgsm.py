from __future__ import annotations

import copy

import torchattacks

from robustbench_cli.attacks.ni_fgsm import NIFGSM
from robustbench_cli.attacks.si_ni_fgsm import SINIFGSM

from .conftest import Victim
from .peer_steps import EPS, inner_images, same_pixels


def test_the_iterates_are_those_of_torchattacks(digits_victim: Victim) -> None:
    """With the same number of scales; with one scale it is NI-FGSM."""
    model, images, labels = (
        copy.deepcopy(digits_victim.model).double(),
        inner_images(digits_victim),
        digits_victim.labels,
    )
    ours = SINIFGSM(steps=5, scales=3)(model, images, labels, eps=EPS)
    theirs = torchattacks.SINIFGSM(model, eps=EPS, alpha=EPS / 5, steps=5, m=3)(images, labels)
    assert same_pixels(ours, theirs) > 0.99
    plain = NIFGSM(steps=5)(model, images, labels, eps=EPS)
    assert same_pixels(ours, plain) < 0.99
    assert same_pixels(SINIFGSM(steps=5, scales=1)(model, images, labels, eps=EPS), plain) == 1

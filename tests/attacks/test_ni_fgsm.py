from __future__ import annotations

import copy

import pytest
import torch
import torchattacks

from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.ni_fgsm import NIFGSM

from .conftest import Victim
from .peer_steps import EPS, inner_images, same_pixels


@pytest.mark.parametrize("targeted", [False, True])
def test_the_iterates_are_those_of_torchattacks(digits_victim: Victim, *, targeted: bool) -> None:
    """The gradient is taken one step ahead; at the iterate, other pixels would change."""
    model, images = copy.deepcopy(digits_victim.model).double(), inner_images(digits_victim)
    labels = (digits_victim.labels + 1) % 10 if targeted else digits_victim.labels
    peer = torchattacks.NIFGSM(model, eps=EPS, alpha=EPS / 5, steps=5, decay=0.7)
    if targeted:
        peer.set_mode_targeted_by_label(quiet=True)
    ours = NIFGSM(steps=5, decay=0.7)(model, images, labels, eps=EPS, targeted=targeted)
    assert same_pixels(ours, peer(images, labels)) > 0.99
    plain = MIFGSM(steps=5, decay=0.7)(model, images, labels, eps=EPS, targeted=targeted)
    assert same_pixels(ours, plain) < 0.99


def test_without_momentum_there_is_nothing_ahead(digits_victim: Victim) -> None:
    """With a decay of 0 it is the iterative method without momentum."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    perturbed = NIFGSM(decay=0)(model, images, labels, eps=0.1)
    assert torch.equal(perturbed, MIFGSM(decay=0)(model, images, labels, eps=0.1))

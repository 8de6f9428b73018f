from __future__ import annotations

import copy

import pytest
import torchattacks

from robustbench_cli.attacks.vmi_fgsm import VMIFGSM
from robustbench_cli.attacks.vni_fgsm import VNIFGSM

from .conftest import Victim
from .peer_steps import EPS, draw_as_ours, inner_images, same_pixels


def test_the_iterates_are_those_of_torchattacks(digits_victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our draws in the place of its own: the gradient is taken ahead, and the neighbors are those of the iterate."""
    model, labels = copy.deepcopy(digits_victim.model).double(), digits_victim.labels
    images = inner_images(digits_victim)
    ours = VNIFGSM(steps=4, neighbors=3)(model, images, labels, eps=EPS, seed=5)
    assert same_pixels(ours, VMIFGSM(steps=4, neighbors=3)(model, images, labels, eps=EPS, seed=5)) < 0.99
    draw_as_ours(monkeypatch, images, seed=5, neighbors=3)
    theirs = torchattacks.VNIFGSM(model, eps=EPS, alpha=EPS / 4, steps=4, N=3)(images, labels)
    assert same_pixels(ours, theirs) > 0.99

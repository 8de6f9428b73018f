from __future__ import annotations

import copy

import pytest
import torchattacks

from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.vmi_fgsm import VMIFGSM

from .conftest import Victim
from .peer_steps import EPS, draw_as_ours, inner_images, same_pixels


def test_the_iterates_are_those_of_torchattacks(digits_victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our draws in the place of its own."""
    model, labels = copy.deepcopy(digits_victim.model).double(), digits_victim.labels
    images = inner_images(digits_victim)
    ours = VMIFGSM(steps=4, neighbors=3)(model, images, labels, eps=EPS, seed=5)
    draw_as_ours(monkeypatch, images, seed=5, neighbors=3)
    theirs = torchattacks.VMIFGSM(model, eps=EPS, alpha=EPS / 4, steps=4, N=3)(images, labels)
    assert same_pixels(ours, theirs) > 0.99
    assert same_pixels(ours, MIFGSM(steps=4)(model, images, labels, eps=EPS)) < 0.99


def test_neighbors_at_the_iterate_correct_nothing(digits_victim: Victim) -> None:
    """In a box of no width the mean gradient is the gradient itself."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    plain = MIFGSM()(model, images, labels, eps=0.1)
    assert same_pixels(VMIFGSM(neighborhood=0, neighbors=2)(model, images, labels, eps=0.1), plain) > 0.99

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.hidden_h2 import HiddenH2

from .conftest import Victim

IMAGES = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("targeted", [False, True])
def test_its_steps_follow_cross_entropy_and_distance(*, targeted: bool) -> None:
    """In l2, they have the direction of autograd's gradient of ``CE + weight |h - h(x)|``, and towards a target of ``-CE + ...``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 6), nn.Tanh(), nn.Linear(6, 3)).requires_grad_(False)
    labels = model(IMAGES).argmin(1) if targeted else model(IMAGES).argmax(1)
    source = gradient_source(model, randomized=False, targeted=targeted)
    points: list[Tensor] = []
    source.watch = lambda images, _: points.append(images.clone())
    threat = Threat(norm="l2", eps=torch.full((4,), 0.01, dtype=torch.float64), targeted=targeted)
    HiddenH2(steps=1, weight=0.7).run(source, IMAGES, labels, threat, Random.of(0, IMAGES))
    leaf = points[0].clone().requires_grad_()
    loss = functional.cross_entropy(model(leaf), labels, reduction="sum") * (-1 if targeted else 1)
    loss = loss + 0.7 * (model[:3](leaf) - model[:3](IMAGES)).norm(dim=1).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    change = points[0] + 0.02 * step - IMAGES
    expected = IMAGES + change * 0.01 / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(points[1], expected, rtol=0, atol=1e-5)


def test_it_breaks_digits(trained_on_digits: Victim) -> None:
    model, images, labels = trained_on_digits.model, trained_on_digits.images, trained_on_digits.labels
    assert trained_on_digits.accuracy(HiddenH2()(model, images, labels, eps=0.15)) <= 0.6

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.hidden_h3 import HiddenH3

from .conftest import Victim


def test_guides_are_of_the_second_class_or_of_the_target(digits_victim: Victim) -> None:
    """The network takes nearly all guides for the class of its second largest logit, or for the target, and they are in a larger ball."""
    model, images, labels = digits_victim.model.requires_grad_(False), digits_victim.images, digits_victim.labels
    second = model(images).topk(2).indices[:, 1]
    for targeted, goals, classes in ((False, labels, second), (True, (labels + 1) % 10, (labels + 1) % 10)):
        threat = Threat(norm="linf", eps=torch.full((60,), 0.1, dtype=torch.float64), targeted=targeted)
        source = gradient_source(model, randomized=False, targeted=targeted)
        guides = HiddenH3(guide_steps=10).references(source, images, goals, threat)
        assert (model(guides).argmax(1) == classes).double().mean() > 0.95
        assert 0.3 < (guides - images).abs().amax() <= 0.4 + 1e-6
        assert source.zero_gradient_share == 0


def test_the_nearest_point_to_the_guide() -> None:
    """With the pixels as the representation, the steps lead to the guide, clipped to the ball."""
    torch.manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(4, 1, 5, 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).requires_grad_(False)
    source = gradient_source(model, randomized=False, targeted=True)
    points: list[Tensor] = []
    source.watch = lambda queried, _: points.append(queried.clone())
    eps, goals = 1e-3, model(images).argmin(1)
    threat = Threat(norm="linf", eps=torch.full((4,), eps, dtype=torch.float64), targeted=True)
    attack = HiddenH3(guide_steps=3, steps=50, layer="0")
    guides = attack.references(source, images, goals, threat)
    attack.run(source, images, goals, threat, Random.of(0, images))
    expected = images + (guides - images).clamp(-eps, eps)
    torch.testing.assert_close(points[-1], expected, rtol=0, atol=2 * eps / 50)


def test_it_breaks_digits(trained_on_digits: Victim) -> None:
    model, images, labels = trained_on_digits.model, trained_on_digits.images, trained_on_digits.labels
    assert trained_on_digits.accuracy(HiddenH3()(model, images, labels, eps=0.15)) <= 0.6

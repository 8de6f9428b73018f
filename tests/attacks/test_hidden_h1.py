from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.hidden_h1 import HiddenH1
from robustbench_cli.attacks.pgd import PGD

from .conftest import Victim


@pytest.mark.parametrize(("norm", "length"), [("linf", 8.0), ("l2", 1.0)])
def test_the_farthest_point_from_the_image(norm: Norm, length: float) -> None:
    """With the pixels as the representation, the steps lead to a corner of the cube, and in l2 to the sphere."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    images, eps = torch.full((4, 1, 8, 8), 0.5), 1e-3
    source = gradient_source(model, randomized=False)
    points: list[Tensor] = []
    source.watch = lambda queried, _: points.append(queried.clone())
    threat = Threat(norm=norm, eps=torch.full((4,), eps, dtype=torch.float64))
    HiddenH1(steps=10, layer="0").run(source, images, model(images).argmax(1), threat, Random.of(0, images))
    lengths = (points[-1] - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((4,), length * eps), rtol=1e-3, atol=0)


def test_it_breaks_digits_and_is_weaker_than_pgd(trained_on_digits: Victim) -> None:
    model, images, labels = trained_on_digits.model, trained_on_digits.images, trained_on_digits.labels
    accuracy = trained_on_digits.accuracy(HiddenH1()(model, images, labels, eps=0.15))
    assert trained_on_digits.accuracy(PGD()(model, images, labels, eps=0.15)) <= accuracy <= 0.6

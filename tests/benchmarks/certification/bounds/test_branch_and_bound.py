from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from robustbench_cli.benchmarks.certification.bounds.branch_and_bound import prove
from robustbench_cli.benchmarks.certification.bounds.linear_bounds import Ball, Relaxation, relax
from robustbench_cli.benchmarks.certification.bounds.network import Network

HIDDEN = (3, 2)


def tiny(seed: int) -> tuple[nn.Sequential, Tensor]:
    """A network of two inputs and two hidden layers, and an image that it classifies."""
    torch.manual_seed(seed)
    widths = (2, *HIDDEN, 3)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    for layer in model[1::2]:
        nn.init.normal_(layer.weight)
    return model.requires_grad_(False), torch.rand(1, 1, 1, 2)


def exact_margin(model: nn.Sequential, image: Tensor, label: int, eps: float) -> float:
    """The smallest margin over the ball, by a linear program for each pattern of active neurons."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    bounds = list(zip((image - eps).clamp(0, 1).flatten(), (image + eps).clamp(0, 1).flatten(), strict=True))
    smallest = np.inf
    for pattern in itertools.product([0, 1], repeat=sum(HIDDEN)):
        matrix, shift, rows, limits, used = np.eye(2), np.zeros(2), [], [], 0
        for layer in layers[:-1]:
            weight, bias = layer.weight.double().numpy(), layer.bias.double().numpy()
            matrix, shift = weight @ matrix, weight @ shift + bias
            active = np.array(pattern[used : used + len(bias)])
            used += len(bias)
            sign = 2 * active - 1
            rows += [*(-sign[:, None] * matrix)]
            limits += [*(sign * shift)]
            matrix, shift = active[:, None] * matrix, active * shift
        weight, bias = layers[-1].weight.double().numpy(), layers[-1].bias.double().numpy()
        for other in range(3):
            if other != label:
                difference = weight[label] - weight[other]
                result = linprog(difference @ matrix, A_ub=rows, b_ub=limits, bounds=bounds)
                if result.status == 0:
                    smallest = min(smallest, result.fun + difference @ shift + bias[label] - bias[other])
    return smallest


def relaxation_of(model: nn.Module, image: Tensor, eps: float) -> Relaxation:
    return relax(Network(model, image), Ball(image.double(), torch.tensor([eps]).double()))


def test_it_decides_as_the_enumeration_of_all_patterns() -> None:
    """It proves margins above the smallest one less a tolerance, and none below; relaxation alone leaves many open."""
    opened = 0
    for seed in range(10):
        model, image = tiny(seed)
        label = model(image).argmax(1)
        exact = exact_margin(model, image, int(label), 0.4)
        relaxation = relaxation_of(model, image, 0.4)
        assert prove(relaxation, label, exact - 0.01, branches=500)
        assert not prove(relaxation, label, exact + 1e-4, branches=500)
        opened += float(relaxation.margins(label).min()) < exact - 0.01
    assert opened >= 2


def test_a_limit_on_subproblems() -> None:
    """What takes more subproblems than allowed is not proven, and what the relaxation proves takes none."""
    model, image = hard()
    label = model(image).argmax(1)
    relaxation = relaxation_of(model, image, 0.3)
    bound = float(relaxation.margins(label).min())
    corners = torch.rand(20000, 1, 2, 4).round()
    logits = model((image + 0.3 * (2 * corners - 1)).clamp(0, 1))
    margins = logits[:, label] - logits
    smallest = float(margins[:, torch.arange(3) != label].min())
    assert prove(relaxation, label, bound - 1e-6, branches=1)
    wanted = bound + 0.9 * (smallest - bound)
    assert not prove(relaxation, label, wanted, branches=10)
    assert prove(relaxation, label, wanted, branches=1000)


def hard() -> tuple[nn.Module, Tensor]:
    """A network whose margin takes many splits."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    for layer in model[1::2]:
        nn.init.normal_(layer.weight, 0, 0.4)
    return model.requires_grad_(False), torch.rand(1, 1, 2, 4)


@pytest.mark.parametrize(
    ("activation", "pool", "share"),
    [(nn.ReLU(), nn.AvgPool2d(2), 0.8), (nn.LeakyReLU(0.2), nn.AvgPool2d(2), 0.8), (nn.ReLU(), nn.MaxPool2d(2), -0.01)],
)
def test_convolutions_pools_and_leaky_rectifiers(activation: nn.Module, pool: nn.Module, share: float) -> None:
    """It proves a share of what the relaxation leaves open, and never too much; max pooling is not split."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(
            nn.Conv2d(1, 3, 3, padding=1),
            activation,
            pool,
            nn.Conv2d(3, 4, 2),
            activation,
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
    ).requires_grad_(False)
    image, eps = torch.rand(1, 1, 4, 4), 0.3
    label = model(image).argmax(1)
    relaxation = relaxation_of(model, image, eps)
    corners = torch.rand(20000, 1, 4, 4).round()
    logits = model((image + eps * (2 * corners - 1)).clamp(0, 1))
    smallest = float((logits[:, label] - logits)[:, torch.arange(3) != label].min())
    bound = float(relaxation.margins(label).min())
    assert bound < smallest
    assert prove(relaxation, label, bound + share * (smallest - bound), branches=500)
    assert not prove(relaxation, label, smallest + 1e-4, branches=100)

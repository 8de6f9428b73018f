from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from robustbench_cli.benchmarks.comparison.relu_network import Affine, Ball, BallNorm, ReLUNetwork


def network() -> nn.Sequential:
    """Every supported layer; the windows of the pooling have two, three and six pixels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.MaxPool2d((1, 2)),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d((3, 1)), nn.Dropout(), nn.ReLU()),
        nn.AvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(12, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model.eval()


@torch.no_grad()
def test_the_matrices_give_the_logits_of_the_model() -> None:
    """Those of torch in double precision, also of images far outside the box."""
    model = network()
    images = 3 * torch.randn(20, 1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    converted = ReLUNetwork.of(model, (1, 6, 8))
    logits = np.stack([converted(pixels) for pixels in images.flatten(1).numpy()])
    np.testing.assert_allclose(logits, model.double()(images).numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "message"), [(nn.Sigmoid(), "Sigmoid"), (nn.MaxPool2d(3, stride=2), "overlap"), (nn.GELU(), "GELU")]
)
def test_other_layers_are_refused(layer: nn.Module, message: str) -> None:
    """The error names the layer."""
    with pytest.raises(TypeError, match=message):
        ReLUNetwork.of(nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8))


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_smallest_value_over_a_ball_is_that_of_a_linear_program(norm: BallNorm) -> None:
    """Of scipy, whose variables are increases and decreases of the pixels."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        center, radius = generator.uniform(0, 1, 6).round(1), float(generator.uniform(0, 1.5))
        weight = generator.normal(size=(1, 6)).round(1)
        rates, limit = np.concatenate([weight[0], -weight[0]]), {"linf": radius, "l1": 1.0}[norm]
        program = linprog(
            rates,
            A_ub=np.ones((1, 12)),
            b_ub=radius if norm == "l1" else 12,
            bounds=[(0, min(limit, room)) for room in (*(1 - center), *center)],
        )
        smallest = Ball(center, radius, norm).smallest(Affine(weight, np.zeros(1)))[0]
        assert smallest == pytest.approx(float(weight[0] @ center) + program.fun, abs=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("radius", [0.02, 0.3])
def test_no_image_of_the_ball_exceeds_the_bounds(norm: BallNorm, radius: float) -> None:
    """5,000 random images, of which half are corners of the ball, for every neuron and for the logits."""
    converted = ReLUNetwork.of(network(), (1, 6, 8))
    generator = np.random.default_rng(0)
    ball = Ball(generator.uniform(0, 1, 48), radius, norm)
    changes = generator.uniform(-1, 1, (5000, 48))
    changes[::2] = np.sign(changes[::2]) if norm == "linf" else changes[::2] ** 9
    if norm == "l1":
        changes /= np.abs(changes).sum(1, keepdims=True)
    values = np.clip(ball.center + radius * changes, 0, 1).T
    known = converted.bounds(ball)
    for layer, (low, high) in zip(converted.layers[:-1], known, strict=True):
        inputs = layer.weight @ values + layer.bias[:, None]
        assert (inputs >= low[:, None] - 1e-9).all()
        assert (inputs <= high[:, None] + 1e-9).all()
        values = np.maximum(inputs, 0)
    logits = converted.layers[-1].weight @ values + converted.layers[-1].bias[:, None]
    unit = Affine(np.eye(3), np.zeros(3))
    assert (logits >= converted.smallest(unit, known, ball)[:, None] - 1e-9).all()

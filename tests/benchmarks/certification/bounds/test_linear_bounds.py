from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import Threat, project, steepest_ascent
from robustbench_cli.benchmarks.certification.bounds import linear_bounds
from robustbench_cli.benchmarks.certification.bounds.linear_bounds import Ball, Relaxation, margin_rows, relax
from robustbench_cli.benchmarks.certification.bounds.network import Network

SHAPE = (2, 7, 8)


class Residual(nn.Module):
    """A block whose shortcut has another stride and kernel, and one whose shortcut is the identity."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.body = nn.Sequential(activation(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.second = nn.Sequential(activation(), nn.Conv2d(6, 6, 3, padding=1))
        self.head = nn.Sequential(activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features = self.body(features) + self.shortcut(features)
        return self.head(features + self.second(features))


def plain(activation: type[nn.Module]) -> nn.Module:
    """Convolutions, batch norm, pools of both kinds, fully connected layers."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), activation(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3)),
        *(activation(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(4, 8), activation(), nn.Linear(8, 4)),
    )


def model_of(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model with running statistics that are not the initial ones."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        model.train()(torch.rand(32, *SHAPE))
    return model.eval().requires_grad_(False)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: Residual(nn.ReLU),
    "residual silu": lambda: Residual(nn.SiLU),
    "plain": lambda: plain(nn.ReLU),
    "plain gelu": lambda: plain(nn.GELU),
}


def attacked(model: nn.Module, images: Tensor, ball: Ball, weights: Tensor) -> Tensor:
    """The smallest ``weights * logits`` that gradient steps from random starts find in the ball."""
    threat = Threat(norm=ball.norm, eps=ball.eps)
    lowest = torch.full((len(images),), torch.inf)
    for start in range(2):
        perturbed = project(
            images + float(ball.eps[0]) * (start > 0) * (2 * torch.rand_like(images) - 1), images, threat
        )
        for step in range(8):
            leaf = perturbed.clone().requires_grad_()
            with torch.enable_grad():
                value = (model(leaf) * weights).sum(1)
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            lowest = torch.minimum(lowest, value.detach())
            move = float(ball.eps[0]) / (1 + step / 2) * steepest_ascent(gradient, ball.norm)
            perturbed = project(perturbed - move, images, threat)
    return lowest


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("linf", 0.2), ("l2", 0.3), ("l1", 0.8)])
@pytest.mark.parametrize("name", MODELS)
def test_no_image_of_the_ball_leaves_the_bounds(name: str, norm: Norm, eps: float) -> None:
    """Neither attacked images nor random ones; and the bounds are no looser than those by intervals."""
    model, images = model_of(MODELS[name]), torch.rand(2, *SHAPE)
    network = Network(model, images)
    ball = Ball(images.double(), torch.full((2,), eps).double(), norm)
    relaxation, intervals = relax(network, ball), relax(network, ball, refine=False)
    labels = model(images).argmax(1)
    margins = relaxation.margins(labels)
    rows, _ = margin_rows(network, labels)
    weights = rows.coefficients.flatten(1).reshape(2, 3, 4).float()
    for other in range(3):
        assert (attacked(model, images, ball, weights[:, other]) >= margins[:, other]).all()
    last = relaxation.boxes[-1]
    for sign in (1, -1):
        for index in (0, 3):
            found = attacked(model, images, ball, sign * torch.eye(4)[index].expand(2, -1))
            bound = last.low if sign > 0 else -last.high
            assert (found >= bound[:, index, 0, 0]).all()
    for box, wide in zip(relaxation.boxes, intervals.boxes, strict=True):
        assert (box.low >= wide.low - 1e-12).all()
        assert (box.high <= wide.high + 1e-12).all()
    assert (margins >= interval_margins(intervals, labels) - 1e-9).all()


def interval_margins(relaxation: Relaxation, labels: Tensor) -> Tensor:
    """The margins by interval bounds of the last layer's inputs."""
    layer = relaxation.network.operations[-1]
    box = relaxation.boxes[layer.inputs[0]]
    rows, image = margin_rows(relaxation.network, labels)
    coefficients = rows.coefficients.flatten(1) @ layer.layer.weight
    low, high = box.low.flatten(1)[image], box.high.flatten(1)[image]
    lowest = (
        torch.minimum(coefficients * low, coefficients * high).sum(1) + rows.coefficients.flatten(1) @ layer.layer.bias
    )
    # The last layer's own rounding, in single precision.
    return (lowest - 1e-4).reshape(len(labels), -1)


def triangle(first: nn.Linear, second: nn.Linear, image: Tensor, eps: float, weights: Tensor) -> float:
    """The minimum of ``weights * logits`` over the triangle relaxation of a network of one hidden layer, by a linear program."""
    w, b = first.weight.double().numpy(), first.bias.double().numpy()
    low, high = (image - eps).clamp(0, 1).double().numpy(), (image + eps).clamp(0, 1).double().numpy()
    middle, half = w @ (low + high) / 2 + b, np.abs(w) @ (high - low) / 2
    below, above = middle - half, middle + half
    outputs = weights.double().numpy() @ second.weight.double().numpy()
    hidden, inputs = len(b), len(low)
    rows, limits = [], []
    for unit in range(hidden):
        one = np.eye(hidden)[unit]
        if above[unit] <= 0:
            rows.append([*np.zeros(inputs), *one])
            limits.append(0)
            continue
        rows.append([*w[unit], *-one])
        limits.append(-b[unit])
        slope = 1.0 if below[unit] >= 0 else above[unit] / (above[unit] - below[unit])
        start = 0.0 if below[unit] >= 0 else -slope * below[unit]
        rows.append([*-slope * w[unit], *one])
        limits.append(slope * b[unit] + start)
    bounds = [*zip(low, high, strict=True), *[(0, None)] * hidden]
    result = linprog([*np.zeros(inputs), *outputs], A_ub=rows, b_ub=limits, bounds=bounds)
    return float(result.fun + weights.double().numpy() @ second.bias.double().numpy())


def test_one_hidden_layer_against_linear_programming() -> None:
    """The bound is at most the linear program's optimum; it is equal where no line below matters."""
    equal = 0
    for seed in range(12):
        torch.manual_seed(seed)
        first, second = nn.Linear(6, 8), nn.Linear(8, 3)
        if seed % 2:
            with torch.no_grad():
                # The margin of class 0 falls with each hidden value, so only the lines above matter.
                second.weight[0] = second.weight.amin(0) - 0.1
        model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second).requires_grad_(False)
        image, eps = torch.rand(1, 1, 2, 3), 0.3
        network = Network(model, image)
        ball = Ball(image.double(), torch.tensor([eps]).double())
        margins = relax(network, ball).margins(torch.tensor([0]))[0]
        for other in (1, 2):
            weights = torch.eye(3)[0] - torch.eye(3)[other]
            exact = triangle(first, second, image.flatten(), eps, weights)
            assert float(margins[other - 1]) <= exact + 1e-9
            if seed % 2:
                assert float(margins[other - 1]) == pytest.approx(exact, abs=1e-4)
                equal += 1
    assert equal == 12


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_model_has_its_closed_form(norm: Norm) -> None:
    """The smallest margin in the interior of the box is the margin less the radius times the dual norm."""
    torch.manual_seed(0)
    linear, images = nn.Linear(12, 4), 0.4 + 0.2 * torch.rand(5, 3, 2, 2)
    network = Network(nn.Sequential(nn.Flatten(), linear).requires_grad_(False), images)
    ball = Ball(images.double(), torch.full((5,), 0.3).double(), norm)
    labels = torch.tensor([0, 1, 2, 3, 0])
    margins = relax(network, ball).margins(labels)
    logits = linear(images.flatten(1)).double()
    order = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm]
    for row, label in enumerate(labels.tolist()):
        others = [index for index in range(4) if index != label]
        size = torch.linalg.vector_norm((linear.weight[label] - linear.weight[others]).double(), ord=order, dim=1)
        torch.testing.assert_close(
            margins[row], logits[row, label] - logits[row, others] - 0.3 * size, atol=1e-5, rtol=0
        )


def test_the_bounds_cover_the_rounding_of_single_precision() -> None:
    """Exact arithmetic would prove more than what float32 computes, whose numbers near 1e7 are a whole 1 apart."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).requires_grad_(False)
    model[1].weight.fill_(1.0)
    model[1].bias.fill_(1e7)
    model[3].weight.copy_(torch.tensor([[1.0], [0.0]]))
    # Class 0 where the pixel is above 1/4.
    model[3].bias.copy_(torch.tensor([-1e7, 0.25]))
    image = torch.full((1, 1, 1, 1), 0.8)
    network = Network(model, image)
    assert model(torch.full((1, 1, 1, 1), 0.4)).argmax() == 1
    ball = Ball(image.double(), torch.tensor([0.45]).double())
    assert float(relax(network, ball).margins(torch.tensor([0]))) < 0


def test_small_parts_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds do not depend on how many rows are in memory at once; without work to spend they are intervals."""
    model, images = model_of(MODELS["residual"]), torch.rand(2, *SHAPE)
    network = Network(model, images)
    ball = Ball(images.double(), torch.tensor([0.02, 0.05]).double())
    whole = relax(network, ball).boxes[-1]
    monkeypatch.setattr(linear_bounds, "_COEFFICIENTS", {"cpu": 500})
    torch.testing.assert_close(relax(network, ball).boxes[-1].low, whole.low)
    monkeypatch.setattr(linear_bounds, "REFINEMENT_LIMIT", 1)
    intervals = relax(network, ball, refine=False).boxes[-1]
    torch.testing.assert_close(relax(network, ball).boxes[-1].low, intervals.low)
    assert (whole.low > intervals.low).all()

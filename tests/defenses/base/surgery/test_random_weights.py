from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from robustbench_cli.attacks.base.models.row_draws import RowDraws
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.surgery.random_weights import (
    RandomWeights,
    shared_draws,
    weight_std,
    with_random_weights,
)
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.pni import PNI

ROWS = 20000


class Fixed(RandomWeights):
    """Weights with the standard deviations of a test."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, weight: float = 0.3, bias: float | None = 0.2) -> None:
        super().__init__(layer)
        places = torch.arange(layer.weight.numel()).view_as(layer.weight)
        self.of_weight = weight * (1 + places % 3)
        self.of_bias = None if bias is None or layer.bias is None else torch.full_like(layer.bias, bias)

    def sigma(self) -> Tensor:
        return self.of_weight

    def bias_sigma(self) -> Tensor | None:
        return self.of_bias


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "vectors": (lambda: nn.Linear(4, 3), (4,)),
    "tokens": (lambda: nn.Linear(3, 2), (3, 3)),
    "no bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "padded": (lambda: nn.Conv2d(1, 2, 3, padding=1), (1, 3, 3)),
    "strided groups": (lambda: nn.Conv2d(4, 2, 2, stride=2, groups=2), (4, 4, 4)),
    "circular": (lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 3, 3)),
    "same": (lambda: nn.Conv2d(1, 1, 2, padding="same", dilation=2, bias=False), (1, 3, 3)),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_drawn_weights(name: str, shared: bool) -> None:
    """Mean and covariance of a row's outputs are those of ``J diag(sigma^2) J^T`` by torch, within 5 standard errors."""
    build, shape = LAYERS[name]
    layer = build()
    row = torch.rand(shape)
    parameters = {key: value.detach() for key, value in layer.named_parameters()}
    jacobians = jacrev(lambda values: functional_call(layer, values, (row[None],)).flatten())(parameters)
    noisy = Fixed(layer).eval()
    deviations = {"weight": noisy.of_weight, "bias": noisy.of_bias}
    covariance = torch.zeros(())
    for key, jacobian in jacobians.items():
        scaled = jacobian.flatten(1).double() * deviations[key].flatten().double()
        covariance = covariance + scaled @ scaled.T
    with torch.no_grad():
        if shared:
            with shared_draws(noisy):
                outputs = torch.stack([noisy(row[None]).flatten() for _ in range(ROWS // 10)]).double()
        else:
            outputs = noisy(row.expand(ROWS, *shape)).flatten(1).double()
        mean = layer(row[None]).flatten().double()
    variances = covariance.diag()
    error = ((variances[:, None] * variances + covariance.square()) / len(outputs)).sqrt()
    assert ((outputs.T.cov() - covariance).abs() <= 5 * error).all()
    assert ((outputs.mean(0) - mean).abs() <= 5 * (variances / len(outputs)).sqrt()).all()
    standard = ((outputs[:, 0] - mean[0]) / variances[0].sqrt()).numpy()
    assert stats.kstest(standard, "norm").pvalue > 0.001


def test_shared_draws() -> None:
    """Rows of a pass draw independently, in train() mode too; within ``shared_draws`` they share one draw."""
    model = with_random_weights(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), Fixed, name="test"
    ).eval()
    images = torch.rand(1, 1, 4, 4).repeat(4, 1, 1, 1)
    for _ in range(2):
        assert RowDraws(model, images).unit == "row"
        with shared_draws(model), torch.no_grad():
            assert RowDraws(model, images).unit == "pass"
            torch.testing.assert_close(*model(images)[:2])
        assert not torch.allclose(*model.train()(images)[:2])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "swin_t"])
@torch.no_grad()
def test_architectures(name: str) -> None:
    """In torchvision's networks, noise with sigma 0 changes nothing, and the user's network stays unchanged."""
    model = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    images = torch.rand(1, 3, 32, 32)
    quiet = with_random_weights(model, lambda layer: Fixed(layer, 0.0, 0.0), name="test")
    assert torch.equal(quiet(images), model(images))
    assert not any(isinstance(module, RandomWeights) for module in model.modules())


def test_a_layer_that_stands_twice_is_one() -> None:
    """A layer with two names in a model has one set of weights."""
    layer = nn.Linear(4, 4)
    changed = with_random_weights(nn.Sequential(layer, nn.ReLU(), layer), Fixed, name="test")
    assert isinstance(changed, nn.Sequential)
    assert changed[0] is changed[2]
    assert isinstance(with_random_weights(layer, Fixed, name="test"), Fixed)


def test_no_noise_has_a_finite_gradient() -> None:
    """If all inputs of a layer are 0, its outputs have no noise, and all gradients are finite."""
    rows = torch.zeros(2, 4, requires_grad=True)
    noisy = Fixed(nn.Linear(4, 3), bias=None)
    (gradient,) = torch.autograd.grad(noisy(rows).sum(), rows)
    torch.testing.assert_close(gradient, noisy.layer.weight.sum(0).expand(2, 4))


def test_a_model_without_weights() -> None:
    """It is a usage error."""
    with pytest.raises(UserError, match="pni adds noise to weights, and Flatten has no fully connected layer"):
        with_random_weights(nn.Flatten(), Fixed, name="pni")


def test_weight_std() -> None:
    """It equals torch's standard deviation, and is 0 for a single weight and for equal weights."""
    weight = torch.randn(3, 4, requires_grad=True)
    torch.testing.assert_close(weight_std(weight), weight.detach().std())
    assert not weight_std(weight).requires_grad
    assert weight_std(torch.tensor([[5.0]])) == weight_std(torch.ones(2, 2)) == 0


@pytest.mark.parametrize("defense", [PNI(), PNI(granularity="element"), GaussianNoise(location="weights")], ids=str)
@pytest.mark.parametrize(
    "single",
    [
        nn.Conv2d(1, 1, 1),
        nn.Conv2d(1, 1, 1, bias=False),
        nn.Sequential(nn.Flatten(2), nn.Linear(1, 1), nn.Unflatten(2, (1, 1))),
    ],
    ids=["convolution", "no bias", "linear"],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_with_a_single_weight(defense: Defense, single: nn.Module, shared: bool) -> None:
    """It gets no noise, and logits and gradients are finite."""
    equal = nn.Linear(1, 3)
    nn.init.constant_(equal.weight, 0.5)
    model = nn.Sequential(single, nn.Flatten(), equal)
    noisy, images = defense.protect(model, torch.rand(1, 1, 1, 1)), torch.rand(5, 1, 1, 1, requires_grad=True)
    with shared_draws(noisy) if shared else nullcontext():
        logits = noisy(images)
    torch.testing.assert_close(logits, model(images))
    used = [parameter for parameter in noisy.parameters() if parameter.requires_grad]
    for gradient in torch.autograd.grad(logits.square().sum(), [images, *used], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer, bpda, identity, use_surrogates
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError
from tests.attacks.conftest import Victim


class Quantiser(nn.Module):
    """Pixels rounded to 16 levels, by way of NumPy and in place, so that no gradient can pass."""

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(15)
        return torch.from_numpy(images.numpy().round()) / 15


def test_an_unbroken_quantiser_falls_with_the_identity(digits_victim: Victim) -> None:
    """PGD breaks a network behind a quantiser as it does the bare one; its results and its layer stay as they were."""
    quantiser = Quantiser()
    model = nn.Sequential(quantiser, digits_victim.model)
    images, labels = digits_victim.images, digits_victim.labels
    with torch.no_grad():
        before = model(images.clone())
        with bpda(model, {"0": identity}):
            assert torch.equal(model(images), before)
    with bpda(model, {"0": identity}):
        perturbed = PGD(steps=10)(model, images, labels, norm="linf", eps=0.25)
    assert "forward" not in vars(quantiser)
    with torch.no_grad():
        assert (model(perturbed.clone()).argmax(1) == labels).double().mean() < 0.1


def test_the_gradient_is_the_surrogates() -> None:
    """Forwards a step function, backwards the sigmoid's slope, 1/4 at 0 (closed form); results are the layer's bit by bit."""

    class Step(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return (values >= 0).to(values) / 3

    layer = Step()
    values = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    with bpda(layer, {"": torch.sigmoid}):
        result = layer(values)
    assert torch.equal(result, layer(values))
    result.sum().backward()
    sigmoid = torch.tensor([0.5, 0.7310586, 0.2689414])
    assert torch.allclose(values.grad, sigmoid * (1 - sigmoid))


def test_what_does_not_fit_is_named() -> None:
    """An unknown layer and a surrogate of another shape are refused in one line."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match="no layer '7'"), bpda(model, {"7": identity}):
        pass
    with pytest.raises(UserError, match="layer '1' gives the shape"), bpda(model, {"1": identity}):
        model(torch.zeros(1, 1, 2, 2, requires_grad=True))


class Steps(BPDALayer):
    """Whole numbers, with the slope of 2 sin."""

    def exact(self, inputs: Tensor) -> Tensor:
        return inputs.round()

    def surrogate(self, inputs: Tensor) -> Tensor:
        return 2 * inputs.sin()


def test_a_layer_brings_its_surrogate_along() -> None:
    """Forwards whole numbers to the bit, backwards 2 cos (closed form); told so, it gives 2 sin forwards too."""
    model = nn.Sequential(Steps())
    values = torch.tensor([0.2, 1.4, -2.6], requires_grad=True)
    result = model(values)
    assert torch.equal(result, torch.tensor([0.0, 1.0, -3.0]))
    (gradient,) = torch.autograd.grad(result.sum(), values)
    assert torch.allclose(gradient, 2 * values.detach().cos())
    with use_surrogates(model):
        assert torch.equal(model(values), 2 * values.sin())
    assert torch.equal(model(values), result)

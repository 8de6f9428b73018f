from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.benchmarks.models.vit_small_cifar import ViTSmallCifar
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.arlst import ARLST, ill_conditioning, log_sparsity
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.surgery.kronecker import KroneckerLinear


def layers(model: nn.Module) -> list[KroneckerLinear]:
    return [layer for layer in model.modules() if isinstance(layer, KroneckerLinear)]


def test_the_penalty_is_that_of_the_singular_values() -> None:
    """For wide and tall matrices of any scale, by NumPy; the sparsity is a mean of logarithms."""
    for shape in ((4, 3, 5), (4, 5, 3), (4, 1, 6)):
        matrices = 30 * torch.randn(shape)
        squares = np.linalg.svd(matrices.double().numpy(), compute_uv=False) ** 2
        expected = np.log(squares.mean(1)) - np.log(squares).mean(1)
        np.testing.assert_allclose(ill_conditioning(matrices).numpy(), expected, rtol=1e-2, atol=2e-4)
    np.testing.assert_allclose(
        log_sparsity(matrices).numpy(), np.log(1 + matrices.numpy() ** 2).mean((1, 2)), rtol=1e-5
    )


def test_descending_the_penalty_makes_all_singular_values_equal() -> None:
    """Also from a matrix with two almost equal rows."""
    matrices = torch.randn(2, 4, 6)
    matrices[1, 3] = matrices[1, 0] + 0.01 * matrices[1, 1]
    matrices.requires_grad_()
    start = np.linalg.cond(matrices.detach().numpy())
    assert start[0] > 2
    assert start[1] > 100
    optimizer = torch.optim.Adam([matrices], lr=0.05)
    for _ in range(200):
        (matrices.grad,) = torch.autograd.grad(ill_conditioning(matrices).sum(), matrices)
        optimizer.step()
    np.testing.assert_allclose(np.linalg.cond(matrices.detach().numpy()), 1, atol=0.03)


def test_training_lowers_the_condition_numbers(digits: Any) -> None:
    """Those of the factors and of the layers, whose condition number is their product; and the network learns."""
    train, test = digits
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    numbers = []
    for conditioning in (0.0, 1.0):
        defense = ARLST(compression=8, conditioning=conditioning, sparsity=0, steps=1, eps=0.05)
        model = defend(perceptron, defense, train, epochs=8, lr=0.05)
        numbers.append([np.linalg.cond(layer.weight.detach().numpy()) for layer in layers(model)])
        products = [
            np.prod([np.linalg.cond(factor[0].detach().numpy()) for factor in layer.factors]) for layer in layers(model)
        ]
        np.testing.assert_allclose(products, numbers[-1], rtol=1e-2)
    assert all(after < 0.7 * before for before, after in zip(*numbers, strict=True))
    with torch.no_grad():
        assert float((model(test.images).argmax(1) == test.labels).double().mean()) > 0.75


def short_vit() -> nn.Module:
    """The first of its twelve equal blocks."""
    model = ViTSmallCifar(shape=(3, 32, 32), classes=10)
    model.blocks = model.blocks[:1]
    return model


@pytest.mark.parametrize("build", [vgg16, short_vit])
def test_large_networks_have_as_few_weights(build: Callable[[], nn.Module]) -> None:
    """All fully connected layers are replaced, and the logits keep their shape; nothing is computed."""
    with torch.device("meta"):
        model = build()
        images = torch.zeros(2, 3, 32, 32)
        protected = ARLST(compression=10).protect(model, images[:1])
        assert protected(images).shape == model(images).shape
    dense = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    assert not any(isinstance(layer, nn.Linear) for layer in protected.modules())
    assert dense / sum(factor.numel() for layer in layers(protected) for factor in layer.factors) > 10 / 1.05


@pytest.mark.parametrize("defense", [ARLST(factors=3), ARLST(terms=4)])
def test_three_factors_and_several_terms(defense: ARLST) -> None:
    """They give logits too."""
    with torch.device("meta"):
        protected = defense.protect(PaperCNN(shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))
        assert protected(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert len(layers(protected)) == 3
    for layer in layers(protected):
        assert [len(factor) for factor in layer.factors] == [defense.terms] * defense.factors


def test_the_weights_begin_at_the_networks() -> None:
    """A layer that is a product keeps its outputs, and its mode."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.kron(torch.randn(4, 8), torch.randn(4, 8)))
    images = torch.rand(3, 1, 8, 8)
    protected = ARLST(compression=16).protect(model, images[:1])
    assert [tuple(factor.shape) for factor in layers(protected)[0].factors] == [(1, 4, 8), (1, 4, 8)]
    torch.testing.assert_close(protected(images), model(images), rtol=1e-4, atol=1e-5)
    assert not protected[1].training


def test_what_cannot_be_done_is_said(network: Callable[[], nn.Module]) -> None:
    """In one line, with the layer and the reason."""
    example = torch.zeros(1, 1, 8, 8)
    with pytest.raises(
        UserError, match="arlst factorizes fully connected layers without random weights, and Conv2d has none"
    ):
        ARLST().protect(nn.Conv2d(1, 2, 3), example)
    with pytest.raises(
        UserError,
        match=r"^arlst.compression=100 is out of reach: the .* have 8832 weights, and 244 with .*at most 36.1$",
    ):
        ARLST(compression=100).protect(network(), example)
    with pytest.raises(
        UserError, match=r"arlst cannot factorize the layer fc2: it has at most .* products, not 30: give"
    ):
        ARLST(terms=30).protect(network(), example)
    model = network()
    nn.init.zeros_(model.get_submodule("fc1").get_parameter("weight"))
    with pytest.raises(UserError, match="arlst cannot factorize the layer fc1: all its weights are 0"):
        ARLST().protect(model, example)

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hvp

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation
from robustbench_cli.attacks.base.gradients.hessian import HessianProducts
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy, margin
from robustbench_cli.attacks.base.models.row_draws import RowDraws
from robustbench_cli.core.errors import UserError

from ....once_differentiable import Squares
from .conftest import IMAGES, LABELS, Paths

DIRECTIONS = torch.randn(7, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def product_of(source: GradientSource, loss: Any = cross_entropy) -> HessianProducts:
    """The products after a gradient, as an attack asks for them."""
    source.gradient(IMAGES, LABELS, loss)
    return HessianProducts(source, IMAGES, LABELS, loss)


def exact(model: Paths) -> Tensor:
    """The mean of the products of all paths, from ``torch.autograd.functional``."""

    def loss(images: Tensor) -> Tensor:
        paths = [model.path(index, images) for index in range(model.number_of_draws)]
        return torch.stack([nn.functional.cross_entropy(logits, LABELS, reduction="sum") for logits in paths]).mean()

    product: Tensor = hvp(loss, IMAGES, DIRECTIONS)[1]
    return product


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("kind", ["plain", "exact"])
def test_a_product_is_that_of_autograd(kind: str, batch_size: int | None) -> None:
    """For one network and for the exact expectation over four, whether or not one pass holds the batch; twice in a row."""
    model = Paths(1, cost=1) if kind == "plain" else Paths()
    source = (EOT if kind == "plain" else ExactExpectation)(model, batch_size=batch_size)
    product = product_of(source)
    torch.testing.assert_close(product(DIRECTIONS), exact(model))
    torch.testing.assert_close(product(-2 * DIRECTIONS), -2 * exact(model))


@pytest.mark.parametrize(("batch_size", "graphs"), [(None, 1), (3, 2)])
def test_passes_are_counted(batch_size: int | None, graphs: int) -> None:
    """The gradient, a graph where one is made, and each product are a forward and a backward pass per image and draw."""
    source = ExactExpectation(Paths(), batch_size=batch_size)
    product = product_of(source)
    for _ in range(2):
        product(DIRECTIONS)
    assert source.forwards == source.backwards == 7 * 2.5 * (1 + graphs + 2)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_draws_stay_the_same_from_product_to_product(batch_size: int | None) -> None:
    """The Hessian of one sample of draws is symmetric; that of two samples is not. It is the one of the gradient's draws."""
    model = Paths()
    source = EOT(model, draws=3, randomized=True, row_draws=RowDraws(model, IMAGES), batch_size=batch_size)
    source.bind_draws(5, torch.arange(7))
    other = DIRECTIONS.flip(0)
    product = product_of(source)
    left, right = (product(DIRECTIONS) * other).flatten(1).sum(1), (product(other) * DIRECTIONS).flatten(1).sum(1)
    torch.testing.assert_close(left, right)

    def gradient_near(offset: float) -> Tensor:
        source.queries = 0
        return source.gradient(IMAGES + offset * DIRECTIONS, LABELS, cross_entropy)[1]

    slope = (gradient_near(2e-3) - gradient_near(-2e-3)) / 4e-3
    torch.testing.assert_close(product(DIRECTIONS), slope, rtol=1e-2, atol=2e-3)


class _Rounded(BPDALayer):
    def exact(self, values: Tensor) -> Tensor:
        return (4 * values).round() / 4


def test_a_surrogate_has_its_own_second_derivative() -> None:
    """With the identity for rounding, the product is that of the network behind it at the rounded images."""
    model = Paths(1)
    source = EOT(nn.Sequential(_Rounded(), model))
    rounded = (4 * IMAGES).round() / 4
    expected = hvp(
        lambda images: nn.functional.cross_entropy(model.path(0, images), LABELS, reduction="sum"), rounded, DIRECTIONS
    )
    torch.testing.assert_close(product_of(source)(DIRECTIONS), expected[1])


def test_a_linear_loss_of_a_linear_model_has_none() -> None:
    """Its gradient is a constant, and every product is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).requires_grad_(False)
    assert (product_of(EOT(model), loss=margin)(DIRECTIONS) == 0).all()


def test_a_layer_without_a_second_derivative() -> None:
    """Autograd would give a wrong product without an error."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), Squares()).requires_grad_(False)
    with pytest.raises(UserError, match=r"^layer '2' \(Squares\) has no second derivative"):
        product_of(EOT(model))

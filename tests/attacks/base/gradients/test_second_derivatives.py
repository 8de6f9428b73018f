from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, scaled_dot_product_attention

from robustbench_cli.attacks.base.gradients.second_derivatives import require_second_derivative, twice_differentiable
from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.core.errors import UserError

from ....once_differentiable import Square, Squares

IMAGES = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class _Bag(nn.Module):
    """A layer in whose place PyTorch itself has no second derivative."""

    def forward(self, values: Tensor) -> Tensor:
        return torch.stack([embedding_bag(torch.tensor([[0, 1, 2]]), row[:, None])[0] for row in values]).exp()


class _Attention(nn.Module):
    """Attention among the rows of an image."""

    def forward(self, images: Tensor) -> Tensor:
        return scaled_dot_product_attention(images, images, 3 * images).flatten(1)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Squares(), r"layer '1.1' \(Squares\) has no.*once_differentiable"),
        (_Bag(), r"layer '1.1' \(_Bag\) has no.*embedding"),
    ],
)
def test_the_layer_is_named(layer: nn.Module, expected: str) -> None:
    """The innermost one, in one line."""
    inner = nn.Sequential(nn.Linear(16, 5), layer, nn.Tanh())
    model = nn.Sequential(nn.Flatten(), inner, nn.LazyLinear(3))
    model(IMAGES)
    with pytest.raises(UserError, match=expected) as raised:
        require_second_derivative(model, IMAGES)
    assert "\n" not in str(raised.value)


def test_a_function_outside_of_layers() -> None:
    """The model itself is named."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            squares: Tensor = Square.apply(images.flatten(1))  # type: ignore[no-untyped-call]
            return squares

    with pytest.raises(UserError, match=r"^the model has no second derivative"):
        require_second_derivative(Model(), IMAGES)


def test_a_model_without_a_gradient() -> None:
    """The first derivative is missing already."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)

    with pytest.raises(NoGradientError):
        require_second_derivative(Model(), IMAGES)


def test_the_model_stays_as_it_is() -> None:
    """Its mode, its parameters' gradients, its statistics and the random numbers."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3))
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    require_second_derivative(model, IMAGES)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_attention_is_differentiable_twice() -> None:
    """Its second derivative is that of finite differences, and outside of the context PyTorch has none."""
    model = _Attention()
    require_second_derivative(model, IMAGES)
    leaf = IMAGES.double().requires_grad_()
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(model, (leaf,))
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="is not implemented"):
        gradient.square().sum().backward()

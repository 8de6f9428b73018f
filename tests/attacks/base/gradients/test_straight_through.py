from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, from_numpy, nn

from robustbench_cli.attacks.base.gradients.straight_through import StraightThrough


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


class Reversed(torch.autograd.Function):
    """Doubles its input, and turns the gradient around."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(values)
        return 2 * values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -2 * gradient


class WithSetup(torch.autograd.Function):
    """The same with a context of its own."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * values

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -2 * gradient


def without_gradient(values: Tensor) -> Tensor:
    with torch.no_grad():
        return 3 * values


reversed_values = Reversed.apply
"""Bound before any surrogate exists."""


def through_numpy(values: Tensor) -> Tensor:
    return torch.from_numpy(3 * values.detach().numpy())


def through_imported_name(values: Tensor) -> Tensor:
    return from_numpy(3 * values.detach().numpy())


def through_bytes(values: Tensor) -> Tensor:
    rows = [torch.tensor(np.array((255 * row).round().byte().numpy()))[None] for row in values.detach().cpu()]
    return torch.cat(rows).float() / 255


def hooked(values: Tensor) -> Tensor:
    outputs = 3 * values
    outputs.register_hook(torch.neg)
    return outputs


def multiplied_in_place(values: Tensor) -> Tensor:
    outputs = 3 * values
    outputs *= values >= 0.5
    return outputs


def copied_in_place(values: Tensor) -> Tensor:
    outputs = 3 * values
    outputs[0] = values[0] < 0.5
    return outputs


CASES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "round": (lambda values: (3 * values).round() / 3, 1),
    "sign": (lambda values: values.sign(), 1),
    "detach": (lambda values: 3 * values.detach(), 3),
    "no_grad": (without_gradient, 3),
    "data": (lambda values: 3 * values.data, 3),
    "backward": (lambda values: Reversed.apply(values), 2),
    "setup_context": (lambda values: WithSetup.apply(values), 2),
    # The sigmoid of the width 0.1 has the slope 2.5 where both sides are equal.
    "above": (lambda values: (values >= 0.5).float(), 2.5),
    "below": (lambda values: (values < 0.5).to(torch.float32), -2.5),
    "by_keyword": (lambda values: torch.gt(input=values, other=0.5).float(), 2.5),
    "half_by_keyword": (lambda values: torch.gt(values, other=0.5).float(), 2.5),
    "where": (lambda values: torch.where(values < 0.5, 1.0, 3.0), 5),
    "where_of_values": (lambda values: torch.where(values >= 0.5, values, -values), 2.5),
    "product": (lambda values: 2.0 * (values >= 0.5), 5),
    "filled": (lambda values: torch.ones(2, 3).masked_fill(values >= 0.5, 0.0), -2.5),
    "filled_by_keyword": (lambda values: torch.ones(2, 3).masked_fill(mask=values >= 0.5, value=0.0), -2.5),
    # The shares of both masks are a half.
    "and": (lambda values: ((values >= 0.5) & (values >= 0.5)).float(), 2.5),
    "not": (lambda values: (~(values >= 0.5)).float(), -2.5),
    "moved": (lambda values: (values >= 0.5)[None].flip(1).squeeze(0).float(), 2.5),
    "whole": (lambda values: (4 * values).int() / 4, 1),
    "detached_mask": (lambda values: (values >= 0.5).detach().float(), 2.5),
    "floor_division": (lambda values: values // 0.25, 4),
    "bits": (lambda values: (((4 * values).int() >> 1 << 1) & 6) / 4, 1),
    "numpy": (through_numpy, 1),
    "imported_name": (through_imported_name, 1),
    "named_array": (lambda values: torch.tensor(data=values.detach().numpy()), 1),
    "bytes": (through_bytes, 1),
    "hook": (hooked, 3),
    "bound": (lambda values: reversed_values(values), 2),
    "second": (lambda values: torch.lt(torch.tensor(0.5), values).float(), 2.5),
    "second_operand": (lambda values: (torch.full((2, 3), 0.5) >= values).float(), -2.5),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_passes_and_the_outputs_stay(name: str) -> None:
    """The derivative is that of the identity, of the function itself or of a sigmoid (closed forms)."""
    function, slope = CASES[name]
    values = torch.full((2, 3), 0.5, requires_grad=True)
    model = StraightThrough(Function(function))
    outputs = model(values)
    assert torch.equal(outputs, function(values))
    (gradient,) = torch.autograd.grad(outputs.sum(), values)
    torch.testing.assert_close(gradient, torch.full((2, 3), float(slope)))
    assert model.replaced > 0


def test_a_one_hot_class_has_the_gradient_of_the_softmax() -> None:
    """The Jacobian of the softmax, in closed form."""
    values = torch.tensor([[0.3, 1.0, -0.5]], requires_grad=True)
    model = StraightThrough(Function(lambda logits: nn.functional.one_hot(logits.argmax(1), 3).float()))
    outputs = model(values)
    assert outputs.tolist() == [[0, 1, 0]]
    (gradient,) = torch.autograd.grad(outputs[0, 1], values)
    shares = values.detach().softmax(1)
    torch.testing.assert_close(gradient, shares[:, 1:2] * (torch.tensor([[0.0, 1.0, 0.0]]) - shares))


@pytest.mark.parametrize(
    ("function", "slopes"),
    [(multiplied_in_place, [[0, 3, 3], [0, 3, 3]]), (copied_in_place, [[0, 0, 0], [3, 3, 3]])],
)
def test_masks_change_a_tensor_in_place_once(function: Callable[[Tensor], Tensor], slopes: list[list[float]]) -> None:
    """The logits are those of the model; the gradient is cut at the mask."""
    values = torch.tensor([[0.3, 0.6, 0.8], [0.1, 0.5, 0.9]], requires_grad=True)
    outputs = StraightThrough(Function(function))(values)
    assert torch.equal(outputs, function(values))
    (gradient,) = torch.autograd.grad(outputs.sum(), values)
    assert gradient.tolist() == slopes


def test_a_plain_network_is_left_as_it_is() -> None:
    """Nothing is replaced, neither the logits nor the gradient change."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.GELU(), nn.Flatten(), nn.Linear(36, 5))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    leaf = images.clone().requires_grad_()
    model = StraightThrough(network)
    (own,) = torch.autograd.grad(network(leaf).square().sum(), leaf)
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    assert torch.equal(own, gradient)
    assert model.replaced == 0


def test_without_gradients_nothing_is_replaced() -> None:
    """As where an attack only asks for logits."""
    model = StraightThrough(Function(lambda values: Reversed.apply(values.round())))
    with torch.no_grad():
        assert model(torch.tensor([0.7])).tolist() == [2.0]
    assert model.replaced == 0


def test_custom_functions_are_restored_after_an_error() -> None:
    """Their own backward pass counts again outside of the model."""

    def fail(values: Tensor) -> Tensor:
        raise ValueError("no")

    values = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="no"):
        StraightThrough(Function(fail))(values)
    (gradient,) = torch.autograd.grad(Reversed.apply(values), values)
    assert gradient.item() == -2

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.representation_distance import RepresentationDistance
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.core.errors import UserError

CLEAN, MOVED = torch.rand(2, 6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
LABELS = torch.arange(6) % 3
THIRD = HiddenLayer("2")


class Noise(nn.Module):
    """Adds normal noise, or multiplies by it."""

    def __init__(self, *, multiplies: bool = False) -> None:
        super().__init__()
        self.multiplies = multiplies

    def forward(self, values: Tensor) -> Tensor:
        noise = torch.randn(len(values), 1)
        return values * noise if self.multiplies else values + 5 * noise


class Rounded(BPDALayer):
    """Rounds to quarters."""

    def exact(self, values: Tensor) -> Tensor:
        return (4 * values).round() / 4


def network(layer: nn.Module) -> nn.Sequential:
    """A network whose representation is the output of the third layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), layer, nn.Linear(5, 3)).eval().requires_grad_(False)


def source_of(model: nn.Module, eot: EOTChoice = 1, rows: int | None = None) -> GradientSource:
    source = MeasuredModel(model, CLEAN, BatchSize(rows)).source(eot)
    source.bind_draws(1, torch.arange(6))
    return source


def gradient(source: GradientSource, layer: HiddenLayer | None = THIRD, weight: float = 1) -> Tensor:
    """The gradient of the weighted distance alone."""
    distance = RepresentationDistance(layer, CLEAN, weight)
    return source.gradient_with_distance(MOVED, LABELS, None, distance)[1].flatten(1)


def closed_form(model: nn.Sequential) -> Tensor:
    """The gradient ``W^T W d / |W d|`` of the distance ``|W d|`` at the displacement d."""
    moves = (MOVED - CLEAN).flatten(1) @ model[1].weight.T
    return (moves / moves.norm(dim=1, keepdim=True)) @ model[1].weight


def test_its_gradient_on_a_linear_layer_has_a_closed_form() -> None:
    """It is that of ``|W d|``, times the weight, in the network and in its logits, which are linear too."""
    model = network(nn.Identity())
    torch.testing.assert_close(gradient(source_of(model)), closed_form(model))
    torch.testing.assert_close(gradient(source_of(model), weight=-2), -2 * closed_form(model))
    short = nn.Sequential(model[0], model[1])
    torch.testing.assert_close(gradient(source_of(short), layer=None), closed_form(short))


def test_both_images_have_the_same_draw() -> None:
    """Added noise cancels, in batches of any size; noise as a factor gives its mean absolute value as a factor."""
    model = network(Noise())
    for rows in (None, 4, 30):
        torch.testing.assert_close(gradient(source_of(model, 4, rows)), closed_form(model), rtol=1e-4, atol=1e-5)
    model = network(Noise(multiplies=True))
    ratio = gradient(source_of(model, 2000)) / closed_form(model)
    torch.testing.assert_close(ratio.mean(1), torch.full((6,), (2 / torch.pi) ** 0.5), rtol=0.1, atol=0)
    assert ratio.std(1).amax() < 1e-3


def test_it_follows_the_surrogate_of_a_layer() -> None:
    """The distance is that of the rounded values, the slope that of the identity (BPDA)."""
    model = network(Rounded())
    moves = model[:3](MOVED) - model[:3](CLEAN)
    expected = (moves / moves.norm(dim=1, keepdim=True)) @ model[1].weight
    torch.testing.assert_close(gradient(source_of(model)), expected)


def test_a_loss_is_added_and_the_passes_are_counted() -> None:
    """The gradient is the sum of both; logits are those of the images alone; the references cost a forward pass each."""
    model = network(nn.ReLU())
    source, alone = source_of(model), source_of(model)
    distance = RepresentationDistance(THIRD, CLEAN, 0.5)
    logits, together = source.gradient_with_distance(MOVED, LABELS, cross_entropy, distance)
    expected, of_loss = alone.gradient(MOVED, LABELS, cross_entropy)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(together.flatten(1), of_loss.flatten(1) + gradient(alone, weight=0.5))
    assert (source.forwards, source.backwards) == (12, 6)
    values = distance.added_to(cross_entropy)(torch.tensor([[1.0, 0.0, 4.0]]), torch.tensor([0]))
    torch.testing.assert_close(values, cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) + 2)


class Enumerated(nn.Module):
    """Three equally likely networks, one after the other in its enumeration."""

    number_of_draws, cost_of_all_draws = 3, 3.0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def all_draws(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images * factor) for factor in (0.5, 1.0, 2.0)])

    def forward(self, images: Tensor) -> Tensor:
        return self.all_draws(images)[torch.randint(3, (len(images),)), torch.arange(len(images))]


def test_all_draws_of_a_model() -> None:
    """Each draw is compared with the same one: the slopes are 0.5, 1 and 2 times that of one network."""
    model = Enumerated(network(nn.Identity()))
    expected = closed_form(model.model) * 3.5 / 3
    torch.testing.assert_close(gradient(source_of(model, "exact"), HiddenLayer("model.2")), expected)


def test_a_layer_must_have_a_row_for_each_image() -> None:
    """One that half of the images pass is refused in one line."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.even, self.odd = network(nn.ReLU()), network(nn.Tanh())

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([self.even(images[::2]), self.odd(images[1::2])])

    with pytest.raises(
        UserError, match=r"^layer 'even.2' has 3 rows for 6 images and 1 draws: give a layer that every"
    ):
        gradient(gradient_source(Branch(), randomized=False), HiddenLayer("even.2"))

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation
from robustbench_cli.attacks.base.losses import cross_entropy, margin
from robustbench_cli.core.errors import UserError

from .conftest import IMAGES, LABELS, Paths


@pytest.mark.parametrize("batch_size", [None, 3])
def test_several_losses_cost_one_pass_forward_and_one_back_each(batch_size: int | None) -> None:
    """The gradients of three logits equal those of three single calls, for one forward pass and three backward passes."""
    source, alone = ExactExpectation(Paths(), batch_size=batch_size), ExactExpectation(Paths(), batch_size=batch_size)
    logits, gradients = source.gradients(IMAGES, LABELS, lambda logits, labels: logits[:, :3])
    assert gradients.shape == (3, *IMAGES.shape)
    for column in range(3):
        expected, slope = alone.gradient(IMAGES, LABELS, lambda logits, labels, column=column: logits[:, column])
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(gradients[column], slope)
    assert (source.forwards, source.backwards) == (7 * 2.5, 3 * 7 * 2.5)
    assert (alone.forwards, alone.backwards) == (3 * 7 * 2.5, 3 * 7 * 2.5)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 7, 8, 100])
def test_cutting_the_batch_changes_no_result_of_a_deterministic_model(batch_size: int | None) -> None:
    """Logits and gradients are those of one backward pass over the whole batch."""
    model = Paths(draws=1)
    source = EOT(model, batch_size=batch_size)
    leaf = IMAGES.clone().requires_grad_()
    expected = model.path(0, leaf)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(expected, LABELS, reduction="sum"), leaf)
    logits, gradient = source.gradient(IMAGES, LABELS, cross_entropy)
    torch.testing.assert_close(logits[0], expected.detach())
    torch.testing.assert_close(gradient, slope)
    assert torch.equal(source.logits(IMAGES), logits)
    assert source.exhaustive
    assert max(model.rows) <= (batch_size or 7)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_pixels_of_a_gradient_may_share_memory(draws: int) -> None:
    """Autograd gives the gradient of a sum as one number, expanded to all pixels."""

    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = images.sum((1, 2, 3))
            return torch.stack([total, torch.zeros_like(total)], 1)

    source = EOT(Brightness(), draws=draws, randomized=draws > 1, batch_size=7)
    _, gradient = source.gradient(IMAGES, torch.zeros_like(LABELS), margin)
    torch.testing.assert_close(gradient, torch.ones_like(IMAGES))


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_passes_are_counted(batch_size: int | None) -> None:
    """An image costs one pass per draw, or the cost of all draws; backward passes count only for gradients."""
    for source, cost in (
        (EOT(Paths(), batch_size=batch_size), 1.0),
        (EOT(Paths(), draws=6, randomized=True, batch_size=batch_size), 6.0),
        (ExactExpectation(Paths(cost=2.5), batch_size=batch_size), 2.5),
    ):
        assert source.cost == cost
        source.logits(IMAGES)
        assert (source.forwards, source.backwards) == (7 * cost, 0)
        source.gradient(IMAGES[:2], LABELS[:2], cross_entropy)
        assert (source.forwards, source.backwards) == (9 * cost, 2 * cost)


def test_gradients_belong_to_the_input_alone() -> None:
    """No parameter gets a gradient, no image requires one afterwards, and the logits have no graph."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).requires_grad_(False)
    images = IMAGES.clone()
    logits, gradient = EOT(network).gradient(images, LABELS, cross_entropy)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not (logits.requires_grad or gradient.requires_grad or images.requires_grad)
    assert images.grad is None
    with torch.no_grad():
        torch.testing.assert_close(EOT(network).gradient(images, LABELS, cross_entropy)[1], gradient)


class Saturated(nn.Module):
    """A saturated softmax, whose gradient underflows for images above 1/2, which belong to class 0."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1).mean(1, keepdim=True) - 0.5) * torch.tensor([[1e5, -1e5]])


def test_vanished_gradients_are_counted() -> None:
    """The share counts images with a zero gradient whose goal is not reached."""
    images = torch.tensor([0.9, 0.8, 0.5, 0.2]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels = torch.tensor([0, 0, 0, 0])
    source = EOT(Saturated())
    assert source.zero_gradient_share == 0
    source.gradient(images, labels, cross_entropy)
    assert source.zero_gradient_share == 0.5
    source.gradient(images, labels, lambda logits, labels: -margin(logits, labels))
    assert source.zero_gradient_share == 0.25
    targeted = EOT(Saturated(), targeted=True, batch_size=3)
    targeted.gradient(images, 1 - labels, lambda logits, labels: margin(logits, labels).clamp_max(-1e9))
    assert targeted.zero_gradient_share == 0.75


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_loss_can_be_told_more_than_the_labels(batch_size: int | None) -> None:
    """The loss gets both columns row by row; the first one is the label."""
    images = torch.tensor([0.9, 0.8, 0.5, 0.2]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels_and_weights = torch.tensor([[0, 7], [0, 5], [0, 3], [0, 1]])
    source = EOT(Saturated(), batch_size=batch_size)
    _, gradient = source.gradient(
        images,
        labels_and_weights,
        lambda logits, labels_and_weights: labels_and_weights[:, 1] * cross_entropy(logits, labels_and_weights[:, 0]),
    )
    _, plain = source.gradient(images, labels_and_weights[:, 0], cross_entropy)
    torch.testing.assert_close(gradient, plain * labels_and_weights[:, 1].view(4, 1, 1, 1))
    assert source.zero_gradient_share == 0.5


class Roots(nn.Module):
    """Logits of square roots: the slope at 0 is infinite, and 0 times this slope is NaN."""

    def forward(self, images: Tensor) -> Tensor:
        roots = images.flatten(1).sqrt()
        return torch.stack([roots.sum(1), (0 * roots).sum(1)], 1)


def test_a_slope_that_is_not_finite_is_none() -> None:
    """A pixel with an infinite slope gets slope 0 and does not affect the others."""
    images = torch.tensor([[0.0, 0.25, 1.0]]).view(1, 1, 1, 3)
    _, gradient = EOT(Roots()).gradient(images, torch.tensor([0]), lambda logits, labels: -margin(logits, labels))
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.0, -1.0, -0.5]))


class CutOff(nn.Module):
    """Computes the logits outside of the graph."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor(images.detach().flatten(1)[:, :2].numpy())


def test_a_model_without_a_gradient_is_one_line() -> None:
    """A model that detaches its input raises an error and does not count as one with a zero gradient."""
    with pytest.raises(UserError, match="the model has no gradient"):
        EOT(CutOff()).gradient(IMAGES, LABELS, cross_entropy)


def test_memory_that_does_not_suffice_halves_the_batch() -> None:
    """A model that fits two rows returns the same results after some halvings; one that fits none fails."""
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(5))

    def model(images: Tensor, largest: int = 2) -> Tensor:
        if len(images) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (images.flatten(1) @ weight).tanh()

    source = EOT(model)  # type: ignore[arg-type]
    logits, gradient = source.gradient(IMAGES, LABELS, margin)
    alone = [EOT(model).gradient(IMAGES[row : row + 1], LABELS[row : row + 1], margin) for row in range(7)]  # type: ignore[arg-type]
    torch.testing.assert_close(logits, torch.cat([result[0] for result in alone], dim=1))
    torch.testing.assert_close(gradient, torch.cat([result[1] for result in alone]))
    assert source.size.rows is not None
    assert source.size.rows <= 3
    with pytest.raises(UserError, match="out of memory with a batch of one image"):
        EOT(lambda images: model(images, 0)).logits(IMAGES)  # type: ignore[arg-type, return-value]


def test_gradients_in_bf16_point_the_same_way_and_decisions_are_in_float32() -> None:
    """Nearly all signs of the gradient agree, and logits without a gradient are computed in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    exact, low = EOT(model), EOT(model, precision="bf16")
    _, expected = exact.gradient(IMAGES, LABELS, margin)
    logits, gradient = low.gradient(IMAGES, LABELS, margin)
    assert logits.dtype == torch.bfloat16
    assert gradient.dtype == torch.float32
    assert (gradient.sign() == expected.sign()).double().mean() > 0.95
    assert not torch.equal(gradient, expected)
    assert torch.equal(low.logits(IMAGES), exact.logits(IMAGES))


def test_an_option_that_no_source_has_is_an_error() -> None:
    """A misspelled option is not ignored."""
    with pytest.raises(TypeError, match="unknown options: batchsize"):
        EOT(Paths(), batchsize=3)  # type: ignore[call-arg]

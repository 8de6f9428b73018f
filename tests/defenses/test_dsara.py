from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.searched_network import SearchedNetwork
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.dsara import DSARA, min_norm_weight

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 3


def network() -> nn.Module:
    """Its number of classes is all that counts."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def searched() -> SearchedNetwork:
    torch.manual_seed(0)
    model = SearchedNetwork(4, 1, channels=1, classes=3)
    model.begin_search()
    model.alphas.normal_()
    return model.double().train()


@pytest.mark.parametrize("seed", range(5))
def test_the_combination_has_the_smallest_norm(seed: int) -> None:
    """Of a grid of 10,001 weights; and it descends both losses, or is nearly 0."""
    torch.manual_seed(seed)
    first, second = torch.randn(2, 3, 5, dtype=torch.float64) * torch.tensor([1.0, 10.0**-seed]).reshape(2, 1, 1)
    grid = np.linspace(0, 1, 10_001)
    norms = [np.linalg.norm(weight * first + (1 - weight) * second) for weight in grid]
    weight = min_norm_weight(first, second)
    assert weight.item() == pytest.approx(grid[int(np.argmin(norms))], abs=1e-4)
    combined = weight * first + (1 - weight) * second
    square = combined.square().sum()
    assert (combined * first).sum() >= square - 1e-9
    assert (combined * second).sum() >= square - 1e-9


def test_equal_gradients_have_their_own_direction() -> None:
    gradient = torch.ones(3, 5, 5)
    assert torch.equal(DSARA(adversarial=1).combined([gradient, gradient]), gradient)
    assert torch.equal(DSARA().combined([gradient]), gradient)


def test_the_adversarial_loss_counts_less() -> None:
    """Its gradient, scaled to (0, 0.1), is the shorter one; the weight of (1, 0) is 0.01 / 1.01."""
    adversarial, natural = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    expected = torch.tensor([0.01, 0.1]) / 1.01
    torch.testing.assert_close(DSARA().combined([adversarial, natural]), expected)


@pytest.mark.parametrize("virtual_step", [0, 0.1])
def test_the_gradient_of_the_architecture_is_that_of_finite_differences(virtual_step: float) -> None:
    """Through the virtual step of the weights, which the loss of another batch determines. The statistics stay."""
    model = searched()
    defense, images = DSARA(virtual_step=virtual_step), IMAGES.double()
    training, other = (images[:3], LABELS[:3]), (images[3:], LABELS[3:])
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    (gradient,) = defense.architecture_gradients(model, training, [other])
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    direction = torch.randn(3, 5, 5, dtype=torch.float64)

    def loss(step: float) -> Tensor:
        model.alphas.copy_(buffers["alphas"] + step * direction)
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
        if virtual_step:
            functional.cross_entropy(model(training[0]), training[1]).backward()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.data -= virtual_step * parameter.grad
                parameter.grad = None
        return functional.cross_entropy(model(other[0]), other[1]).detach()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-9)


def test_the_halves_and_the_stages(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights' images are never the architecture's. The natural loss counts in the second stage only."""
    train, _ = digits
    numbers, steps, losses = {}, [], []
    for number, image in enumerate(train.images[:40]):
        numbers[image.numpy().tobytes()] = number
    gradients_of, batch_of = DSARA.architecture_gradients, Trainer.batch

    def gradients(defense: DSARA, model: SearchedNetwork, training: Any, batches: Any) -> list[Tensor]:
        losses.append(len(batches))
        return gradients_of(defense, model, training, batches)

    def batch(trainer: Trainer, indices: Tensor) -> tuple[Tensor, Tensor]:
        steps.append((set(trainer.train_indices.tolist()), set(indices.tolist())))
        return batch_of(trainer, indices)

    monkeypatch.setattr(DSARA, "architecture_gradients", gradients)
    monkeypatch.setattr(Trainer, "batch", batch)
    examples = train.images[:40], train.labels[:40]
    defend(network(), DSARA(steps=1, eps=0.05, width=1, first_stage=0.5), examples, epochs=8, batch_size=20)
    assert losses == [1, 1, 2, 2]
    for for_weights, for_architecture in steps:
        assert len(for_weights) == 20
        assert not for_weights & for_architecture


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resumed_training_ends_with_the_same_weights(assert_resumes: Callable[..., None], stop: int) -> None:
    """Whether it stops in the search, just after it, or in the training behind it."""
    assert_resumes(DSARA(steps=1, eps=0.05, width=1, search=0.3), network, stop)


def test_one_image_cannot_be_halved() -> None:
    with pytest.raises(UserError, match="dsara divides the training images into halves: give at least two"):
        defend(nn.Flatten(), DSARA(), (IMAGES[:1], LABELS[:1]), epochs=1)

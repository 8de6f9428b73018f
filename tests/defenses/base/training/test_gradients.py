from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.gradients import (
    cross_entropy,
    gradients_of,
    label_loss,
    smoothing_labels,
)
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer

CPU = torch.device("cpu")


def test_gradients_of_a_linear_model() -> None:
    """The gradient of the cross-entropy is the softmax minus the label, times the input; unused parameters have none."""
    layer, unused = nn.Linear(3, 2, bias=False), nn.Parameter(torch.ones(2))
    images, labels = torch.rand(5, 3), torch.tensor([0, 1, 1, 0, 1])
    loss, (gradient, missing) = gradients_of(cross_entropy)(layer, images, labels, [layer.weight, unused])
    logits = layer(images)
    torch.testing.assert_close(loss, (logits.logsumexp(1) - logits[range(5), labels]).mean())
    assert gradient is not None
    torch.testing.assert_close(gradient, (logits.softmax(1) - torch.eye(2)[labels]).T @ images / 5)
    assert missing is None
    assert layer.weight.grad is None


def test_a_model_without_gradients(digits: Any) -> None:
    """A model whose logits are detached from its weights is a usage error."""
    train, _ = digits

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(images.flatten(1)).detach()

    with pytest.raises(UserError, match=r"cannot be trained.*give a --checkpoint"):
        Trainer(train, Recipe(epochs=1), seed=0, device=CPU).fit(Detached(), name="detached")


def test_a_custom_loss(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """A loss gets the network in train() mode and may compute gradients with respect to the images."""
    train, _ = digits
    modes: list[bool] = []

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        modes.append(network.training)
        leaf = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(leaf), labels), leaf)
        return nn.functional.cross_entropy(network(images + 0.1 * gradient.sign()), labels)

    model = normed()
    before = model[0].weight.detach().clone()
    Trainer(train, Recipe(epochs=1), seed=0, device=CPU).fit(model, name="adversarial", loss=loss)
    assert len(modes) == 11
    assert all(modes)
    assert not torch.equal(model[0].weight, before)


def test_weights_of_images() -> None:
    """The loss is the mean of the weighted cross-entropies, also of smooth labels."""
    logits, labels, weights = torch.randn(6, 5), torch.tensor([0, 1, 4, 3, 2, 2]), torch.rand(6)
    with smoothing_labels(0.3):
        loss = label_loss(logits, labels, weights)
    losses = -((0.06 + 0.7 * torch.eye(5)[labels]) * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(loss, weights @ losses / 6)


def test_label_smoothing() -> None:
    """The loss is that of labels with 1 - s + s / K at the class and s / K elsewhere; without a context, of the labels."""
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 4, 3, 2, 2])
    log_p = logits.log_softmax(1)
    torch.testing.assert_close(label_loss(logits, labels), -log_p[range(6), labels].mean())
    with smoothing_labels(0.3) as smoothing:
        assert not smoothing.used
        loss = label_loss(logits, labels)
        assert smoothing.used
    smooth = 0.06 + 0.7 * torch.eye(5)[labels]
    torch.testing.assert_close(loss, -(smooth * log_p).sum(1).mean())
    torch.testing.assert_close(label_loss(logits, labels), -log_p[range(6), labels].mean())

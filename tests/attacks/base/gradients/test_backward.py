from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.backward import BackwardPasses
from robustbench_cli.attacks.base.models.passes import BatchSize

from .conftest import IMAGES


class Doubled(torch.autograd.Function):
    """Twice the input, as an operation that vmap cannot batch."""

    @staticmethod
    def forward(context: object, rows: Tensor) -> Tensor:
        return 2 * rows

    @staticmethod
    def backward(context: object, slopes: Tensor) -> Tensor:
        return 2 * slopes.add_(float(slopes.sum()) * 0)


class Custom(nn.Module):
    """A layer of :class:`Doubled`."""

    def forward(self, rows: Tensor) -> Tensor:
        doubled: Tensor = Doubled.apply(rows)
        return doubled


def _model(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), *layers)
    return network.append(nn.Linear(4, 5)).requires_grad_(False)


def _jacobian(model: nn.Module) -> Tensor:
    """``(5, N, C, H, W)``: the gradients of every class, by torch's own Jacobian of each image."""
    rows = [torch.autograd.functional.jacobian(model, image[None])[0, :, 0] for image in IMAGES]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("rows", [None, 14, 1])
def test_the_gradients_of_every_class_are_the_jacobian(together: bool, rows: int | None) -> None:
    """Together, in parts of as many classes as fit into the batch, or one class after another."""
    model = _model()
    leaf = IMAGES.clone().requires_grad_()
    logits = model(leaf).unsqueeze(0)
    slopes = torch.eye(5).view(5, 1, 1, 5).expand(5, 1, len(IMAGES), 5)
    gradients = BackwardPasses(BatchSize(rows), together=together)(logits, leaf, slopes)
    torch.testing.assert_close(gradients, _jacobian(model))


def test_a_model_that_vmap_cannot_batch_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The classes are computed one after another, to the same gradients, and one line says so."""
    model = _model(Custom())
    passes = BackwardPasses(BatchSize(), together=True)
    slopes = torch.eye(5).view(5, 1, 1, 5).expand(5, 1, len(IMAGES), 5)
    for _ in range(2):
        leaf = IMAGES.clone().requires_grad_()
        with caplog.at_level(logging.WARNING):
            gradients = passes(model(leaf).unsqueeze(0), leaf, slopes)
        torch.testing.assert_close(gradients, _jacobian(model))
    assert len(caplog.messages) == 1
    assert "one after another" in caplog.text and "\n" not in caplog.messages[0]

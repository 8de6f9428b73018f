from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.j_sigr import JSIGR, patch_saliency, squared_jacobian_norm

from ..once_differentiable import Squares


def exact_squared_norms(network: nn.Module, images: Tensor) -> Tensor:
    """The squared Frobenius norm of each image's Jacobian, by torch's own Jacobian."""
    # An image's logits depend on no other image, so the Jacobian of the sum has those of all images.
    jacobian = torch.autograd.functional.jacobian(lambda rows: network(rows).sum(0), images)
    return jacobian.square().sum((0, 2, 3, 4))


def test_the_estimate_of_the_jacobian_norm_is_unbiased(network: Callable[[], nn.Module]) -> None:
    """On ten points its mean is within four standard errors of the exact norm, and the error is small."""
    model = network()
    images = torch.rand(10, 1, 8, 8)
    exact = exact_squared_norms(model, images)
    leaf = images.repeat_interleave(100, 0).requires_grad_()
    estimates = squared_jacobian_norm(model(leaf), leaf, 1).detach().view(10, 100)
    error = estimates.std(1) / 10
    assert ((estimates.mean(1) - exact).abs() < 4 * error).all()
    assert (error < 0.2 * exact).all()
    several = squared_jacobian_norm(model(leaf), leaf, 3).detach().view(10, 100)
    assert (several.std(1) < 0.8 * estimates.std(1)).all()


def blurred_patch_by_patch(images: np.ndarray, grid: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Each patch, and the images with that patch blurred, pixel by pixel."""
    height, width = images.shape[2:]
    rows = np.array_split(np.arange(height), grid)
    columns = np.array_split(np.arange(width), grid)
    down, right = -(-height // grid), -(-width // grid)
    patches = []
    for row in rows:
        for column in columns:
            changed = images.copy()
            for i in row:
                for j in column:
                    window = images[:, :, max(0, i - down) : i + down + 1, max(0, j - right) : j + right + 1]
                    changed[:, :, i, j] = window.mean((2, 3))
            patches.append((slice(row[0], row[-1] + 1), slice(column[0], column[-1] + 1), changed))
    return patches


def test_patch_saliency_is_that_of_a_loop() -> None:
    """Over patches and pixels, on images that are no multiple of the grid."""
    torch.manual_seed(1)
    images = torch.rand(3, 2, 8, 12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Dropout())
    expected = np.zeros((3, 8, 12), dtype=np.float32)
    weight, bias = (parameter.detach().numpy() for parameter in model.parameters())

    def probabilities(batch: np.ndarray) -> np.ndarray:
        logits = np.exp(batch.reshape(3, -1) @ weight.T + bias)
        return logits / logits.sum(1, keepdims=True)

    for rows, columns, changed in blurred_patch_by_patch(images.numpy(), 4):
        moved = probabilities(changed) - probabilities(images.numpy())
        expected[:, rows, columns] = 0.5 * (moved**2).sum(1)[:, None, None]
    torch.testing.assert_close(patch_saliency(model, images, 4), torch.from_numpy(expected))


def test_the_loss_in_closed_form() -> None:
    """A linear model's input gradient is W^T (p - y). Of it, the unimportant patches are penalized."""
    torch.manual_seed(2)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    defense = JSIGR(jacobian_weight=0, gradient_weight=0.7, grid=2, threshold=0.5)
    logits = model(images)
    gradient = ((logits.softmax(1) - functional.one_hot(labels, 3)) @ model[1].weight).view(6, 8, 8)
    saliency = patch_saliency(model, images, 2)
    unimportant = saliency < 0.5 * saliency.flatten(1).amax(1)[:, None, None]
    penalty = (gradient * unimportant).square().sum((1, 2)).mean()
    expected = functional.cross_entropy(logits, labels) + 0.7 * penalty
    value = defense.loss(model, images, labels)
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(
        torch.autograd.grad(value, [*model.parameters()]),
        torch.autograd.grad(expected, [*model.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    # Every vector has the same projection onto the rows of an orthogonal W: ||J||^2 is K.
    model[1].weight.data = torch.linalg.qr(torch.randn(64, 3))[0].T
    value = JSIGR(jacobian_weight=0.5, gradient_weight=0).loss(model, images, labels)
    torch.testing.assert_close(value, functional.cross_entropy(model(images), labels) + 0.5 * 3)


def test_training_works(digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """The Jacobian and the input gradient on unimportant patches fall to a third; an attack on the margin leaves more."""
    train, test = digits
    some = type(test)(test.images[:100], test.labels[:100])
    norms, robust, masses = [], [], []
    for jacobian_weight, gradient_weight in ((0, 0), (0.01, 0.1)):
        torch.manual_seed(0)
        defense = JSIGR(jacobian_weight=jacobian_weight, gradient_weight=gradient_weight, grid=2, threshold=0.5)
        model = defend(network(), defense, (train.images[:500], train.labels[:500]), epochs=5, lr=0.01, batch_size=64)
        perturbed = CWPGD(steps=10)(model, some.images, some.labels, eps=0.15)
        norms.append(exact_squared_norms(model, some.images).mean())
        robust.append(accuracy(model, type(test)(perturbed, some.labels)))
        leaf = some.images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), some.labels, reduction="sum"), leaf)
        saliency = patch_saliency(model, some.images, 2)
        unimportant = saliency < 0.5 * saliency.amax((1, 2), keepdim=True)
        masses.append((gradient[:, 0].square() * unimportant).sum())
    assert norms[1] < norms[0] / 3
    assert robust[1] > robust[0] + 0.1
    assert masses[1] < masses[0] / 3


def test_a_layer_without_a_second_derivative(digits: Any) -> None:
    """It is named before the training begins."""
    model = nn.Sequential(nn.Flatten(), Squares(), nn.Linear(64, 10))
    with pytest.raises(UserError, match=r"layer '1' \(Squares\) has no second derivative"):
        defend(model, JSIGR(), (digits[0].images[:100], digits[0].labels[:100]), epochs=1)

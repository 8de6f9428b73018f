from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from robustbench_cli.defenses.mart import MART


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_the_loss(normed: Callable[[], nn.Module], beta: float) -> None:
    """It equals the paper's formula, row by row, in numpy's float64 with scipy's softmax and relative entropy."""
    network = normed().eval()
    images, perturbed = torch.rand(2, 20, 1, 8, 8)
    labels = torch.randint(10, (20,))
    value = MART(beta=beta).batch_loss(lambda rows: 20 * network(rows), images, perturbed, labels)
    with torch.no_grad():
        clean, attacked = (softmax(20 * network(rows).double().numpy(), axis=1) for rows in (images, perturbed))
    rows = []
    for p, q, label in zip(clean, attacked, labels.numpy(), strict=True):
        boosted = -np.log(q[label]) - np.log(1 - np.delete(q, label).max())
        rows.append(boosted + beta * rel_entr(p, q).sum() * (1 - p[label]))
    assert value.item() == pytest.approx(np.mean(rows), rel=1e-4)


def test_a_gradient_where_the_network_is_sure() -> None:
    """For a confident wrong prediction the loss and its gradient are finite and follow the closed form."""
    logits = torch.tensor([[0.0, 300.0, 0.0]], requires_grad=True)

    def forward(images: Tensor) -> Tensor:
        return logits

    images = torch.zeros(1, 1, 1, 1)
    value = MART(beta=0).batch_loss(forward, images, images, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, logits)
    # -log p_0 is 300; 1 - p_1 is 2 exp(-300), and so -log(1 - p_1) is 300 - log 2.
    assert value.item() == pytest.approx(600 - np.log(2), rel=1e-5)
    torch.testing.assert_close(gradient, torch.tensor([[-1.5, 2.0, -0.5]]))

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.metrics.pairwise import rbf_kernel as peer_kernel
from torch import Tensor

from robustbench_cli.defenses.base.kernels import neural_tangent_kernel, rbf_kernel


def empirical_kernel(inputs: Tensor, depth: int, width: int) -> Tensor:
    """The products of the exact gradients of a finite network at its initial weights.

    Args:
        inputs: ``(N, d)``.
        depth: The number of hidden layers.
        width: The number of neurons in each.
    """
    sizes = [inputs.shape[1], *[width] * depth, 1]
    weights = [torch.randn(fan_out, fan_in, requires_grad=True) for fan_in, fan_out in pairwise(sizes)]
    gradients = []
    for row in inputs:
        # The weights have unit variance, and the factors are outside, so that each layer has its share in the kernel.
        features = weights[0] @ row / math.sqrt(len(row))
        for weight in weights[1:]:
            features = weight @ features.relu() * math.sqrt(2 / width)
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(features[0], weights)]))
    matrix = torch.stack(gradients)
    return matrix @ matrix.T


@pytest.mark.parametrize("depth", [1, 3])
def test_the_kernel_is_that_of_wide_networks(depth: int) -> None:
    """The exact gradients of eight networks of 512 neurons a layer give it within 8 %, four standard errors."""
    inputs = torch.tensor([[1.0, 0.0, 2.0], [0.5, 1.0, -1.0], [-1.0, 0.2, 0.1]])
    empirical = torch.stack([empirical_kernel(inputs, depth, 512) for _ in range(8)]).mean(0)
    kernel = neural_tangent_kernel(inputs, inputs, depth)
    assert ((kernel - empirical).abs() <= 0.08 * kernel.diagonal().max()).all()


def test_one_layer_by_integration() -> None:
    """The kernel of one hidden layer is an expectation over the directions of its weights in the plane of two inputs."""
    first, second = np.array([2.0, 0.0]), np.array([-0.3, 0.5])

    def expectation(slope: bool) -> float:
        def value(angle: float) -> float:
            direction = np.array([math.cos(angle), math.sin(angle)])
            projections = direction @ first, direction @ second
            if min(projections) <= 0:
                return 0.0
            return 1.0 if slope else 2 * projections[0] * projections[1]

        # The squared length of a standard normal vector in the plane has the mean 2.
        breaks = sorted({math.atan2(*vector) + turn for vector in (first, second) for turn in (0, math.pi)})
        return quad(value, -math.pi, math.pi, points=breaks, limit=200)[0] / (2 * math.pi)

    expected = 2 * expectation(slope=False) / 2 + 2 * expectation(slope=True) * (first @ second) / 2
    inputs = torch.from_numpy(np.stack([first, second]))
    assert neural_tangent_kernel(inputs[:1], inputs[1:], 1).item() == pytest.approx(expected, rel=1e-4)


def test_the_rbf_kernel_is_that_of_scikit_learn() -> None:
    """On rows far from the origin, where squared distances lose digits."""
    first, second = torch.rand(5, 7, dtype=torch.float64) + 3, torch.rand(4, 7, dtype=torch.float64) + 3
    expected = torch.from_numpy(peer_kernel(first.numpy(), second.numpy(), gamma=0.7))
    torch.testing.assert_close(rbf_kernel(first, second, 0.7), expected)


def test_gradients() -> None:
    """They are those of finite differences, and finite for equal, opposite and zero rows."""
    first, second = torch.rand(3, 4, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    for kernel, parameter in ((neural_tangent_kernel, 2), (rbf_kernel, 0.5)):
        inputs = (first.requires_grad_(), second.requires_grad_())
        assert torch.autograd.gradcheck(lambda a, b, k=kernel, p=parameter: k(a, b, p), inputs)
    row = torch.rand(1, 4)
    rows = torch.cat([row, row, -row, 0 * row]).requires_grad_()
    matrix = neural_tangent_kernel(rows, rows, 2)
    torch.testing.assert_close(matrix.diagonal()[:3], 3 * rows.detach().square().mean(1)[:3], rtol=2e-3, atol=0)
    (gradient,) = torch.autograd.grad(matrix.sum(), rows)
    assert gradient.isfinite().all()

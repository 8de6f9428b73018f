from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.certification.bounds.operations import Add, Affine, Box, Exact, Reshape, Scale
from robustbench_cli.benchmarks.certification.bounds.rows import Rows

SHAPE = (4, 7, 6)

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1)},
    {"kernel_size": 3, "stride": 2, "padding": (1, 0), "bias": False},
    {"kernel_size": 3, "dilation": (2, 1), "padding": 2},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 2, "groups": 4, "stride": 2},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 1, "stride": 3, "padding": "valid"},
]


def require_same_as_autograd(operation: Exact, function: Callable[..., Tensor], *inputs: Tensor, whole: bool) -> None:
    """Linear functions of the outputs have the gradient of torch's own layer as their coefficients, and the same values."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    outputs = function(*leaves)
    count = outputs[0].numel()
    sign = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).double()
    rows = Rows.of_values(torch.arange(count), sign, operation.shape)
    rows = rows.spread() if whole else rows
    image = torch.zeros(count, dtype=torch.long)
    parts, constant = operation.back(rows, image)
    total = torch.zeros(count, dtype=torch.float64) + constant
    for position, part in enumerate(parts):
        total = total + part.times(leaves[position].detach(), image)
        coefficients = part.spread().coefficients.permute(0, 3, 1, 2)
        for number in range(0, count, 7):
            (gradient,) = torch.autograd.grad(outputs.flatten()[number], leaves[position], retain_graph=True)
            torch.testing.assert_close(coefficients[number], sign[number] * gradient[0])
    torch.testing.assert_close(total, sign * outputs.detach().flatten())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_convolutions(settings: dict[str, Any], whole: bool) -> None:
    """In windows and in whole planes."""
    layer = nn.Conv2d(SHAPE[0], 4, **settings).double()
    images = torch.rand(1, *SHAPE).double()
    shape = layer(images).shape[1:]
    operation = Affine([0], (shape[0], shape[1], shape[2]), layer, SHAPE[1:])
    require_same_as_autograd(operation, layer, images, whole=whole)


@pytest.mark.parametrize("whole", [False, True])
def test_other_affine_operations(whole: bool) -> None:
    """Fully connected layers, scales, reshapes, sums and differences."""
    images, others = torch.rand(2, 1, *SHAPE).double()
    layer = nn.Linear(10, 7).double()
    linear = Affine([0], (7, 1, 1), layer, (1, 1))
    features = torch.rand(1, 10, 1, 1).double()
    require_same_as_autograd(linear, lambda values: layer(values.flatten(1))[:, :, None, None], features, whole=whole)
    scale, shift = torch.randn(2, SHAPE[0], 1, 1).double()
    require_same_as_autograd(
        Scale([0], SHAPE, scale, shift, shift.abs()), lambda values: values * scale + shift, images, whole=whole
    )
    flat = Reshape([0], (4 * 7 * 6, 1, 1), SHAPE)
    require_same_as_autograd(flat, lambda values: values.flatten(1)[:, :, None, None], images, whole=whole)
    for sign in (1, -1):
        require_same_as_autograd(
            Add([0, 1], SHAPE, sign), lambda one, two, sign=sign: one + sign * two, images, others, whole=whole
        )


@pytest.mark.parametrize("settings", CONVOLUTIONS[:3], ids=str)
def test_the_bounds_contain_single_precision(settings: dict[str, Any]) -> None:
    """The layer in single precision, at random points of the box and at its corners, stays within the bounds."""
    layer = nn.Conv2d(SHAPE[0], 5, **settings)
    low = torch.randn(1, *SHAPE)
    high = low + 0.1 * torch.rand_like(low)
    shape = layer(low).shape[1:]
    operation = Affine([0], (shape[0], shape[1], shape[2]), layer, SHAPE[1:])
    box = operation.box(Box(low.double(), high.double()))
    share = torch.rand(200, *SHAPE)
    share[::2] = share[::2].round()
    with torch.no_grad():
        outputs = layer(torch.minimum(low + share * (high - low), high)).double()
    assert ((outputs >= box.low) & (outputs <= box.high)).all()
    assert box.error is not None
    assert 0 < float(box.error.max()) < 1e-4

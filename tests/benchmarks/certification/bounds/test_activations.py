from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.certification.bounds.activations import Curved, Lines, MaxPool, Rectifier, curve_of
from robustbench_cli.benchmarks.certification.bounds.operations import Box
from robustbench_cli.benchmarks.certification.bounds.rows import Rows

CURVES = [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(), nn.Tanh()]


def intervals() -> tuple[Tensor, Tensor]:
    """Ends ``(1, 500, 1, 1)`` of narrow and wide intervals, some of a single point."""
    low = 6 * torch.randn(500).double()
    width = torch.cat([10 * torch.rand(300), 1e-4 * torch.rand(150), torch.zeros(50)]).double()
    return low[None, :, None, None], (low + width)[None, :, None, None]


def gaps(lines: Lines, layer: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """How far the line below is below the curve, and the line above is above it, on a grid: ``(2001, 500)``."""
    points = torch.linspace(0, 1, 2001).double()[:, None, None, None] * (high - low) + low
    shift = 0.0 if lines.low_shift is None else lines.low_shift
    below = layer(points) - lines.low_slope * points - shift
    above = lines.high_slope * points + lines.high_shift - layer(points)
    return below.flatten(1), above.flatten(1)


@pytest.mark.parametrize("layer", CURVES, ids=str)
def test_smooth_activations_on_a_fine_grid(layer: nn.Module) -> None:
    """Both lines stay on their side of the curve and touch it."""
    low, high = intervals()
    curve = curve_of(layer)
    assert curve is not None
    operation = Curved([0], (500, 1, 1), curve)
    below, above = gaps(operation.lines(Box(low, high)), layer, low, high)
    assert float(below.min()) >= 0
    assert float(above.min()) >= 0
    # The grid is 1/2000 of at most 10 wide, and no curve bends by more than 1: the gap is at most (10 / 4000)^2 / 2.
    assert float(below.amin(0).max()) < 1e-5
    assert float(above.amin(0).max()) < 1e-5


@pytest.mark.parametrize("layer", CURVES, ids=str)
def test_bounds_of_smooth_activations(layer: nn.Module) -> None:
    """They contain the values on a grid, in single precision too, and are reached by them."""
    low, high = intervals()
    curve = curve_of(layer)
    assert curve is not None
    box = Curved([0], (500, 1, 1), curve).box(Box(low, high))
    points = torch.linspace(0, 1, 2001).double()[:, None, None, None] * (high - low) + low
    # Rounding to single precision may leave the interval.
    single = points.float()
    values = layer(torch.where((single.double() >= low) & (single.double() <= high), single, torch.nan)).double()
    assert not ((values < box.low) | (values > box.high)).any()
    exact = layer(points)
    torch.testing.assert_close(exact.amin(0, keepdim=True), box.low, atol=2e-5, rtol=0)
    torch.testing.assert_close(exact.amax(0, keepdim=True), box.high, atol=2e-5, rtol=0)


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_rectifiers_on_a_fine_grid(slope: float) -> None:
    """Both lines stay on their side; the line above is the chord, which no line above can be better than."""
    low, high = intervals()
    layer = nn.LeakyReLU(slope)
    lines = Rectifier([0], (500, 1, 1), slope).lines(Box(low, high))
    below, above = gaps(lines, layer, low, high)
    assert float(below.min()) >= -1e-12
    assert float(above.min()) >= -1e-12
    torch.testing.assert_close(above[[0, -1]], torch.zeros(2, 500).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (1, 2), "stride": 1}],
)
def test_max_pooling(settings: dict[str, Any]) -> None:
    """At random points and corners of the box, the functions of the inputs are below those of torch's outputs."""
    layer = nn.MaxPool2d(**settings)
    shape = (3, 6, 7)
    low = torch.randn(2, *shape).double()
    high = low + 2 * torch.rand_like(low) * (torch.rand_like(low) < 0.7)
    outputs = layer(low).shape[1:]
    operation = MaxPool([0], (outputs[0], outputs[1], outputs[2]), layer, shape[1:])
    count = outputs.numel()
    index = torch.arange(count).repeat(4)
    image = torch.tensor([0, 1]).repeat_interleave(2 * count)
    sign = torch.tensor([1.0, -1.0]).double().repeat_interleave(count).repeat(2)
    rows = Rows.of_values(index, sign, operation.shape)
    box = operation.box(Box(low, high))
    lines = operation.lines(Box(low, high))
    decided = ~operation.loose(Box(low, high))
    for windows in (rows, rows.spread()):
        before, constant = operation.back_through(windows, lines, image)
        for number in range(50):
            share = torch.rand_like(low)
            values = low + (share.round() if number % 2 else share) * (high - low)
            pooled = layer(values)
            assert ((pooled >= box.low) & (pooled <= box.high)).all()
            true = sign * pooled.flatten(1)[image, index]
            assert (before.times(values, image) + constant <= true + 1e-12).all()
    # Inputs that are never the largest, or always, need no tighter bounds.
    assert decided.any()
    assert not decided.all()


def test_lines_of_some_images() -> None:
    """The lines of images are selected in order, and missing values stay missing."""
    low, high = intervals()
    lines = Rectifier([0], (1, 1, 1), 0.0).lines(Box(low.transpose(0, 1), high.transpose(0, 1)))
    part = lines.select(torch.tensor([3, 1]))
    assert part.low_shift is None
    torch.testing.assert_close(part.high_slope, lines.high_slope[[3, 1]])

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer, resnet18
from torchvision.ops import deform_conv2d

from robustbench_cli.attacks.base.models.operations import multiply_accumulates


class Attention(nn.Module):
    """Self-attention without weights."""

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv2d(4, 8, 3, groups=2, dilation=2), (4, 9, 9)),
        (nn.ConvTranspose2d(4, 8, 3, stride=2), (4, 9, 9)),
        (Attention(), (2, 8, 16)),
        (resnet18(num_classes=10), (3, 32, 32)),
        (VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3), (3, 16, 16)),
    ],
)
def test_it_counts_as_torch_does(model: nn.Module, shape: tuple[int, ...]) -> None:
    images, count = torch.zeros(1, *shape), multiply_accumulates(model, torch.zeros(1, *shape))
    assert count is not None
    # With gradients, torch does not fuse attention to an operation that it does not count.
    with FlopCounterMode(display=False) as counter:
        model.eval()(images)
    assert 2 * count == counter.get_total_flops() > 0


def test_a_convolution_is_counted_as_by_hand() -> None:
    """Each of 3 x 3 outputs in 8 channels is a sum over 2 x 2 pixels in 5 channels."""
    assert multiply_accumulates(nn.Conv2d(5, 8, 2), torch.zeros(1, 5, 4, 4)) == 3 * 3 * 8 * 5 * 2 * 2


def test_attention_that_torch_fuses_in_evaluation_mode_is_counted() -> None:
    """Four projections, the scores and the sums of 7 tokens of size 8, then a hidden layer of 16. Fused, they would count 0."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    fused = torch.backends.mha.get_fastpath_enabled()
    assert multiply_accumulates(layer, torch.zeros(1, 7, 8)) == 7 * (4 * 8 * 8 + 2 * 7 * 8 + 2 * 8 * 16)
    assert torch.backends.mha.get_fastpath_enabled() == fused


class Products(nn.Module):
    """A linear layer, and something else that multiplies."""

    def __init__(self, function: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.function = function

    def forward(self, rows: Tensor) -> object:
        return self.function(self.layer(rows))


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.parametrize(
    "function",
    [
        nn.LSTM(4, 3),
        lambda rows: torch.cdist(rows, rows),
        lambda rows: torch.cdist(rows, rows, p=1),
        lambda rows: rows @ rows[0],
        lambda rows: rows[0] @ rows[0],
        lambda rows: torch.linalg.inv(rows.T @ rows + torch.eye(4)),
        lambda rows: deform_conv2d(rows.view(1, 1, 3, 4), torch.zeros(1, 8, 2, 3), torch.ones(1, 1, 2, 2)),
        lambda rows: Linear(4, 3)(rows),
    ],
    ids=["lstm", "cdist", "cdist-l1", "mv", "dot", "inverse", "torchvision", "quantized"],
)
def test_products_without_a_formula_are_not_zero(function: Callable[[Tensor], Tensor]) -> None:
    """Their number is not available, though torch counts the rest."""
    assert multiply_accumulates(Products(function), torch.rand(3, 4)) is None


@pytest.mark.parametrize(
    ("function", "operations"),
    [
        (nn.GRU(4, 2), 3 * (6 * 4 + 6 * 2)),
        (lambda rows: functional.normalize(rows).softmax(1).cumsum(0).sort().values, 0),
        (lambda rows: torch.linalg.vector_norm(rows, dim=1) + functional.layer_norm(rows, [4]).amax(1), 0),
        (lambda rows: torch.einsum("ni,nj->ij", rows, rows), 3 * 4 * 4),
    ],
    ids=["gru", "elementwise", "norms", "einsum"],
)
def test_what_has_a_formula_or_no_product_is_counted(function: Callable[[Tensor], Tensor], operations: int) -> None:
    """By hand; a GRU is two products for its three gates in each step."""
    assert multiply_accumulates(Products(function), torch.rand(3, 4)) == 3 * 4 * 4 + operations


def test_torchs_compiler_is_not_loaded() -> None:
    """It would take as long as the rest of a start."""
    code = (
        "import sys, torch; from robustbench_cli.attacks.base.models.operations import multiply_accumulates;"
        "multiply_accumulates(torch.nn.Linear(2, 3), torch.zeros(1, 2)); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]

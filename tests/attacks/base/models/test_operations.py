from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer, resnet18

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
    images = torch.zeros(1, *shape)
    # With gradients, torch does not fuse attention to an operation that it does not count.
    with FlopCounterMode(display=False) as counter:
        model.eval()(images)
    assert 2 * multiply_accumulates(model, images) == counter.get_total_flops() > 0


def test_a_convolution_is_counted_as_by_hand() -> None:
    """Each of 3 x 3 outputs in 8 channels is a sum over 2 x 2 pixels in 5 channels."""
    assert multiply_accumulates(nn.Conv2d(5, 8, 2), torch.zeros(1, 5, 4, 4)) == 3 * 3 * 8 * 5 * 2 * 2


def test_attention_that_torch_fuses_in_evaluation_mode_is_counted() -> None:
    """Four projections, the scores and the sums of 7 tokens of size 8, then a hidden layer of 16. Fused, they would count 0."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    fused = torch.backends.mha.get_fastpath_enabled()
    assert multiply_accumulates(layer, torch.zeros(1, 7, 8)) == 7 * (4 * 8 * 8 + 2 * 7 * 8 + 2 * 8 * 16)
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_torchs_compiler_is_not_loaded() -> None:
    """It would take as long as the rest of a start."""
    code = (
        "import sys, torch; from robustbench_cli.attacks.base.models.operations import multiply_accumulates;"
        "multiply_accumulates(torch.nn.Linear(2, 3), torch.zeros(1, 2)); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]

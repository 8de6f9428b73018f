from __future__ import annotations

from typing import Any

import pytest
import torch

from robustbench_cli.attacks.base.models.precision import full_float32


def switches() -> list[Any]:
    cudnn: Any = torch.backends.cudnn
    return [cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision]


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("products", [False, True])
def test_a_gpu_computes_in_full_float32_for_a_while(convolutions: bool, products: bool) -> None:
    """Inside, TF32 is off; afterwards both of torch's interfaces show what the caller had set, errors or not."""
    cuda = torch.device("cuda")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
        chosen = switches()
        with pytest.raises(KeyError), full_float32(cuda):
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            raise KeyError
        assert switches() == chosen
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (convolutions, products)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_nothing_changes_on_a_cpu() -> None:
    """The switches stay as they are."""
    before = switches()
    with full_float32(torch.device("cpu")):
        assert switches() == before

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from robustbench_cli.attacks.base.models.precision import full_float32, gradient_precision

CUDA = torch.device("cuda")
CONTEXTS: dict[str, tuple[Callable[[torch.device], AbstractContextManager[None]], str]] = {
    "judging": (full_float32, "ieee"),
    "float32": (lambda device: gradient_precision("float32", device), "ieee"),
    "tf32": (lambda device: gradient_precision("tf32", device), "tf32"),
    "bf16": (lambda device: gradient_precision("bf16", device), "tf32"),
}


def switches() -> list[Any]:
    cudnn: Any = torch.backends.cudnn
    return [cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision]


def older() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The precisions of the process are what they were after each test."""
    before, generic = older(), torch.backends.fp32_precision
    yield
    torch.backends.fp32_precision = generic
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("products", [False, True])
def test_a_gpu_computes_in_another_precision_for_a_while(name: str, convolutions: bool, products: bool) -> None:
    """Inside, all products have it; afterwards both of torch's interfaces show what the caller had set, errors or not."""
    context, precision = CONTEXTS[name]
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
    chosen = switches()
    with pytest.raises(KeyError), context(CUDA):
        assert switches() == [precision] * 3
        assert older() == (precision == "tf32",) * 2
        raise KeyError
    assert switches() == chosen
    assert older() == (convolutions, products)


def test_judging_inside_of_a_gradient_is_in_full_float32() -> None:
    """The contexts nest in any order, and each restores the one around it."""
    with gradient_precision("tf32", CUDA):
        with full_float32(CUDA), full_float32(CUDA):
            assert switches() == ["ieee"] * 3
            with gradient_precision("tf32", CUDA):
                assert switches() == ["tf32"] * 3
            assert switches() == ["ieee"] * 3
        assert switches() == ["tf32"] * 3


def test_a_user_who_set_one_precision_for_everything_is_judged_in_full_float32() -> None:
    """With it, torch's older switches alone would leave convolutions in TF32."""
    torch.backends.fp32_precision = "tf32"
    chosen = switches()
    assert chosen[:2] == ["tf32"] * 2
    with full_float32(CUDA):
        assert switches() == ["ieee"] * 3
        assert older() == (False, False)
    assert switches() == chosen


def test_backends_that_differ_come_back() -> None:
    """A caller may have set convolutions and recurrent layers one by one."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    chosen = switches()
    with gradient_precision("tf32", CUDA):
        assert switches() == ["tf32"] * 3
    assert switches() == chosen


@pytest.mark.parametrize("name", CONTEXTS)
def test_nothing_changes_on_a_cpu(name: str) -> None:
    """The switches stay as they are."""
    before = switches()
    with CONTEXTS[name][0](torch.device("cpu")):
        assert switches() == before

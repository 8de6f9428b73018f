"""Counts the operations of a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustbench_cli.attacks.base.models.freezing import frozen

__all__ = ["multiply_accumulates"]


@torch.no_grad()
def multiply_accumulates(model: nn.Module, images: Tensor) -> int:
    """The multiply-accumulate operations of a forward pass in its convolutions, matrix products and attention.

    They are half of the floating-point operations that torch's ``FlopCounterMode`` counts. Activations, norms and pooling
    count nothing, as in the literature.

    Args:
        model: The model. It runs once, in evaluation mode.
        images: ``(N, ...)``, what it takes.

    Example:
        >>> multiply_accumulates(nn.Linear(6, 4), torch.zeros(1, 6))
        24
    """
    # In evaluation mode torch fuses a whole attention layer to one operation without a formula.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with frozen(model), _Counter() as counter:
            model(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.operations) // 2


class _Counter(TorchDispatchMode):
    """Adds up torch's formulas, as its ``FlopCounterMode`` does, which loads torch's compiler."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    # Otherwise torch wraps __torch_dispatch__, for which it loads its compiler.
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            # A composite operation is counted by its parts.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        return result

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
def multiply_accumulates(model: nn.Module, images: Tensor) -> int | None:
    """The multiply-accumulate operations of a forward pass in its convolutions, matrix products and attention.

    They are half of the floating-point operations that torch's ``FlopCounterMode`` counts. Activations, norms and pooling
    count nothing, as in the literature.

    Args:
        model: The model. It runs once, in evaluation mode.
        images: ``(N, ...)``, what it takes.

    Returns:
        Their number, or ``None`` if the pass has products for which torch has no formula, such as those of an LSTM, of
        distances or of quantized layers.

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
    return None if counter.has_unknown else int(counter.operations) // 2


_KNOWN_LIBRARIES = {"aten", "prim", "prims"}
"""The libraries of operations that count nothing, except those below. Others, such as quantized, may have any products."""

_WITHOUT_FORMULA = {
    *("mv", "addmv", "dot", "vdot", "addr", "addbmm", "_trilinear", "_addmm_activation", "_int_mm"),
    *("_euclidean_dist", "_cdist_forward", "_pdist_forward"),
    *("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"),
    *("quantized_lstm", "quantized_gru", "quantized_lstm_cell", "quantized_gru_cell"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "mkldnn_convolution", "mkldnn_linear"),
    *("_sparse_addmm", "_sparse_sparse_matmul", "sspaddmm", "_fft_r2c", "_fft_c2r", "_fft_c2c"),
    *(
        "linalg_inv_ex",
        "linalg_matrix_exp",
        "linalg_lu",
        "linalg_lu_factor_ex",
        "linalg_lu_solve",
        "linalg_cholesky_ex",
    ),
    *(
        "linalg_qr",
        "_linalg_svd",
        "_linalg_eigh",
        "_linalg_det",
        "_linalg_slogdet",
        "_linalg_solve_ex",
        "cholesky_solve",
    ),
    *("linalg_eig", "linalg_lstsq", "linalg_solve_triangular", "linalg_householder_product", "cholesky_inverse"),
}
"""torch's operations that are products, or consist of them, and have no formula."""


class _Counter(TorchDispatchMode):
    """Adds up torch's formulas, as its ``FlopCounterMode`` does, which loads torch's compiler."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.has_unknown = False

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
        elif func.namespace not in _KNOWN_LIBRARIES or func.overloadpacket.__name__.rstrip("_") in _WITHOUT_FORMULA:
            self.has_unknown = True
        return result

"""An ensemble of models: the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError

__all__ = ["MeanLogits"]


class MeanLogits(nn.Module):
    """The mean of the logits of several models.

    Source: Liu, Chen, Liu, Song: Delving into Transferable Adversarial Examples and Black-box Attacks. ICLR 2017, arXiv 1611.02770,
    who fuse probabilities; Dong et al., CVPR 2018, arXiv 1710.06081, section 3.4, fuse logits.

    Args:
        models: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, each with the same K.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        logits = [model(images) for model in self.models]
        if len({output.shape for output in logits}) > 1:
            classes = " and ".join(str(output.shape[-1]) for output in logits)
            raise UserError(f"the surrogates have {classes} classes: give surrogates with the same classes")
        return torch.stack(logits).mean(0)

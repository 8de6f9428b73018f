"""A small vision transformer for small images."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from robustbench_cli.core.errors import UserError

__all__ = ["ViTSmallCifar"]

_PATCH, _WIDTH, _DEPTH, _HEADS = 4, 384, 12, 6


class ViTSmallCifar(nn.Module):
    """ViT-S (Dosovitskiy et al., ICLR 2021; Touvron et al., ICML 2021) with patches of 4 x 4 pixels: 21.3 M parameters.

    12 blocks of width 384 with 6 heads and a class token, as Mo et al. (NeurIPS 2022, arXiv 2210.07540) train adversarially
    on CIFAR-10. The weights have timm's names.

    Args:
        shape: ``(C, H, W)``, H and W multiples of 4.
        classes: K.

    Raises:
        UserError: H or W is not a multiple of 4.
    """

    def __init__(self, *, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if height % _PATCH or width % _PATCH:
            raise UserError(
                f"vit-small-cifar takes images with sides of a multiple of {_PATCH}, not {height}x{width}: "
                "use resnet18-cifar"
            )
        self.cls_token = nn.Parameter(torch.empty(1, 1, _WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + height // _PATCH * (width // _PATCH), _WIDTH))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(channels, _WIDTH, _PATCH, stride=_PATCH)))
        self.blocks = nn.Sequential(*(_Block() for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.head = nn.Linear(_WIDTH, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` → logits ``(N, K)``."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


class _Block(nn.Module):
    """Attention and a perceptron with a hidden layer, each after a layer normalization and with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.attn = _Attention()
        self.norm2 = nn.LayerNorm(_WIDTH, eps=1e-6)
        hidden = 4 * _WIDTH
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(_WIDTH, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, _WIDTH))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class _Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.qkv(tokens).unflatten(-1, (3, _HEADS, _WIDTH // _HEADS)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(heads[0], heads[1], heads[2])
        result: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return result

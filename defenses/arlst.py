"""Adversarial training of Kronecker-structured fully connected layers."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.kronecker import TOLERANCE, KroneckerLinear, Shapes, factor_shapes
from robustbench_cli.defenses.base.surgery.plain_layers import plain_layers
from robustbench_cli.defenses.base.surgery.replacing import replace_layers
from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.gradients import label_loss

__all__ = ["ARLST", "ill_conditioning", "log_sparsity"]


class ARLST(AdversarialTraining):
    """Separable structured transformations (ARLST): fully connected layers become Kronecker products, trained by PGD.

    The weights of each layer become ``A kron B``, so a vector is transformed as a tensor, by ``A X B^T``. The shapes of
    the factors follow from ``compression``. The loss is the cross-entropy on PGD images plus ``sparsity`` times
    :func:`log_sparsity` and ``conditioning`` times :func:`ill_conditioning`, both as a mean over all factors. A network
    that is trained already gives the factors their first weights::

        advdef train --defense pgd-at --defense arlst --set arlst.compression=10 -o arlst.safetensors

    In the style of the paper, whose full text was not at hand, only its abstract: penalties and shapes are our choices.
    Convolutions stay, and so do the matrices inside torch's attention modules and layers with random weights. The paper keeps
    maps as tensors. Here the layers get them flattened, with the last axis fastest, and split them again, not always
    between two axes.

    With one product, the condition number of a layer is the product of those of its factors, so ``conditioning`` lowers
    it. With more ``terms`` it need not. Weights become small, and none exactly 0. More terms cost more
    multiplications, possibly more than the full matrix: see the column ``macs``.
    """

    paper: ClassVar[str] = (
        "Xian Wei, Yanhui Huang, Yangyu Xu, Mingsong Chen, Hai Lan, Yuanxiang Li, Zhongfeng Wang, Xuan Tang: Learning Robust and "
        "Lightweight Model through Separable Structured Transformations. 2021, arXiv 2112.13551"
    )
    family: ClassVar[str] = "compression"

    compression: float = Field(
        4, ge=1, description="how many times fewer weights the fully connected layers have together; 10 in the paper"
    )
    factors: int = Field(2, ge=2, le=3, description="number of matrices in a Kronecker product")
    terms: int = Field(1, ge=1, description="number of products whose sum is a layer; 1 in the paper")
    sparsity: float = Field(0.01, ge=0, description="weight of the penalty on the size of the factors' weights")
    conditioning: float = Field(0.1, ge=0, description="weight of the penalty on the factors' condition numbers")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        protected = copy.deepcopy(model)
        layers = plain_layers(protected, nn.Linear)
        if not layers:
            raise UserError(
                f"arlst factorizes fully connected layers without random weights, and {type(model).__name__} has none"
            )
        shapes = {layer: self._shapes(path, layer) for path, layer in layers.items()}
        changed = replace_layers(protected, layers, lambda layer: KroneckerLinear(layer, shapes[layer], self.terms))
        self._require_budget(changed, sum(layer.weight.numel() for layer in shapes))
        return changed

    def _shapes(self, path: str, layer: nn.Linear) -> Shapes:
        """The shapes of a layer's factors."""
        name = f"the layer {path}" if path else "the layer"
        if not layer.weight.is_meta and not layer.weight.any():
            raise UserError(
                f"arlst cannot factorize {name}: all its weights are 0, and products of zeros never change; train or "
                "initialize it"
            )
        try:
            return factor_shapes(
                *layer.weight.shape, factors=self.factors, terms=self.terms, compression=self.compression
            )
        except UserError as error:
            raise UserError(f"arlst cannot factorize {name}: {error}") from None

    def _require_budget(self, model: nn.Module, dense: int) -> None:
        """Checks that the layers have as few weights as required."""
        count = sum(factor.numel() for factor in _factors(model))
        if count * self.compression > (1 + TOLERANCE) * dense:
            raise UserError(
                f"arlst.compression={self.compression:g} is out of reach: the fully connected layers have {dense} weights, and "
                f"{count} with {self.terms} x {self.factors} factors each; give at most {int(10 * dense / count) / 10:g}"
            )

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return super().loss(network, images, labels) + self.penalty(network)

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return label_loss(forward(perturbed), labels)

    def penalty(self, network: nn.Module) -> Tensor:
        """The weighted penalties on the factors of a network ``()``.

        Args:
            network: The network in training.
        """
        sparsity, conditioning = (
            torch.cat([penalty(factor) for factor in _factors(network)]).mean()
            for penalty in (log_sparsity, ill_conditioning)
        )
        return self.sparsity * sparsity + self.conditioning * conditioning


def _factors(network: nn.Module) -> list[Tensor]:
    """The factors ``(R, m_i, n_i)`` of all layers."""
    return [factor for layer in network.modules() if isinstance(layer, KroneckerLinear) for factor in layer.factors]


def log_sparsity(matrices: Tensor) -> Tensor:
    """The mean of ``log(1 + a^2)`` over the elements of each matrix, which presses small ones harder than large ones.

    Args:
        matrices: ``(R, m, n)``.

    Returns:
        ``(R,)``.

    >>> log_sparsity(torch.zeros(1, 2, 3)).item()
    0.0
    """
    return matrices.square().log1p().mean((1, 2))


def ill_conditioning(matrices: Tensor) -> Tensor:
    """How far each matrix is from having equal singular values: ``log(mean s^2) - mean(log s^2)``.

    It depends on the ratios of the singular values alone, is 0 if all are equal, and has a gradient everywhere. For that,
    ``1e-6 mean s^2`` is added to each ``s^2``.

    Args:
        matrices: ``(R, m, n)``.

    Returns:
        ``(R,)``, at least 0.

    >>> round(ill_conditioning(torch.diag(torch.tensor([1.0, 2.0]))[None]).item(), 4)  # log((1 + 4) / 2) - log(4) / 2
    0.2231
    """
    with torch.autocast(matrices.device.type, enabled=False):
        wide = matrices.float()
        gram = wide @ wide.mT if wide.shape[1] < wide.shape[2] else wide.mT @ wide
        mean = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(gram.dtype).eps)
        relative = gram / mean[:, None, None] + 1e-6 * torch.eye(gram.shape[1], device=gram.device)
        return math.log1p(1e-6) - relative.logdet() / gram.shape[1]

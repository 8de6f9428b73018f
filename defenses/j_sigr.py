"""J-SIGR: a penalty on the Jacobian, and on the input gradient where the image does not matter."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.second_derivatives import require_second_derivative, twice_differentiable
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.stochastic import normal_like
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["JSIGR", "patch_saliency", "squared_jacobian_norm"]


class JSIGR(Defense):
    """J-SIGR: clean training with penalties on the Jacobian and on the input gradient of unimportant patches.

    The loss is ``CE + jacobian_weight ||J||^2 + gradient_weight ||m * dCE/dx||^2``, a mean over the images. J is the
    Jacobian of the logits. The mask m has the unimportant patches of an image. The saliency of a patch is half the squared
    change of the probabilities when the patch is blurred; unimportant is below ``threshold`` times the largest saliency of
    the image. So the gradient concentrates on the important patches and becomes a readable saliency map. There is no attack
    in training.

    The paper's text was not at hand, so this is in the style of its abstract: the estimate of the Jacobian's norm is Hoffman
    et al.'s, the mask follows the selective penalty of Xing et al. (arXiv 2205.08685), and weights, grid and threshold are
    chosen on digits. The paper claims robustness to transferred attacks and readable saliency maps.

    Measured on 200 digits at linf 0.15 (small-cnn, one seed; ``advdef attack --defense j-sigr --suite standard --eps 0.15
    --n 200``), clean, PGD and ``standard``: 96.0, 53.0 and 43.0 %. The undefended network has 97.5, 5.0 and 4.0 %, and
    ``pgd-at`` 95.5, 65.5 and 64.0 %. So the penalties give real robustness, and less than adversarial training. PGD on the
    cross-entropy overestimates it: judge it by the margin. Images from PGD on the undefended network leave 70.5 %.
    """

    paper: ClassVar[str] = (
        "Liu, Wu, Li, Boussaid, Bennamoun, Xie, Liang: Jacobian Norm with Selective Input Gradient Regularization for "
        "Interpretable Adversarial Defense. Pattern Recognition 145, 2024, arXiv 2207.13036"
    )
    family: ClassVar[str] = "other-training"

    jacobian_weight: float = Field(0.01, ge=0, description="weight of the squared Frobenius norm of the Jacobian")
    projections: int = Field(1, ge=1, description="random projections that estimate this norm, each a backward pass")
    gradient_weight: float = Field(0.1, ge=0, description="weight of the squared norm of the masked input gradient")
    grid: int = Field(4, ge=1, description="the mask has grid x grid patches, each of which takes a forward pass")
    threshold: float = Field(
        0.2, ge=0, le=1, description="saliency of important patches, relative to the most important patch of the image"
    )

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        require_second_derivative(model, trainer.batch(trainer.train_indices[:1])[0])
        trainer.fit(model, name="training", loss=self.loss)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.gradients.TrainingLoss`.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``, or probabilities ``(B, K)``.
        """
        leaf = images.detach().clone().requires_grad_()
        with twice_differentiable():
            # A network may write into its input.
            logits = network(leaf.clone())
        loss = label_loss(logits, labels)
        penalty = self.jacobian_weight * squared_jacobian_norm(logits, leaf, self.projections)
        if self.gradient_weight:
            # The loss is a mean over the images. This is the gradient of each image's own.
            (gradient,) = torch.autograd.grad(len(images) * loss, leaf, create_graph=True)
            saliency = patch_saliency(network, images, self.grid)
            unimportant = saliency < self.threshold * saliency.amax((1, 2), keepdim=True)
            penalty = penalty + self.gradient_weight * (gradient * unimportant[:, None]).flatten(1).square().sum(1)
        return loss + penalty.mean()


def squared_jacobian_norm(logits: Tensor, leaf: Tensor, projections: int) -> Tensor:
    """An unbiased estimate of the squared Frobenius norm of the Jacobian, with a graph.

    It is the mean of ``K ||J^T v||^2`` over random unit vectors v. Source: Hoffman, Roberts, Yaida: Robust Learning with
    Jacobian Regularization. arXiv 1908.02729.

    Args:
        logits: ``(B, K)``, with a graph.
        leaf: The images ``(B, C, H, W)`` that the logits come from, each row from its own image.
        projections: The number of random vectors.

    Returns:
        ``(B,)``.
    """
    estimates = []
    for _ in range(projections):
        vectors = functional.normalize(normal_like(logits), dim=1)
        (projected,) = torch.autograd.grad(logits, leaf, vectors, create_graph=True)
        estimates.append(logits.shape[1] * projected.flatten(1).square().sum(1))
    return torch.stack(estimates).mean(0)


@torch.no_grad()
def patch_saliency(network: nn.Module, images: Tensor, grid: int) -> Tensor:
    """How much the blur of each patch changes a network's probabilities: ``1/2 ||p(x) - p(x with a blurred patch)||^2``.

    The blur is the mean over a window of about twice the side of a patch. Source: Greydanus, Koul, Dodge, Fern: Visualizing
    and Understanding Atari Agents. ICML 2018, arXiv 1711.00138, with patches in the place of Gaussian masks.

    Args:
        network: Images to logits. It passes the images in ``eval()`` mode.
        images: ``(B, C, H, W)`` in [0, 1].
        grid: The number of patches along each side.

    Returns:
        ``(B, H, W)``, constant within a patch.
    """
    height, width = images.shape[2:]
    reach = (-(-height // grid), -(-width // grid))
    blurred = functional.avg_pool2d(
        images, (2 * reach[0] + 1, 2 * reach[1] + 1), 1, padding=reach, count_include_pad=False
    )
    rows, columns = (torch.arange(side, device=images.device) * grid // side for side in (height, width))
    patches = rows[:, None] * grid + columns
    saliency = images.new_zeros(len(images), height, width)
    with frozen(network):
        probabilities = network(images.clone()).float().softmax(1)
        for patch in patches.unique():
            changed = network(torch.where(patches == patch, blurred, images)).float().softmax(1)
            score = (changed - probabilities).square().sum(1) / 2
            saliency += score[:, None, None] * (patches == patch)
    return saliency

"""Second-order adversarial examples by Krylov subspaces."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.hessian import HessianProducts
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.krylov import check_dimension, krylov_step
from robustbench_cli.attacks.base.threat import Threat, project

__all__ = ["SecondOrder"]


class SecondOrder(FixedRadiusAttack):
    """Second-order steps: each maximizes the quadratic model of the cross-entropy in a small Krylov subspace.

    In the style of the paper, whose full text was not at hand: its abstract names the Krylov subspace
    ``span{g, H g, ..., H^(m-1) g}`` of the gradient g and the Hessian H, and combinations of Hessian-vector products found by
    GMRES. Here the combination is that of a trust region: the maximum of ``g^T d + d^T H d / 2`` over ``d`` in the subspace
    with ``|d|_2 = r``, by Lanczos with full re-orthogonalization and the eigendecomposition of the m x m matrix. In linf the step
    leads to the corner of the cube that is nearest to the maximum on the sphere through all corners. With ``dimension=1`` and
    ``steps=1`` the attack is ``fgsm``. The steps start at the image, their radius falls linearly from eps, and each iterate is
    projected. The result is the iterate with the smallest expected margin.

    A step costs m + 2 forward and backward passes (2 m + 1 where the draws of a randomized model are a sample). A ReLU network
    has curvature by the softmax alone, so two or three dimensions exhaust it.
    """

    paper: ClassVar[str] = (
        "Qian, Wang, Wang, Gu, Guo, Swaileh: Hessian-Free Second-Order Adversarial Examples for Adversarial Learning. "
        "arXiv 2207.01396; Qian, Zhang, Wang, Ji, Yao, Wang: Developing Hessian-Free Second-Order Adversarial Examples for "
        "Adversarial Training. AMCS 34(3), 2024"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    steps: int = Field(10, ge=1, description="number of steps; the paper's examples take one")
    dimension: int = Field(
        3, ge=1, description="dimension m of the Krylov subspace, at most the number of pixels times channels"
    )

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        check_dimension(self.dimension, images)
        best = BestIterates(source, images, labels, threat)
        loss = _log_likelihood if threat.targeted else cross_entropy
        iterates = images
        for step in range(self.steps):
            logits, gradient = source.gradient(iterates, labels, loss)
            unbroken = best.offer(iterates, logits)
            if unbroken is not None:
                if not len(unbroken):
                    return best.images
                images, labels, threat = images[unbroken], labels[unbroken], threat.select(unbroken)
                iterates, gradient = iterates[unbroken], gradient[unbroken]
            move = krylov_step(
                gradient,
                HessianProducts(source, iterates, labels, loss),
                dimension=self.dimension,
                norm=threat.norm,
                sizes=threat.eps * (1 - step / self.steps),
            )
            iterates = project(iterates + move, images, threat)
        best.offer(iterates, source.logits(iterates))
        return best.images


def _log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss that a targeted attack maximizes."""
    return -cross_entropy(logits, labels)

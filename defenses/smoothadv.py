"""SmoothAdv: randomized smoothing, trained on images that attack the smoothed model."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.threat import Threat, project, steepest_ascent
from robustbench_cli.defenses.base.decision_rules import log_mean_softmax
from robustbench_cli.defenses.base.stochastic import normal_like
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing, base_classifier

__all__ = ["SmoothAdv"]


class SmoothAdv(RandomizedSmoothing):
    """SmoothAdv: randomized smoothing, trained on images that attack the smoothed model.

    Each image gets ``noises`` draws of noise. An l2 attack on the logarithm of their mean softmax moves the image, and
    the cross-entropy is taken at the moved image with these same draws. The noise is not cut to [0, 1], the moved image
    is. A radius that grows over the first epochs, as in the authors' code, is left out.

    Radius and noise are in l2, where no radius is usual for a data set. The literature takes a sigma of 0.25, 0.5 or 1
    for MNIST, CIFAR-10 and ImageNet alike.
    """

    paper: ClassVar[str] = (
        "Hadi Salman, Greg Yang, Jerry Li, Pengchuan Zhang, Huan Zhang, Ilya Razenshteyn, Sebastien Bubeck, Provably Robust "
        "Deep Learning via Adversarially Trained Smoothed Classifiers, NeurIPS 2019, arXiv 1906.04584"
    )

    eps: float | None = Field(
        None,
        gt=0,
        description="radius in l2 of the attack; sigma where not given: the paper has 64/255 and more, from sigmas of 0.12 on",
    )
    steps: int = Field(4, ge=1, description="steps of the attack, each of twice the radius over their number")
    noises: int = Field(2, ge=1, description="draws of noise of each image; a step costs as many times as much")

    @property
    def radius(self) -> float:
        """Of the attack, in l2."""
        return self.sigma if self.eps is None else self.eps

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training", loss=self.loss)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy over images ``(B, C, H, W)`` with labels ``(B,)`` and their draws of noise."""
        classifier, noise = base_classifier(network), self.sigma * normal_like(self._repeated(images))
        perturbed = self.perturb(classifier, images, labels, noise)
        return functional.cross_entropy(classifier(self._repeated(perturbed) + noise), labels.repeat(self.noises))

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """The images ``(B, C, H, W)`` that the attack arrives at, inside the ball and the box, without a graph.

        Args:
            classifier: In training; it is in ``eval()`` mode meanwhile.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
            noise: ``(noises * B, C, H, W)``, the images' first draws first.
        """
        threat = Threat(norm="l2", eps=torch.full((len(images),), self.radius, device=images.device))
        iterates = images
        with frozen(classifier):
            for _ in range(self.steps):
                leaf = iterates.detach().requires_grad_()
                logits = classifier(self._repeated(leaf) + noise).unflatten(0, (self.noises, -1))
                loss = functional.nll_loss(log_mean_softmax(logits), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, leaf)
                step = steepest_ascent(gradient, "l2")
                moved = torch.add(leaf.detach(), step, alpha=2 * self.radius / self.steps)
                iterates = project(moved, images, threat)
        return iterates.detach()

    def _repeated(self, images: Tensor) -> Tensor:
        return images.repeat(self.noises, 1, 1, 1)

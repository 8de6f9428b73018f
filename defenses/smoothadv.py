"""SmoothAdv: randomized smoothing with adversarial training of the smoothed model."""

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
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing, base_classifier

__all__ = ["SmoothAdv"]


class SmoothAdv(RandomizedSmoothing):
    """SmoothAdv: randomized smoothing, trained on adversarial images of the smoothed model.

    Each image gets ``noise_samples`` draws of noise. PGD in l2 attacks the logarithm of their mean softmax. The loss is
    the cross-entropy at the perturbed image with the same draws. The perturbed image is clipped to [0, 1] before the noise
    is added. The authors' code lets the radius grow during the first epochs; here it is constant.

    Radius and noise are in l2, where data sets have no usual radius. The literature uses a sigma of 0.25, 0.5 or 1 for
    MNIST, CIFAR-10 and ImageNet.
    """

    paper: ClassVar[str] = (
        "Hadi Salman, Greg Yang, Jerry Li, Pengchuan Zhang, Huan Zhang, Ilya Razenshteyn, Sebastien Bubeck, Provably Robust "
        "Deep Learning via Adversarially Trained Smoothed Classifiers, NeurIPS 2019, arXiv 1906.04584"
    )
    family: ClassVar[str] = "certified"

    eps: float | None = Field(
        None,
        gt=0,
        description="radius in l2 of the attack; default: sigma; the paper uses 64/255 and more, with sigmas of 0.12 and more",
    )
    steps: int = Field(4, ge=1, description="number of steps of the attack; the step size is 2 eps / steps")
    noise_samples: int = Field(
        2,
        ge=1,
        description="draws of noise per image; the cost of a step is proportional to it",
        json_schema_extra={"formerly": "noises"},
    )

    @property
    def radius(self) -> float:
        """The attack's radius in l2."""
        return self.sigma if self.eps is None else self.eps

    @property
    def takes_mixed_labels(self) -> bool:
        return False

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training", loss=self.loss)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of a training step, over the images and their draws of noise.

        Args:
            network: The randomized network.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        classifier, noise = base_classifier(network), self.sigma * normal_like(self._repeat(images))
        perturbed = self.perturb(classifier, images, labels, noise)
        return label_loss(classifier(self._repeat(perturbed) + noise), labels.repeat(self.noise_samples))

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """PGD in l2 on the smoothed classifier.

        Args:
            classifier: The base classifier. It is in ``eval()`` mode during the attack.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
            noise: ``(noise_samples * B, C, H, W)``: the first draw of all images, then the second, and so on.

        Returns:
            The perturbed images ``(B, C, H, W)``, inside the ball and the box, detached from the graph.
        """
        threat = Threat(norm="l2", eps=torch.full((len(images),), self.radius, device=images.device))
        iterates = images
        with frozen(classifier):
            for _ in range(self.steps):
                leaf = iterates.detach().requires_grad_()
                logits = classifier(self._repeat(leaf) + noise).unflatten(0, (self.noise_samples, -1))
                loss = functional.nll_loss(log_mean_softmax(logits), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, leaf)
                step = steepest_ascent(gradient, "l2")
                moved = torch.add(leaf.detach(), step, alpha=2 * self.radius / self.steps)
                iterates = project(moved, images, threat)
        return iterates.detach()

    def _repeat(self, images: Tensor) -> Tensor:
        return images.repeat(self.noise_samples, 1, 1, 1)

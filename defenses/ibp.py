"""Certified training by interval bound propagation (IBP)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.surgery.interval_bounds import require_boundable, worst_logits
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["IBP"]


class IBP(Defense):
    """Interval bound propagation: trains a network whose logit bounds certify it; see ``advdef certify``.

    The loss is ``kappa CE(Z, y) + (1 - kappa) CE(Z', y)``, where Z' are the worst-case logits within the radius according
    to interval arithmetic. During training the radius rises linearly from 0, and the weight of the clean loss falls
    linearly from 1 to ``kappa``. The certificate is deterministic, in linf. The network must be sequential: fully
    connected layers, convolutions, ReLU, pooling. A training radius slightly above the certified radius certifies more
    images. With a large radius and few epochs the network learns nothing.
    """

    paper: ClassVar[str] = (
        "Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli: On the Effectiveness of Interval Bound "
        "Propagation for Training Verifiably Robust Models. 2018, arXiv 1810.12715"
    )
    family: ClassVar[str] = "certified"
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        ge=0,
        le=1,
        description="radius in linf at the end of the training; default: the data set's usual radius, 8/255 for CIFAR-10",
    )
    kappa: float = Field(0.5, ge=0, le=1, description="weight of the clean loss at the end of the training")
    warm_up: float = Field(0.1, ge=0, le=1, description="fraction of the training before the radius rises")
    ramp: float = Field(0.5, ge=0, le=1, description="fraction of the training during which the radius rises to eps")

    @property
    def radius(self) -> float:
        """The radius in linf at the end of the training."""
        return self.resolved("eps")

    @property
    def takes_mixed_labels(self) -> bool:
        return False

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        require_boundable(model)
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            ramp = self.ramp_fraction(trainer.fraction_done)
            clean = functional.cross_entropy(network(images), labels)
            if not ramp:
                return clean
            with torch.autocast(images.device.type, enabled=False):
                worst = functional.cross_entropy(worst_logits(network, images, labels, ramp * self.radius), labels)
            kappa = 1 - ramp * (1 - self.kappa)
            return kappa * clean + (1 - kappa) * worst

        trainer.fit(model, name="training", loss=loss, eps=self.radius)

    def ramp_fraction(self, done: float) -> float:
        """How far the radius and the loss weights have moved from their initial to their final values, in [0, 1].

        Args:
            done: The fraction of the training that is done.
        """
        if done < self.warm_up:
            return 0.0
        return min(1.0, (done - self.warm_up) / self.ramp) if self.ramp else 1.0

"""Training by interval bound propagation."""

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
    """Interval bound propagation: trains a network so that bounds of its logits certify it; see ``advdef certify``.

    The loss is ``kappa CE(Z, y) + (1 - kappa) CE(Z', y)``, where Z' are the worst logits that interval arithmetic
    allows within the radius. In the course of the training the radius rises along a line from 0, and the weight of the
    first part falls along one from 1 to ``kappa``. The certificate is a deterministic one in linf. For networks of one
    layer after the other: fully connected, convolutions, ReLU, pooling. A radius somewhat larger than the one to be
    certified certifies more; with too few epochs a large one leaves nothing but guessing.
    """

    paper: ClassVar[str] = (
        "Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli: On the Effectiveness of Interval Bound "
        "Propagation for Training Verifiably Robust Models. 2018, arXiv 1810.12715"
    )
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        ge=0,
        le=1,
        description="radius in linf that is trained for; the data set's usual one where not given, 8/255 for CIFAR-10",
    )
    kappa: float = Field(0.5, ge=0, le=1, description="weight of the clean loss at the end")
    warm_up: float = Field(0.1, ge=0, le=1, description="share of the training before the radius begins to rise")
    ramp: float = Field(0.5, ge=0, le=1, description="share of the training in which the radius rises to its full size")

    @property
    def radius(self) -> float:
        """That is trained for at the end, in linf."""
        return self.resolved("eps")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        require_boundable(model)
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            risen = self.ramp_fraction(trainer.fraction_done)
            clean = functional.cross_entropy(network(images), labels)
            if not risen:
                return clean
            with torch.autocast(images.device.type, enabled=False):
                worst = functional.cross_entropy(worst_logits(network, images, labels, risen * self.radius), labels)
            kappa = 1 - risen * (1 - self.kappa)
            return kappa * clean + (1 - kappa) * worst

        trainer.fit(model, name="training", loss=loss, eps=self.radius)

    def ramp_fraction(self, done: float) -> float:
        """The share of the full radius, and of the change of the weights, when the share ``done`` of it is done."""
        if done < self.warm_up:
            return 0.0
        return min(1.0, (done - self.warm_up) / self.ramp) if self.ramp else 1.0

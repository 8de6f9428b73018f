"""The images and the two trained models that the attacks are compared on."""

from __future__ import annotations

import copy
import sys
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples
from robustbench_cli.benchmarks.prepare import Preparation
from robustbench_cli.benchmarks.subject import Subject, method_spec
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training import Trainer

__all__ = ["DATASET", "NoisyFGSM", "test_images", "trained"]

DATASET = "fashion-mnist"


class NoisyFGSM(Defense):
    """Adversarial training by one signed gradient step from strong noise, at twice the cost of ordinary training.

    Its networks stand against PGD whatever the step size. Without clipping and with noise beyond the radius, it is spared
    the sudden collapse of FGSM training, after which an attack's result depends on its steps more than on the model.
    """

    paper: ClassVar[str] = (
        "de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania: Make Some Noise: Reliable and Efficient Single-Step "
        "Adversarial Training. NeurIPS 2022, arXiv 2202.01181"
    )
    trained: ClassVar[bool] = True

    eps: float = Field(0.1, gt=0, description="length of the step in linf; the noise is uniform in twice that")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="adversarial training", loss=self._loss)

    def _loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        noisy = (images + torch.empty_like(images).uniform_(-2 * self.eps, 2 * self.eps)).requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(noisy), labels), noisy)
        return functional.cross_entropy(network(noisy.detach() + self.eps * gradient.sign()), labels)


def test_images(n: int) -> Slice:
    """The first ``n`` test images of Fashion-MNIST."""
    return first_examples(load_dataset(DATASET).split("test"), n)


def trained() -> dict[str, Subject]:
    """The paper's network, trained plainly and adversarially; trained once and kept in the user's cache folder."""
    prepare = Preparation(
        dataset=DATASET,
        data_dir=None,
        device=torch.device("cpu"),
        seed=0,
        recipe={"epochs": 3},
        begin=lambda label, path: print(f"training {label}, once: {path}", file=sys.stderr),
        progress=lambda at: print(f"{at.name}: epoch {at.epoch} of {at.epochs}, {at.seconds:.0f} s", file=sys.stderr),
    )
    _, adversarial = method_spec(defenses, f"{__name__}:{NoisyFGSM.__name__}", {})
    return {
        "plain": prepare.trained(prepare.training()),
        "adversarially trained": prepare.trained(prepare.training(defenses=(adversarial,))),
    }

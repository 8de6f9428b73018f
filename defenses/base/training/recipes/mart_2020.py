"""The recipe of Wang et al. (ICLR 2020)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Mart2020"]

_CODE = "train_resnet.py"


class Mart2020(NamedRecipe):
    """MART on ResNet-18, with a low learning rate and a high weight decay."""

    paper: ClassVar[str] = (
        "Wang, Zou, Yi, Bailey, Ma, Gu: Improving Adversarial Robustness Requires Revisiting Misclassified Examples. ICLR 2020"
    )
    code: ClassVar[str] = f"github.com/YisenWang/MART, {_CODE} and mart.py"
    defenses: ClassVar = ("mart",)
    datasets: ClassVar = ("cifar10",)
    values: ClassVar = {
        "model": ("resnet18-cifar", f"{_CODE}: ResNet18()"),
        "train.epochs": (120, f"{_CODE}: --epochs"),
        "train.batch_size": (128, f"{_CODE}: --batch-size"),
        "train.optimizer": ("sgd", f"{_CODE}: optim.SGD"),
        "train.lr": (0.01, f"{_CODE}: --lr"),
        "train.momentum": (0.9, f"{_CODE}: --momentum"),
        "train.nesterov": (False, f"{_CODE}: optim.SGD without nesterov"),
        "train.weight_decay": (3.5e-3, f"{_CODE}: --weight-decay"),
        "train.decayed": ("all", f"{_CODE}: optim.SGD(model.parameters())"),
        "train.schedule": ("multistep", f"{_CODE}: adjust_learning_rate"),
        "train.milestones": (
            (74 / 120, 89 / 120, 99 / 120),
            f"{_CODE}: adjust_learning_rate, from epochs 75, 90 and 100 of 1 to 120",
        ),
        "train.augmentations": ("crop,flip", f"{_CODE}: RandomCrop(32, padding=4), RandomHorizontalFlip()"),
        "defense.beta": (5.0, f"{_CODE}: --beta"),
        "defense.eps": (0.031, f"{_CODE}: --epsilon"),
        "defense.steps": (10, f"{_CODE}: --num-steps"),
        "defense.step_size": (0.007, f"{_CODE}: --step-size"),
        "defense.attack_mode": ("eval", "mart.py: model.eval()"),
    }
    departures: ClassVar = ("the authors add constants inside logarithms; here these are computed by log-sum-exp",)

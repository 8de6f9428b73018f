"""The recipe of Zhang et al. (ICML 2019)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Trades2019"]

_CIFAR = "train_trades_cifar10.py"
_MNIST = "train_trades_mnist.py"


class Trades2019(NamedRecipe):
    """TRADES on WRN-34-10, which ends two epochs after the first decay of the learning rate."""

    paper: ClassVar[str] = (
        "Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically Principled Trade-off between Robustness and Accuracy. "
        "ICML 2019, arXiv 1901.08573"
    )
    code: ClassVar[str] = f"github.com/yaodongyu/TRADES, {_CIFAR} and {_MNIST}"
    defenses: ClassVar = ("trades",)
    datasets: ClassVar = ("cifar10", "mnist")
    values: ClassVar = {
        "model": ("wrn-34-10", f"{_CIFAR}: WideResNet()"),
        "train.epochs": (76, f"{_CIFAR}: --epochs"),
        "train.batch_size": (128, f"{_CIFAR}: --batch-size"),
        "train.optimizer": ("sgd", f"{_CIFAR}: optim.SGD"),
        "train.lr": (0.1, f"{_CIFAR}: --lr"),
        "train.momentum": (0.9, f"{_CIFAR}: --momentum"),
        "train.nesterov": (False, f"{_CIFAR}: optim.SGD without nesterov"),
        "train.weight_decay": (2e-4, f"{_CIFAR}: --weight-decay"),
        "train.decayed": ("all", f"{_CIFAR}: optim.SGD(model.parameters())"),
        "train.schedule": ("multistep", f"{_CIFAR}: adjust_learning_rate"),
        "train.milestones": ((74 / 76,), f"{_CIFAR}: adjust_learning_rate, from epoch 75 of 1 to 76"),
        "train.augmentations": ("crop,flip", f"{_CIFAR}: RandomCrop(32, padding=4), RandomHorizontalFlip()"),
        "defense.beta": (6.0, f"{_CIFAR}: --beta"),
        "defense.eps": (0.031, f"{_CIFAR}: --epsilon"),
        "defense.steps": (10, f"{_CIFAR}: --num-steps"),
        "defense.step_size": (0.007, f"{_CIFAR}: --step-size"),
        "defense.attack_mode": ("eval", "trades.py: model.eval()"),
    }
    for_dataset: ClassVar = {
        "mnist": {
            "model": (None, ""),
            "train.epochs": (100, f"{_MNIST}: --epochs"),
            "train.lr": (0.01, f"{_MNIST}: --lr"),
            "train.weight_decay": (0.0, f"{_MNIST}: optim.SGD without weight_decay"),
            "train.milestones": (
                (54 / 100, 74 / 100, 89 / 100),
                f"{_MNIST}: adjust_learning_rate, from epochs 55, 75, 90",
            ),
            "train.augmentations": ("none", f"{_MNIST}: ToTensor() only"),
            "defense.beta": (1.0, f"{_MNIST}: --beta"),
            "defense.eps": (0.3, f"{_MNIST}: --epsilon"),
            "defense.steps": (40, f"{_MNIST}: --num-steps"),
            "defense.step_size": (0.01, f"{_MNIST}: --step-size"),
        }
    }
    departures: ClassVar = ("on MNIST the authors train a network of four convolutions, which is not among the models",)

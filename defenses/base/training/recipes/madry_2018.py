"""The recipe of Madry et al. (ICLR 2018)."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["Madry2018"]

_CONFIG = "cifar10_challenge, config.json"
_MODEL = "cifar10_challenge, model.py"


class Madry2018(NamedRecipe):
    """PGD adversarial training of a wide residual network in 80,000 steps; on MNIST in 100,000 steps of Adam."""

    paper: ClassVar[str] = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks. "
        "ICLR 2018, arXiv 1706.06083"
    )
    code: ClassVar[str] = "github.com/MadryLab/cifar10_challenge and github.com/MadryLab/mnist_challenge"
    defenses: ClassVar = ("pgd-at",)
    datasets: ClassVar = ("cifar10", "mnist")
    values: ClassVar = {
        "model": ("wrn-34-10", f"{_MODEL}: three groups of five residual units, 160, 320 and 640 channels"),
        "train.epochs": (205, f"{_CONFIG}: max_num_training_steps 80,000 of training_batch_size 128 (204.8 epochs)"),
        "train.batch_size": (128, f"{_CONFIG}: training_batch_size"),
        "train.optimizer": ("sgd", "cifar10_challenge, train.py: MomentumOptimizer"),
        "train.lr": (0.1, f"{_CONFIG}: step_size_schedule"),
        "train.momentum": (0.9, f"{_CONFIG}: momentum"),
        "train.nesterov": (False, "cifar10_challenge, train.py: MomentumOptimizer(learning_rate, momentum)"),
        "train.weight_decay": (2e-4, f"{_CONFIG}: weight_decay"),
        "train.decayed": ("weights", f"{_MODEL}: _decay sums the kernels, named DW"),
        "train.schedule": ("multistep", "cifar10_challenge, train.py: piecewise_constant"),
        "train.milestones": ((40 / 80, 60 / 80), f"{_CONFIG}: step_size_schedule, after 40,000 and 60,000 steps"),
        "train.augmentations": ("crop,flip", "cifar10_challenge, train.py: AugmentedCIFAR10Data"),
        "defense.eps": (8 / 255, f"{_CONFIG}: epsilon"),
        "defense.steps": (7, "paper, section 5: 7 steps of size 2; config.json, num_steps, has 10"),
        "defense.step_size": (2 / 255, f"{_CONFIG}: step_size"),
        "defense.attack_mode": ("train", "cifar10_challenge, train.py: the attack gets Model(mode='train')"),
    }
    for_dataset: ClassVar = {
        "mnist": {
            "model": (None, ""),
            "train.epochs": (83, "mnist_challenge, config.json: 100,000 steps of 50 images"),
            "train.batch_size": (50, "mnist_challenge, config.json: training_batch_size"),
            "train.optimizer": ("adam", "mnist_challenge, train.py: AdamOptimizer(1e-4)"),
            "train.lr": (1e-4, "mnist_challenge, train.py: AdamOptimizer(1e-4)"),
            "train.momentum": (None, ""),
            "train.nesterov": (None, ""),
            "train.weight_decay": (0.0, "mnist_challenge, train.py: the loss is model.xent"),
            "train.decayed": (None, ""),
            "train.schedule": ("constant", "mnist_challenge, train.py"),
            "train.milestones": (None, ""),
            "train.augmentations": ("none", "mnist_challenge, train.py"),
            "defense.eps": (0.3, "mnist_challenge, config.json: epsilon"),
            "defense.steps": (40, "mnist_challenge, config.json: k"),
            "defense.step_size": (0.01, "mnist_challenge, config.json: a"),
            "defense.attack_mode": (None, ""),
        }
    }
    departures: ClassVar = (
        "the authors' network standardizes each image, has leaky ReLUs (0.1), and shortcuts without weights",
        "their steps take random batches; here an epoch takes each image once",
        "on MNIST they train a network of two convolutions and 1,024 units, which is not among the models",
    )
